# SPDX-License-Identifier: Apache-2.0
"""joint_trajectory_controller's replacement rule, in the numbers of 20 Hz control."""

import numpy as np
import pytest

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.trajectory_follower import TrajectoryFollower

MS = 1_000_000
SECOND = 1_000_000_000


def line(to: float, times_s: tuple[float, ...] = (0.05, 0.1)) -> JointTrajectory:
    """Positions only, evenly up to `to`."""
    times = np.array(times_s)
    positions = np.linspace(0.0, to, len(times) + 1)[1:, None]
    return JointTrajectory(("a",), times, positions)


def follower() -> TrajectoryFollower:
    arm = TrajectoryFollower(("a",), np.zeros(1))
    arm.sample(SECOND)
    return arm


def test_it_stands_until_a_trajectory_comes() -> None:
    arm = TrajectoryFollower(("a",), np.array([0.7]))
    assert arm.sample(3 * SECOND).positions[0] == 0.7


def test_stamp_zero_starts_at_pick_up_and_meets_each_knot_at_its_time() -> None:
    arm = follower()
    arm.follow(line(1.0), 0, SECOND)
    arm.pick_up(SECOND)
    assert arm.sample(SECOND + 50 * MS).positions[0] == 0.5
    assert arm.sample(SECOND + 100 * MS).positions[0] == 1.0
    assert arm.sample(2 * SECOND).positions[0] == 1.0


def test_a_stamp_fixes_the_start() -> None:
    arm = follower()
    arm.follow(line(1.0), SECOND, SECOND + 20 * MS)
    assert arm.sample(SECOND + 50 * MS).positions[0] == 0.5


def test_a_new_trajectory_starts_from_the_last_command() -> None:
    arm = follower()
    arm.follow(line(1.0), 0, SECOND)
    arm.sample(SECOND)
    arm.sample(SECOND + 50 * MS)
    arm.follow(line(-1.0, (0.05, 0.1)), 0, SECOND + 50 * MS)
    # From 0.5 at pick-up to -0.5 at the first knot: half way is 0.
    arm.pick_up(SECOND + 50 * MS)
    assert arm.sample(SECOND + 75 * MS).positions[0] == pytest.approx(0.0)


def test_points_already_past_are_skipped_without_blending() -> None:
    arm = follower()
    arm.sample(SECOND + 60 * MS)
    arm.follow(line(1.0), SECOND, SECOND + 60 * MS)
    assert arm.sample(SECOND + 75 * MS).positions[0] == pytest.approx(0.75)


def test_a_trajectory_that_is_over_is_rejected_and_the_old_one_goes_on() -> None:
    arm = follower()
    arm.follow(line(1.0), 0, SECOND)
    arm.pick_up(SECOND)
    with pytest.raises(ValueError, match=r"ended 0\.400 s ago"):
        arm.follow(line(9.0), SECOND - 500 * MS, SECOND)
    assert arm.sample(SECOND + 50 * MS).positions[0] == 0.5


def test_a_clock_that_steps_back_keeps_the_last_command() -> None:
    arm = follower()
    arm.follow(line(1.0), 0, SECOND)
    arm.pick_up(SECOND)
    assert arm.sample(SECOND + 50 * MS).positions[0] == 0.5
    assert arm.sample(SECOND - 500 * MS).positions[0] == 0.5
    assert arm.sample(SECOND + 100 * MS).positions[0] == 1.0


def test_reset_forgets_everything() -> None:
    arm = follower()
    arm.follow(line(1.0), 0, SECOND)
    arm.reset(np.array([0.3]))
    assert arm.sample(SECOND + 100 * MS).positions[0] == 0.3
