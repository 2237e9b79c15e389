# SPDX-License-Identifier: Apache-2.0
"""Joint targets for straight motions of the hand, from any state on: minimum time along the line
within the planners' joint speeds. No planning; what is in the way is the caller's business.

The hand's z axis points ahead of the fingers, its y axis is the one along which they close.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.arm_kinematics import (
    NUM_ARM_JOINTS,
    ArmKinematics,
    Placed,
    robot_base_m,
)

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

    # It reads the tasks.
    from par_model.simulation.maniskill_env import ManiSkillArm

# Finger targets of the planners; never one in between.
OPEN_M, CLOSED_M = 0.04, -0.01
# ManiSkill's planners: 0.9 of mplib's limits of 1 rad/s and 1 rad/s^2.
_SPEED_RAD_S, _ACCELERATION_RAD_S2 = 0.9, 0.9
# A Panda of ManiSkill follows its targets as a spring with damping: in motion it is behind by
# damping / stiffness (100 / 1000) times its speed.
_LAG_S = 0.1
# Shares of a way that are tried where its end is out of reach.
_REACHED_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.6, 0.4, 0.2)


class Hand:
    """Where one ManiSkillArm's hand is and what it takes to move it; metres, world frame."""

    def __init__(self, arm: "ManiSkillArm") -> None:
        """The arm must have been reset once."""
        self._arm = arm
        self._kinematics = ArmKinematics(arm)
        self._base_m = robot_base_m(arm)

    def place(self) -> Placed:
        """As measured."""
        pose: Any = self._arm.maniskill_env.agent.tcp_pose
        return placed(pose)

    def finger_m(self) -> float:
        """Half the measured gap between the fingers."""
        return float(self._arm.maniskill_env.agent.robot.get_qpos()[0, NUM_ARM_JOINTS:].mean())

    def joints_at(self, place: Placed, near_rad: FloatArray) -> FloatArray | None:
        """Arm joints [7] that put the hand at `place`; None if no joints within the limits do."""
        orientation = place.orientation.as_quat()[[3, 0, 1, 2]]
        return self._kinematics.joints_at(place.position_m - self._base_m, orientation, near_rad)

    def place_at(self, joints_rad: FloatArray) -> Placed:
        """Where the hand is at arm joints [7]."""
        place = self._kinematics.place_at(joints_rad)
        return Placed(place.position_m + self._base_m, place.orientation)

    def chunk(self, num_steps: int) -> "HandChunk":
        """An empty chunk that begins in the arm's present state."""
        positions, velocities = self._arm.read_joints()
        return HandChunk(
            self,
            positions[:NUM_ARM_JOINTS],
            velocities[:NUM_ARM_JOINTS],
            num_steps,
            self._arm.step_s,
        )


