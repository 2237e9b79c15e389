# SPDX-License-Identifier: Apache-2.0
"""Reports of 8 actions of 0.05 s in an episode that starts at 1 s; one joint and the gripper."""

import numpy as np

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_motion import motion_of, seam_steps

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
    (seam,) = motion_of(targets, 0.05, (10,))["seams"]
    assert abs(seam["jump_rad"] - 0.02) < 1e-12
