# SPDX-License-Identifier: Apache-2.0
"""The rules of docs/reference/recorded_data.md, against their plainest form.

Times are small integers of nanoseconds; a step is 10 of them where plans have one.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from par_ros.dataset.resampling import (
    HeldTargets,
    Intervals,
    PlannedTargets,
    Series,
    interpolated,
    newest_before,
    series,
    step_times,
)
from par_ros.dataset.streams import Span, spans_of
from par_ros.wire_records import EpisodeMark

TIMES = st.integers(0, 60)
PAIRS = st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=6)


def stretches(pairs: list[list[int]]) -> Intervals:
    begins, ends = np.array(pairs, np.int64).reshape(-1, 2).T
    return Intervals(begins, ends)


@given(PAIRS, PAIRS, TIMES, st.integers(0, 10))
def test_stretches_hold_what_every_moment_of_them_holds(
    one: list[list[int]], other: list[list[int]], begin: int, length: int
) -> None:
    """In half nanoseconds: between two whole ones lies a moment."""
    moments = [begin + half / 2 for half in range(2 * length + 1)]

    def covers(pairs: list[list[int]], moment: float) -> bool:
        return any(first <= moment <= last for first, last in pairs)

    at, to = np.array([begin]), np.array([begin + length])
    held = stretches(one).hold(at, to)[0]
    assert held == all(covers(one, moment) for moment in moments)
    both = stretches(one).within(stretches(other)).hold(at, to)[0]
    if length:
        assert both == all(covers(one, m) and covers(other, m) for m in moments)


@given(st.lists(st.tuples(TIMES, st.booleans(), st.integers(1, 9)), min_size=1, max_size=12), TIMES)
def test_a_command_holds_until_the_joint_s_next(
    commands: list[tuple[int, bool, int]], at: int
) -> None:
    """Two joints, each commanded by messages of its own."""
    commands = sorted(commands, key=lambda row: row[0])
    rows = [np.array([v, np.nan] if first else [np.nan, v], float) for _, first, v in commands]
    newest: list[float | None] = [None, None]
    begin_ns = None
    for time_ns, first, value in commands:
        if time_ns <= at:
            newest[0 if first else 1] = value
        if begin_ns is None and {f for t, f, _ in commands if t <= time_ns} == {True, False}:
            begin_ns = time_ns
    if begin_ns is None:
        with pytest.raises(ValueError, match="never came for all joints"):
            HeldTargets([row[0] for row in commands], rows, "commands")
        return
    held = HeldTargets([row[0] for row in commands], rows, "commands")
    assert held.begin_ns == begin_ns
    if at >= begin_ns:
        assert held.at(np.array([at]))[0].tolist() == newest


def plan(begin_ns: int, *values: float) -> Series:
    times_ns = begin_ns + 10 * np.arange(1, len(values) + 1)
    return Series(times_ns, np.array(values)[:, None])


def test_a_later_plan_replaces_an_earlier_one_and_silence_holds() -> None:
    """Knots 1, 2, 3; from 15 on 7, 8; then nothing until 100; then from 5 on."""
    planned = PlannedTargets([plan(0, 1.0, 2.0, 3.0), plan(15, 7.0, 8.0), plan(100, 5.0)], 10, "")
    at = planned.at(np.array([10, 25, 35, 60, 100, 105, 110, 200]))[:, 0]
    np.testing.assert_allclose(at, [1.0, 7.0, 8.0, 8.0, 8.0, 6.5, 5.0, 5.0])
    assert planned.begin_ns == 0


def test_gaps_are_refused_with_their_place() -> None:
    known = Series(np.array([0, 10, 50]), np.array([[0.0], [1.0], [5.0]]))
    at = np.array([5, 10])
    np.testing.assert_allclose(interpolated(known, at, 20, "x")[:, 0], [0.5, 1.0])
    np.testing.assert_array_equal(newest_before(known.times_ns, at, 20, "x"), [0, 1])
    for outside in ([30], [60], [-1]):
        with pytest.raises(ValueError, match="no x for more than"):
            interpolated(known, np.array(outside), 20, "x")
    with pytest.raises(ValueError, match="no x for more than"):
        newest_before(known.times_ns, np.array([40]), 20, "x")


def test_messages_that_overtook_each_other_are_put_in_order() -> None:
    known = series([0, 20, 10, 20], [np.array([float(i)]) for i in range(4)], "x")
    assert known.times_ns.tolist() == [0, 10, 20]
    assert known.values[:, 0].tolist() == [0.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="nothing was recorded of x"):
        series([], [], "x")


@given(st.integers(0, 10**10), st.integers(1, 200))
def test_steps_are_even_and_within(length_ns: int, rate_hz: int) -> None:
    times_ns = step_times(10**18, 10**18 + length_ns, rate_hz)
    assert times_ns[0] == 10**18
    assert times_ns[-1] <= 10**18 + length_ns < times_ns[-1] + 10**9 // rate_hz + 1
    assert np.ptp(np.diff(times_ns)) <= 1 if len(times_ns) > 2 else True


def test_marks_make_episodes() -> None:
    """An end without a start is nothing; a second start ends the first episode."""
    marks = [
        EpisodeMark(1, False, True), EpisodeMark(2, True, False), EpisodeMark(5, True, False),
        EpisodeMark(7, False, True), EpisodeMark(9, True, False),
    ]  # fmt: skip
    assert spans_of(marks, 20) == (
        Span(2, 5, success=False, is_open=True),
        Span(5, 7, success=True),
        Span(9, 20, success=False, is_open=True),
    )
