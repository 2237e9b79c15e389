# SPDX-License-Identifier: Apache-2.0
"""Reports of 8 actions of 0.05 s in an episode that starts at 1 s; one joint and the gripper."""

import numpy as np

from par_model.evaluation.limit_shares import MotionLimits
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_motion import asked_shares, motion_of, seam_steps

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
