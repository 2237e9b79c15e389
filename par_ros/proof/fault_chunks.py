# SPDX-License-Identifier: Apache-2.0
"""Faults of a chunk. Each function changes one action_chunk message."""

from collections.abc import Callable

import numpy as np
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage
from trajectory_msgs.msg import JointTrajectoryPoint

from par_ros import messages
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.proof.scripted_policy import KNOT_TIMES_S

Mangle = Callable[[JointTrajectoryMessage], JointTrajectoryMessage | None]

_NUM_MANY = 100_000


def with_positions(change: Callable[[FloatArray], FloatArray]) -> Mangle:
    """Replace the knots [8, J + 1]."""

    def changed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
        trajectory = messages.read_joint_trajectory(message)
        new = JointTrajectory(
            trajectory.joint_names, trajectory.times_s, change(trajectory.positions.copy())
        )
        return messages.joint_trajectory_message(new, messages.stamp_ns(message))

    return changed


def put(knot: int, joint: int, value: float) -> Callable[[FloatArray], FloatArray]:
    """Replace one position."""

    def change(positions: FloatArray) -> FloatArray:
        positions[knot, joint] = value
        return positions

    return change


def noise(positions: FloatArray) -> FloatArray:
    """Joint 1 to and fro by 0.03 rad: 48 rad/s^2 in the differences, 15 are allowed."""
    positions[:, 0] += 0.03 * np.where(np.arange(8) % 2, 1.0, -1.0)
    return positions


def fast(positions: FloatArray) -> FloatArray:
    """Joint 1 at 3 rad/s more."""
    positions[:, 0] += 3.0 * KNOT_TIMES_S
    return positions


def beyond_position(positions: FloatArray) -> FloatArray:
    """Beyond joint 6's upper limit, 1.4 rad from home, in steps that are no jump."""
    # It is sent in the middle of the chunk before, so the first knot lies ahead of the arm.
    positions[:, 5] += 0.18 + 0.26 * np.arange(8)
    return positions


def stamped(offset_s: float) -> Mangle:
    """Replace the stamp."""

    def changed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
        stamp_ns = messages.stamp_ns(message) + round(offset_s * NANOSECONDS)
        message.header.stamp = messages.ns_to_time(stamp_ns)
        return message

    return changed


def without_last_joint(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Leave one joint out."""
    trajectory = messages.read_joint_trajectory(message)
    fewer = JointTrajectory(
        trajectory.joint_names[:-1], trajectory.times_s, trajectory.positions[:, :-1]
    )
    return messages.joint_trajectory_message(fewer, messages.stamp_ns(message))


def renamed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Rename the joints to another robot's."""
    message.joint_names = [f"other_{name}" for name in message.joint_names]
    return message


def reversed_joints(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Reorder the names."""
    message.joint_names = list(reversed(message.joint_names))
    return message


def five_points(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Leave three points out."""
    message.points = list(message.points)[:5]
    return message


def no_points(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Leave all points out."""
    message.points = []
    return message


def many_points(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Send 100,000 points."""
    message.points = [JointTrajectoryPoint()] * _NUM_MANY
    return message


def ragged(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Leave one joint out of one point."""
    message.points[3].positions = list(message.points[3].positions)[:4]
    return message


def same_times(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Give two points the same time."""
    message.points[4].time_from_start = message.points[3].time_from_start
    return message


def stretched(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    """Stretch the times to steps of 80 ms."""
    for number, point in enumerate(message.points):
        point.time_from_start = messages.ns_to_duration((number + 1) * 80_000_000)
    return message