class HandChunk:
    """Joint targets that are put together from moves and waits until `num_steps` are there; what
    is asked for beyond them is left out."""

    def __init__(
        self,
        hand: Hand,
        measured_rad: FloatArray,
        velocities_rad_s: FloatArray,
        num_steps: int,
        step_s: float,
    ) -> None:
        self._hand, self._num_steps, self._step_s = hand, num_steps, step_s
        # What the arm must have been sent to move as it does.
        self._reference_rad = measured_rad + _LAG_S * velocities_rad_s
        self._velocity_rad_s = velocities_rad_s
        self._targets: list[FloatArray] = []
        # Whether the last move ends, here or after this chunk, at its place.
        self.reached = True

    @property
    def is_full(self) -> bool:
        return len(self._targets) == self._num_steps

    def move(self, place: Placed, finger_m: float) -> "HandChunk":
        """On a straight line to a place, at rest there; as far as the arm reaches."""
        if self.is_full:
            return self
        line = _Line(self._hand.place_at(self._reference_rad), place)
        for share in _REACHED_SHARES:
            end = line.at(share)
            end_rad = self._hand.joints_at(end, self._reference_rad)
            if end_rad is not None:
                break
        self.reached = end_rad is not None and share == 1.0
        if end_rad is None:
            return self.wait(1, finger_m)
        line = _Line(line.start, end)
        way_rad = end_rad - self._reference_rad
        longest_rad = float(np.abs(way_rad).max())
        if longest_rad < 1e-3:
            return self
        # Share of the way that is behind: from 0 to 1.
        speed = max(0.0, float(self._velocity_rad_s @ way_rad) / float(way_rad @ way_rad))
        law = _minimum_time(speed, _SPEED_RAD_S / longest_rad, _ACCELERATION_RAD_S2 / longest_rad)
        time_s = 0.0
        while not self.is_full and time_s < law.duration:
            time_s += self._step_s
            share, _, _ = law.at_time(min(time_s, law.duration))
            joints = self._hand.joints_at(line.at(share[0]), self._reference_rad)
            if joints is None:
                joints = self._reference_rad
            self._append(joints, finger_m)
        return self

    def wait(self, num_steps: int, finger_m: float) -> "HandChunk":
        """Rest where the last target is."""
        for _ in range(num_steps):
            if not self.is_full:
                self._append(self._reference_rad, finger_m)
        return self

    def targets(self, finger_m: float) -> FloatArray:
        """float64 [num_steps, 8]; what is missing rests."""
        self.wait(self._num_steps, finger_m)
        return np.stack(self._targets)

    def _append(self, joints_rad: FloatArray, finger_m: float) -> None:
        self._velocity_rad_s = (joints_rad - self._reference_rad) / self._step_s
        self._reference_rad = joints_rad
        self._targets.append(np.append(joints_rad, finger_m))


@dataclass(frozen=True)
class _Line:
    start: Placed
    end: Placed

    def at(self, share: float) -> Placed:
        from scipy.spatial.transform import Rotation, Slerp

        position_m = self.start.position_m + share * (self.end.position_m - self.start.position_m)
        ends = Rotation.concatenate([self.start.orientation, self.end.orientation])
        return Placed(position_m, Slerp([0.0, 1.0], ends)(min(max(share, 0.0), 1.0)))


def _minimum_time(speed: float, max_speed: float, max_acceleration: float) -> Any:
    """The time law from 0, at `speed`, to 1 at rest, as a ruckig trajectory."""
    import ruckig

    asked = ruckig.InputParameter(1)
    asked.current_position, asked.target_position = [0.0], [1.0]
    asked.current_velocity = [speed]
    asked.max_velocity, asked.max_acceleration = [max_speed], [max_acceleration]
    asked.max_jerk = [float("inf")]
    law = ruckig.Trajectory(1)
    result = ruckig.Ruckig(1).calculate(asked, law)
    assert result >= 0, result
    return law


def placed(pose: Any) -> Placed:
    """A pose of ManiSkill's, batched by one."""
    from scipy.spatial.transform import Rotation

    quaternion = pose.q[0].numpy().astype(np.float64)[[1, 2, 3, 0]]
    return Placed(pose.p[0].numpy().astype(np.float64), Rotation.from_quat(quaternion))


def pointing_down(closing: FloatArray, tilt_rad: float = 0.0) -> "Rotation":
    """The hand straight down, its fingers closing along the horizontal direction `closing` [3];
    `tilt_rad` turns the finger tips away from the base, around `closing`."""
    from scipy.spatial.transform import Rotation

    down = np.array([0.0, 0.0, -1.0])
    straight = Rotation.from_matrix(np.stack([np.cross(closing, down), closing, down], axis=1))
    # Around `closing` so that x, away from the base, is where the tips go.
    return Rotation.from_rotvec(-np.sign(closing[1]) * tilt_rad * closing) * straight


def horizontal(direction: FloatArray) -> FloatArray:
    """The unit vector along the table of a direction [3] that is not vertical."""
    flat = np.array([direction[0], direction[1], 0.0])
    return flat / np.linalg.norm(flat)
