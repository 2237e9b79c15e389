# SPDX-License-Identifier: Apache-2.0
"""Times of the live view: the first stamp is 0 s, whatever came before it."""

from par_ros.view_times import ViewTimes

S = 1_000_000_000
FIRST_NS = 1_790_000_000 * S


def test_events_before_the_first_stamp_are_kept_and_have_its_time() -> None:
    times = ViewTimes()
    times.add_event(("INFO", "guard disengaged"))
    assert times.take_events() == []
    # A simulation whose clock has not begun.
    assert times.since_start_s(0) == 0.0
    assert times.take_events() == []
    assert times.since_start_s(FIRST_NS) == 0.0
    assert times.take_events() == [(0.0, ("INFO", "guard disengaged"))]
    assert times.take_events() == []
    assert times.since_start_s(FIRST_NS + 2 * S) == 2.0


def test_an_event_has_the_time_of_the_newest_joint_state_or_else_of_the_last_stamp() -> None:
    """The camera runs before the arm."""
    times = ViewTimes()
    times.note(FIRST_NS)
    times.note(FIRST_NS + 2 * S)
    times.add_event(("WARN", "no joint states"))
    assert times.take_events() == [(2.0, ("WARN", "no joint states"))]
    times.note_joints(FIRST_NS + 5 * S)
    times.note_joints(FIRST_NS + 4 * S)
    times.note(FIRST_NS + 9 * S)
    times.add_event(("INFO", "guard engaged"))
    assert times.take_events() == [(5.0, ("INFO", "guard engaged"))]


def test_a_message_without_a_stamp_is_shown_at_the_last_one() -> None:
    times = ViewTimes()
    times.note(FIRST_NS)
    times.note(FIRST_NS + 3 * S)
    assert times.since_start_s(0) == 3.0
