# SPDX-License-Identifier: Apache-2.0
"""Deadlines run on monotonic seconds; the timeline takes clock steps out."""

from par_ros.control.watchdog import SteadyTimeline, Watchdog

S = 1_000_000_000


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


def test_a_regular_clock_is_the_timeline() -> None:
    timeline = SteadyTimeline()
    for tick in range(100):
        time_ns, step = timeline.update(7 * S + tick * S // 50, tick / 50)
        assert step is None
        assert time_ns == 7 * S + tick * S // 50


def test_a_step_back_and_a_step_forward_are_taken_out_and_told() -> None:
    timeline = SteadyTimeline()
    timeline.update(100 * S, 0.0)
    time_ns, step = timeline.update(95 * S, 0.02)
    assert step is not None
    assert abs(step.step_s + 5.02) < 1e-9
    assert time_ns == 100 * S + S // 50
    time_ns, step = timeline.update(1_000 * S, 0.04)
    assert step is not None
    assert step.step_s > 900
    assert time_ns == 100 * S + S // 25
    assert timeline.update(1_000 * S + S // 50, 0.06)[1] is None


def test_a_stopped_clock_stops_the_timeline_and_is_no_step() -> None:
    timeline = SteadyTimeline()
    timeline.update(100 * S, 0.0)
    time_ns, step = timeline.update(100 * S, 30.0)
    assert step is None
    assert time_ns == 100 * S
