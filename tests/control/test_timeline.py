# SPDX-License-Identifier: Apache-2.0
"""One timeline: the steady clock on an arm, the ROS clock in simulation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from par_ros.control.timeline import Moment, Timeline

S = 1_000_000_000
MS = 1_000_000


def ticked(timeline: Timeline, num: int, offset_ns: int = 900 * S) -> Moment:
    """`num` looks 20 ms apart, both clocks at the same speed; the last."""
    moment = Moment(0, 0)
    for number in range(num):
        moment = Moment(offset_ns + number * 20 * MS, number * 20 * MS)
        assert timeline.advance(moment) is None
    return moment


@given(st.integers(-10 * S, 10 * S))
def test_every_divergence_over_two_milliseconds_is_a_step(step_ns: int) -> None:
    timeline = Timeline(simulated=False)
    last = ticked(timeline, 50)
    step = timeline.advance(Moment(last.ros_ns + 20 * MS + step_ns, last.steady_ns + 20 * MS))
    assert (step is not None) == (abs(step_ns) > 2 * MS)
    if step is not None:
        assert step.step_s == pytest.approx(step_ns / S, abs=1e-6)


def test_a_step_is_noticed_after_a_smaller_one_to_the_other_side() -> None:
    """-1.997 ms, too small, is followed within 2 s; +2.568 ms comes before."""
    timeline = Timeline(simulated=False)
    last = ticked(timeline, 50)
    offset_ns = last.offset_ns - 1_997_000
    for number in range(1, 70):
        steady_ns = last.steady_ns + number * 20 * MS
        assert timeline.advance(Moment(offset_ns + steady_ns, steady_ns)) is None
    steady_ns += 20 * MS
    step = timeline.advance(Moment(offset_ns + 2_568_000 + steady_ns, steady_ns))
    assert step is not None
    assert step.step_s == pytest.approx(2.568e-3)


@given(st.integers(-2 * MS, 2 * MS), st.integers(0, 10 * S))
def test_a_stamp_is_what_the_clocks_say_now(step_ns: int, ahead_ns: int) -> None:
    """A step that is not noticed is in the next stamp."""
    timeline = Timeline(simulated=False)
    last = ticked(timeline, 50)
    moment = Moment(last.ros_ns + 20 * MS + step_ns, last.steady_ns + 20 * MS)
    timeline.advance(moment)
    stamp_ns = timeline.stamp_ns(moment.steady_ns + ahead_ns, moment)
    assert stamp_ns == moment.ros_ns + ahead_ns
    assert timeline.of_stamp(stamp_ns, moment) == moment.steady_ns + ahead_ns


def test_a_simulated_clock_may_be_slow_stand_still_and_come_in_lumps() -> None:
    timeline = Timeline(simulated=True)
    ros_ns = S
    for number in range(100):
        moment = Moment(ros_ns, number * 20 * MS)
        assert timeline.advance(moment) is None
        assert timeline.time_ns(moment) == timeline.stamp_ns(ros_ns, moment) == ros_ns
        ros_ns += 50 * MS if number % 10 == 0 else 0


@pytest.mark.parametrize("step_ns", [-1, -S, 300 * MS])
def test_a_simulated_clock_that_goes_back_or_jumps_has_stepped(step_ns: int) -> None:
    timeline = Timeline(simulated=True)
    timeline.advance(Moment(10 * S, 0))
    assert timeline.advance(Moment(10 * S + step_ns, 20 * MS)) is not None
