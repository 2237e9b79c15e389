# SPDX-License-Identifier: Apache-2.0
"""Joint targets for straight motions of an SO-100's closed jaws, from any state on.

Five joints reach every place but not with every orientation: the jaws point down as far as they
can, and the last two joints, wrist roll and jaw, stay. Metres, world frame; rad.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from par_model.interface import FloatArray

if TYPE_CHECKING:
    # It reads the tasks.
    from par_model.simulation.maniskill_env import ManiSkillArm

# The closed jaw, the roll that puts the jaws' broad side ahead, and the joints that are moved.
JAW_RAD, ROLL_RAD = -1.0, float(np.pi / 2)
_NUM_MOVED = 4
_SPEED_M_S, _SPEED_RAD_S, _ACCELERATION_M_S2 = 0.15, 1.2, 0.6
# ManiSkill's SO-100 follows its targets as a spring with damping: damping / stiffness.
_LAG_S = 0.1
# What pointing down is worth against being at the place: metres a unit of the direction.
_DOWN_M = 0.02
_NUM_ITERATIONS, _DAMPING, _DIFFERENCE_RAD = 20, 1e-6, 1e-5
_MARGIN_RAD = 0.03


class SO100Jaws:
    """Where one ManiSkillArm's jaws are, and targets that lead them along lines."""

    def __init__(self, arm: "ManiSkillArm") -> None:
        """The arm must have been reset once."""
        self._arm = arm
        agent: Any = arm.maniskill_env.agent
        articulation = agent.robot._objs[0]
        self._model = articulation.create_pinocchio_model()
        links = articulation.get_links()
        self._hand = links.index(agent.finger1_link._objs[0])
        self._tip = links.index(agent.finger1_tip._objs[0])
        self._base = articulation.get_root_pose()
        limits = agent.robot.get_qlimits()[0, :_NUM_MOVED].numpy()
        self._low, self._high = limits[:, 0] + _MARGIN_RAD, limits[:, 1] - _MARGIN_RAD

    def tip_m(self, joints_rad: FloatArray) -> FloatArray:
        """The fixed jaw's tip at joints [6], float64 [3]."""
        return self._placed(joints_rad)[:3]

    def along(self, waypoints_m: list[FloatArray], num_steps: int) -> FloatArray:
        """Targets [num_steps, 6] from the present motion through the waypoints, at rest in the
        last one, where what is missing rests."""
        measured, velocities = self._arm.read_joints()
        # What the arm must have been sent to move as it does.
        joints = measured + _LAG_S * velocities
        step_s = self._arm.step_s
        speed_m_s = float(np.linalg.norm(self.tip_m(joints) - self.tip_m(measured))) / _LAG_S
        targets = []
        waypoints = list(waypoints_m)
        for _ in range(num_steps):
            here_m = self.tip_m(joints)
            while len(waypoints) > 1 and np.linalg.norm(waypoints[0] - here_m) < 0.01:
                waypoints.pop(0)
            corners = np.array([here_m, *waypoints])
            left_m = float(np.linalg.norm(np.diff(corners, axis=0), axis=1).sum())
            braking_m_s = float(np.sqrt(2 * _ACCELERATION_M_S2 * left_m))
            faster_m_s = speed_m_s + _ACCELERATION_M_S2 * step_s
            speed_m_s = min(faster_m_s, _SPEED_M_S, braking_m_s)
            way_m = waypoints[0] - here_m
            length_m = float(np.linalg.norm(way_m))
            share = min(1.0, speed_m_s * step_s / length_m) if length_m > 1e-4 else 1.0
            joints = self._stepped(joints, here_m + share * way_m, step_s)
            targets.append(joints)
        return np.stack(targets)

    def _stepped(self, joints_rad: FloatArray, place_m: FloatArray, step_s: float) -> FloatArray:
        """Joints [6] one step on, with the tip at the place or as near as the speed allows."""
        wanted = np.concatenate((self._solved(joints_rad, place_m), [ROLL_RAD, JAW_RAD]))
        most = _SPEED_RAD_S * step_s
        return joints_rad + np.clip(wanted - joints_rad, -most, most)

    def _solved(self, joints_rad: FloatArray, place_m: FloatArray) -> FloatArray:
        """The moved joints [4] that bring the tip to `place_m`: damped Gauss-Newton."""
        wanted = np.array([*place_m, -_DOWN_M])
        full = np.concatenate((joints_rad[:_NUM_MOVED], [ROLL_RAD, JAW_RAD]))
        for _ in range(_NUM_ITERATIONS):
            here = self._placed(full)
            columns = []
            for joint in range(_NUM_MOVED):
                nudged = full.copy()
                nudged[joint] += _DIFFERENCE_RAD
                columns.append((self._placed(nudged) - here) / _DIFFERENCE_RAD)
            slopes = np.stack(columns, axis=1)
            square = slopes.T @ slopes + _DAMPING * np.eye(_NUM_MOVED)
            change = np.linalg.solve(square, slopes.T @ (wanted - here))
            full[:_NUM_MOVED] = np.clip(full[:_NUM_MOVED] + change, self._low, self._high)
            if np.abs(change).max() < 1e-4:
                break
        return full[:_NUM_MOVED]

    def _placed(self, joints_rad: FloatArray) -> FloatArray:
        """The tip's place, and _DOWN_M times how far the jaw points up: float64 [4]."""
        self._model.compute_forward_kinematics(joints_rad)
        tip_m = (self._base * self._model.get_link_pose(self._tip)).p
        hand_m = (self._base * self._model.get_link_pose(self._hand)).p
        way_m = tip_m - hand_m
        return np.array([*tip_m, _DOWN_M * way_m[2] / np.linalg.norm(way_m)], dtype=np.float64)
