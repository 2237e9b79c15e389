# SPDX-License-Identifier: Apache-2.0
"""Action l is due at start + l * 0.05 s; a chunk gets one start or one reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from par_ros.control.action_schedule import (
    ActionSchedule,
    GuardSettings,
    PlacedChunk,
    ScheduleRefusal,
)

MS = 1_000_000
NOW = 5_000 * MS
SPLICE = 30 * MS


def kind(placed: PlacedChunk | ScheduleRefusal) -> str:
    return placed.kind if isinstance(placed, ScheduleRefusal) else "placed"


def test_on_arrival_all_actions_run_from_now() -> None:
    """From the end of the splice, where a chunk takes over, 30 ms from now."""
    placed = ActionSchedule(GuardSettings()).place(NOW - 60 * MS, NOW, NOW + SPLICE)
    assert placed == PlacedChunk(NOW + SPLICE, 0)


def test_from_the_observation_what_is_due_is_dropped() -> None:
    """80 ms old, 30 ms until it takes over, 20 ms to go ahead: actions 1 and 2 are due."""
    schedule = ActionSchedule(GuardSettings(chunk_start="observation"))
    placed = schedule.place(NOW - 80 * MS, NOW, NOW + SPLICE)
    assert placed == PlacedChunk(NOW - 80 * MS, 2)


@pytest.mark.parametrize(
    ("splice_ms", "start_ms"), [(10, 0), (30, 0), (31, 50), (80, 50), (81, 100)]
)
def test_at_the_control_step_all_actions_run_from_the_step_at_hand(
    splice_ms: int, start_ms: int
) -> None:
    """Or from a later one, where the first action would be due within 20 ms of the splice's end."""
    schedule = ActionSchedule(GuardSettings(chunk_start="control_step"))
    placed = schedule.place(NOW - 50 * MS, NOW, NOW + splice_ms * MS)
    assert placed == PlacedChunk(NOW + start_ms * MS, 0)


def test_a_chunk_wholly_due_is_late() -> None:
    schedule = ActionSchedule(GuardSettings(chunk_start="observation"))
    assert kind(schedule.place(NOW - 350 * MS, NOW, NOW + SPLICE)) == "late"


def test_in_lockstep_the_stamp_is_the_start_whatever_the_clock_says() -> None:
    schedule = ActionSchedule(GuardSettings(lockstep=True))
    assert schedule.place(NOW + 900 * MS, NOW, NOW) == PlacedChunk(NOW + 900 * MS, 0)


@pytest.mark.parametrize(
    ("age_ms", "expected"),
    [(0, "placed"), (400, "placed"), (401, "late"), (-10, "placed"), (-11, "future")],
)
def test_age_limits(age_ms: int, expected: str) -> None:
    schedule = ActionSchedule(GuardSettings())
    assert kind(schedule.place(NOW - age_ms * MS, NOW, NOW + SPLICE)) == expected


def test_a_stamp_counts_once_and_must_increase() -> None:
    schedule = ActionSchedule(GuardSettings())
    assert kind(schedule.place(NOW, NOW, NOW + SPLICE)) == "placed"
    assert kind(schedule.place(NOW, NOW, NOW + SPLICE)) == "duplicate"
    assert kind(schedule.place(NOW - MS, NOW, NOW + SPLICE)) == "reordered"
    assert kind(schedule.place(NOW + MS, NOW, NOW + SPLICE)) == "placed"
    schedule.reset()
    assert kind(schedule.place(NOW - MS, NOW, NOW + SPLICE)) == "placed"


@given(
    st.lists(st.tuples(st.integers(-600, 600), st.integers(0, 300)), max_size=30),
    st.sampled_from(["arrival", "observation", "control_step"]),
)
def test_placed_stamps_increase_and_actions_sent_lie_ahead(
    steps: list[tuple[int, int]], chunk_start: str
) -> None:
    schedule = ActionSchedule(GuardSettings(chunk_start=chunk_start))  # type: ignore[arg-type]
    now_ns, last_placed_ns = NOW, None
    for age_ms, passed_ms in steps:
        now_ns += passed_ms * MS
        stamp_ns = now_ns - age_ms * MS
        placed = schedule.place(stamp_ns, now_ns, now_ns + SPLICE)
        if isinstance(placed, ScheduleRefusal):
            assert placed.reason.endswith(".")
            continue
        assert last_placed_ns is None or stamp_ns > last_placed_ns
        assert -10 <= age_ms <= 400
        first_due_ns = placed.start_ns + (placed.first_action + 1) * 50 * MS
        assert first_due_ns >= now_ns + SPLICE + (0 if chunk_start == "arrival" else 20 * MS)
        assert 0 <= placed.first_action < 8
        last_placed_ns = stamp_ns
