# SPDX-License-Identifier: Apache-2.0
"""Deadlines run on seconds of the steady clock."""

from par_ros.control.watchdog import Watchdog


def test_a_deadline_expires_once_time_has_passed_and_not_before() -> None:
    dog = Watchdog()
    assert not dog.expired("chunk", 1e9)
    dog.feed("chunk", 10.0, 0.5)
    assert not dog.expired("chunk", 10.5)
    assert dog.expired("chunk", 10.51)
    dog.feed("chunk", 10.6, 0.5)
    assert not dog.expired("chunk", 11.0)
    dog.stop("chunk")
    assert not dog.expired("chunk", 99.0)
