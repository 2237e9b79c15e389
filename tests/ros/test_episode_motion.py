# SPDX-License-Identifier: Apache-2.0
"""Reports of 8 actions of 0.05 s in an episode whose steps count from 1 s on; one joint and the
gripper."""

import numpy as np

from par_model.evaluation.limit_shares import MotionLimits
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_motion import asked_shares, guard_changes, motion_of, seam_steps
from par_ros.run_results import GuardChange

START_NS = 1_000_000_000
STEP_NS = 50_000_000
NAMES = ("a", "gripper")


def report(first: int, values: np.ndarray) -> JointTrajectory:
    rows = np.column_stack((values, np.full(len(values), 0.04)))
    return JointTrajectory(NAMES, 0.05 * np.arange(first, first + len(values)), rows)


def test_sequential_chunks_take_over_at_their_first_action() -> None:
    """Chunks that start 2 steps after their picture."""
    reports = {
        START_NS: report(3, np.arange(8.0)),
        START_NS + 10 * STEP_NS: report(3, np.arange(8.0, 16.0)),
    }
    assert seam_steps(reports, START_NS, 0.05) == (13,)


def test_an_overlapped_chunk_takes_over_where_it_changes_something() -> None:
    """A picture 8 steps after the first; the first 4 actions are the running ones."""
    first = np.arange(1.0, 19.0)
    second = np.arange(9.0, 27.0)
    second[4:] += 0.5
    reports = {START_NS: report(1, first), START_NS + 8 * STEP_NS: report(1, second)}
    assert seam_steps(reports, START_NS, 0.05) == (13,)
    same = {START_NS: report(1, first), START_NS + 8 * STEP_NS: report(1, first[8:])}
    assert seam_steps(same, START_NS, 0.05) == ()


def test_a_seam_is_where_the_motion_has_it() -> None:
    """The target of step 10 is the first that jumps."""
    targets = np.column_stack((0.05 * np.arange(20.0), np.zeros(20)))
    targets[9:, 0] += 0.02
    (seam,) = motion_of(targets, 0.05, (10,)).seams
    assert abs(seam.jump_rad - 0.02) < 1e-12


# 0.1 rad a step and step: 40 rad/s^2.
LIMITS = MotionLimits(np.array([40.0]), np.array([1e6]))


def chunk(values: np.ndarray) -> JointTrajectory:
    return report(1, values)


def test_a_sequential_chunk_is_judged_as_asked_from_where_the_arm_stood() -> None:
    """It begins at step 3; the guard had slowed it down, which is not looked at."""
    asked = {START_NS: chunk(0.1 * np.arange(1.0, 9.0))}
    reports = {START_NS: report(3, np.zeros(8))}
    applied = np.zeros((10, 2))
    (found,) = asked_shares(asked, reports, (), applied, START_NS, LIMITS)
    assert abs(found.acceleration - 1.0) < 1e-9
    assert asked_shares(asked, reports, (), applied[:2], START_NS, LIMITS) == ()


def test_an_overlapped_chunk_is_judged_from_where_it_takes_over() -> None:
    """Pictures 8 steps apart at 0.01 rad a step. The second chunk says otherwise of its first 4
    actions, which are not followed, and is 0.2 rad further (80 rad/s^2) from the fifth on. The
    first one begins from rest (4 rad/s^2)."""
    first = 0.01 * np.arange(1.0, 19.0)
    second = 0.01 * np.arange(9.0, 27.0)
    second[4:] += 0.2
    followed = second.copy()
    second[:4] -= 1.0
    tail = np.full(3, followed[-1])
    stamps = START_NS, START_NS + 8 * STEP_NS
    asked = {stamps[0]: chunk(first), stamps[1]: chunk(second)}
    reports = {
        stamps[0]: report(1, np.concatenate((first, np.full(3, first[-1])))),
        stamps[1]: report(1, np.concatenate((followed, tail))),
    }
    applied = np.column_stack((np.concatenate((first[:8], followed)), np.full(26, 0.04)))
    found = asked_shares(asked, reports, (), applied, START_NS, LIMITS)
    np.testing.assert_allclose([one.acceleration for one in found], [0.1, 2.0], atol=1e-9)


def test_a_held_chunk_is_judged_from_the_hold_on() -> None:
    """Its picture is of step 0, it was held after 4 steps: the 5th action is 0.5 rad away from
    where the arm stands."""
    asked = {START_NS: chunk(0.1 * np.arange(1.0, 19.0))}
    reports = {START_NS: report(5, np.zeros(19))}
    applied = np.zeros((30, 2))
    (found,) = asked_shares(asked, reports, (START_NS,), applied, START_NS, LIMITS)
    assert abs(found.acceleration - 5.0) < 1e-9


def test_a_chunk_that_took_over_before_the_first_step_is_judged_from_that_step_on() -> None:
    """The picture is of 4 steps before steps are counted; 4 actions are never followed."""
    values = np.concatenate((np.full(4, 9.0), 0.1 * np.arange(1.0, 15.0)))
    asked = {START_NS - 4 * STEP_NS: chunk(values)}
    told = np.concatenate((np.full(4, 0.1), values[4:], np.full(3, values[-1])))
    reports = {START_NS - 4 * STEP_NS: report(1, told)}
    applied = np.column_stack((values[4:], np.full(14, 0.04)))
    (found,) = asked_shares(asked, reports, (), applied, START_NS, LIMITS)
    assert abs(found.acceleration - 1.0) < 1e-9


def test_a_changed_number_has_the_step_at_which_it_was_sent() -> None:
    """A picture of step 0, a chunk that begins at step 3 and ends with the episode; action 2 and
    what lies behind the episode's end were changed."""
    sent = np.arange(8.0)
    sent[[1, 7]] += 0.5
    asked, reports = {START_NS: chunk(np.arange(8.0))}, {START_NS: report(3, sent)}
    assert guard_changes(asked, reports, (), 9, START_NS) == (GuardChange(4, "a", 1.0, 1.5),)


def test_actions_that_were_due_before_a_chunk_took_over_were_not_changed() -> None:
    """Overlapped: pictures 8 steps apart; of the second chunk the first 4 actions are those of the
    one before, and the sixth was changed."""
    first, second = np.arange(1.0, 19.0), np.arange(9.0, 27.0)
    second[4:] += 0.5
    sent = np.concatenate((second, np.full(3, second[-1])))
    sent[5] += 0.25
    second[:4] -= 1.0
    stamps = START_NS, START_NS + 8 * STEP_NS
    asked = {stamps[0]: chunk(first), stamps[1]: chunk(second)}
    reports = {
        stamps[0]: report(1, np.concatenate((first, np.full(3, first[-1])))),
        stamps[1]: report(1, sent),
    }
    (found,) = guard_changes(asked, reports, (), 26, START_NS)
    assert found == GuardChange(14, "a", second[5], second[5] + 0.25)


def test_the_report_of_a_hold_begins_in_the_middle_of_its_chunk() -> None:
    """Overlapped: held before the fifth action, where the arm was at 4 and slowed down."""
    asked = {START_NS: chunk(np.arange(1.0, 9.0))}
    reports = {START_NS: report(5, np.array([4.0, 4.5, 4.75, *[4.875] * 6]))}
    found = guard_changes(asked, reports, (START_NS,), 8, START_NS)
    assert [(one.step, one.asked, one.sent) for one in found] == [
        (5, 5.0, 4.0), (6, 6.0, 4.5), (7, 7.0, 4.75), (8, 8.0, 4.875)
    ]  # fmt: skip
