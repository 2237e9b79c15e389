# SPDX-License-Identifier: Apache-2.0
"""The outgoing check sees each kind of fault that planning could make, and lets good motions pass.

A good motion: from rest, joint 1 goes 0.1 rad in 0.5 s behind a splice of 30 ms.
"""

import dataclasses

import numpy as np
import pytest

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.outgoing_check import OutgoingCheck, SentTrajectory
from tests.control.arms import arm

START_NS = 5_000_000_000
SPLICE_NS = 30_000_000


def trajectory(name: str, way_rad: float = 0.1, duration_s: float = 0.5) -> JointTrajectory:
    spec = arm(name)
    positions = np.tile(spec.home, (3, 1))
    positions[2, 0] += way_rad
    zeros = np.zeros_like(positions)
    times_s = np.array([0.0, 0.03, 0.03 + duration_s])
    return JointTrajectory(spec.arm_joint_names, times_s, positions, zeros, zeros.copy())


def why_not(new: JointTrajectory, name: str = "panda", start_ns: int = START_NS) -> str:
    home = arm(name).home
    zeros = np.zeros((1, len(home)))
    standing = JointTrajectory(arm(name).arm_joint_names, np.zeros(1), home[None], zeros, zeros)
    return OutgoingCheck(arm(name)).why_not(
        SentTrajectory(new, start_ns),
        SentTrajectory(standing, START_NS - 1_000_000_000),
        START_NS,
        START_NS + SPLICE_NS,
    )


def changed(row: int, field: str, value: float) -> JointTrajectory:
    good = trajectory("panda")
    values = getattr(good, field).copy()
    values[row, 0] = value
    return dataclasses.replace(good, **{field: values})


def with_end_twice(apart_s: float) -> JointTrajectory:
    """The good motion, and its last point again a little later."""
    good = trajectory("panda")
    times_s = np.append(good.times_s, good.times_s[-1] + apart_s)
    rows = {
        name: np.concatenate((values, values[-1:]))
        for name, values in (
            ("positions", good.positions),
            ("velocities", good.velocities),
            ("accelerations", good.accelerations),
        )
        if values is not None
    }
    return dataclasses.replace(good, times_s=times_s, **rows)


def test_a_good_motion_passes() -> None:
    assert why_not(trajectory("panda")) == ""
    assert why_not(with_end_twice(2e-9)) == ""


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (changed(2, "positions", 3.0), "beyond its position limit"),
        (trajectory("panda", 1.2), "velocity limit"),
        (trajectory("panda", 0.1, 0.15), "acceleration limit"),
        (changed(1, "accelerations", 5.0), "leaves the running motion"),
        (changed(0, "positions", 1e-6), "leaves the running motion"),
        (changed(2, "velocities", 0.01), "does not end at rest"),
        (with_end_twice(4e-10), "two of its points have the same time"),
        (changed(1, "positions", np.nan), "not finite"),
    ],
)
def test_each_fault_is_seen(new: JointTrajectory, words: str) -> None:
    assert words in why_not(new)


def test_a_fast_change_of_acceleration_is_seen() -> None:
    """From +13 to -13 rad/s^2 within a millisecond: 26,000 rad/s^3, the panda's limit is 7,500."""
    spec = arm("panda")
    before_ms = np.arange(-10, 1)
    accelerations = np.where(before_ms < 0, 13.0, -13.0)
    velocities = np.cumsum(accelerations) * 1e-3
    positions = np.tile(spec.home, (len(before_ms), 1))
    positions[:, 0] += np.cumsum(velocities) * 1e-3
    assert "jerk limit" in OutgoingCheck(spec)._beyond(np.repeat(positions, 2, axis=0).T)


def test_what_ends_before_it_may_be_taken_is_seen() -> None:
    assert "ends before" in why_not(trajectory("panda"), start_ns=START_NS - 600_000_000)


def test_near_an_end_of_the_range_the_fr3_must_be_slower() -> None:
    """Joint 6 may run 4.18 rad/s in the middle, less towards its end; judged where it is."""
    spec = arm("fr3")
    limits = spec.limits
    assert limits.position_dependent_velocity is not None
    joint = 3
    position = limits.max_position[joint] - 0.05
    _, highest = limits.velocity_bounds(np.tile(position, len(spec.home)))
    speed = highest[joint] + 0.2
    assert speed < limits.max_velocity[joint]
    times_s = np.array([0.0, 0.001, 0.031])
    positions = np.tile(spec.home, (3, 1))
    positions[:, joint] = position - speed * np.array([0.031, 0.03, 0.0])
    check = OutgoingCheck(spec)
    velocities = np.diff(positions, axis=0) / np.diff(times_s)[:, None]
    assert "too fast for where it is" in check._too_fast(positions[1:], velocities)
    slow = np.minimum(velocities, highest - 0.1)
    assert check._too_fast(positions[1:], slow) == ""
