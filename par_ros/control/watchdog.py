# SPDX-License-Identifier: Apache-2.0
"""Deadlines on the steady clock: a stopped or stepped node clock must not stop what watches."""

from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.control.timeline import Moment


def steady_s(moment: Moment) -> float:
    """The steady clock in seconds."""
    return moment.steady_ns / NANOSECONDS


class Watchdog:
    """Named deadlines. A name that was never fed, or was stopped, does not expire."""

    def __init__(self) -> None:
        self._deadlines_s: dict[str, float] = {}

    def feed(self, name: str, monotonic_s: float, timeout_s: float) -> None:
        """Expect the next feed of `name` within `timeout_s` of `monotonic_s`."""
        self._deadlines_s[name] = monotonic_s + timeout_s

    def stop(self, name: str) -> None:
        """Expect nothing of `name` any more."""
        self._deadlines_s.pop(name, None)

    def expired(self, name: str, monotonic_s: float) -> bool:
        """True once the deadline of `name` has passed."""
        return monotonic_s > self._deadlines_s.get(name, float("inf"))
