# SPDX-License-Identifier: Apache-2.0
"""The Panda's kinematics: joints for a pose of the gripper (damped Gauss-Newton), and its position
for joints."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from par_model.interface import FloatArray

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

    # It reads the tasks.
    from par_model.simulation.maniskill_env import ManiSkillArm

NUM_ARM_JOINTS = 7
# The Panda's base in all tasks, world frame.
ROBOT_BASE_M = (-0.615, 0.0, 0.0)
_NUM_ITERATIONS = 30
# Error of the pose, as SE(3) logarithm: 1e-4 is 0.1 mm and 0.1 mrad.
_TOLERANCE = 1e-4
_DAMPING = 1e-5
# Distance that is kept from the joints' limits.
_MARGIN_RAD = 0.03


@dataclass(frozen=True)
class Placed:
    """A thing's place: position [3] in metres and orientation."""

    position_m: FloatArray
    orientation: "Rotation"


class ArmKinematics:
    """The kinematics of one ManiSkillArm's Panda; poses are in the base's frame."""

    def __init__(self, arm: "ManiSkillArm") -> None:
        agent: Any = arm.maniskill_env.agent
        robot = agent.robot
        articulation = robot._objs[0]
        self._model = articulation.create_pinocchio_model()
        self._link = articulation.get_links().index(agent.tcp._objs[0])
        limits = robot.get_qlimits()[0, :NUM_ARM_JOINTS].numpy()
        self._low, self._high = limits[:, 0] + _MARGIN_RAD, limits[:, 1] - _MARGIN_RAD
        self._num_joints = int(robot.max_dof)

    def joints_at(
        self, position_m: FloatArray, orientation_wxyz: FloatArray, near_rad: FloatArray
    ) -> FloatArray | None:
        """Arm joints float64 [7], rad, at which the point between the fingers has this pose.

        The search begins at `near_rad` [7]. None if it finds no solution within the joint limits.
        """
        import sapien

        start = np.zeros(self._num_joints)
        start[:NUM_ARM_JOINTS] = near_rad
        mask = np.arange(self._num_joints) < NUM_ARM_JOINTS
        found, success, _ = self._model.compute_inverse_kinematics(
            self._link,
            sapien.Pose(position_m, orientation_wxyz),
            initial_qpos=start,
            active_qmask=mask.astype(np.int32),
            eps=_TOLERANCE,
            max_iterations=_NUM_ITERATIONS,
            dt=1.0,
            damp=_DAMPING,
        )
        joints = np.asarray(found, dtype=np.float64)[:NUM_ARM_JOINTS]
        # A turn more or less is the same pose.
        joints = (joints + np.pi) % (2 * np.pi) - np.pi
        joints = np.where(joints < self._low, joints + 2 * np.pi, joints)
        inside = bool(np.all((joints >= self._low) & (joints <= self._high)))
        return joints if success and inside else None

    def place_at(self, joints_rad: FloatArray) -> Placed:
        """Where the point between the fingers is at arm joints [7]."""
        from scipy.spatial.transform import Rotation

        full = np.zeros(self._num_joints)
        full[:NUM_ARM_JOINTS] = joints_rad
        self._model.compute_forward_kinematics(full)
        pose = self._model.get_link_pose(self._link)
        return Placed(
            np.array(pose.p, dtype=np.float64),
            Rotation.from_quat(np.array(pose.q, dtype=np.float64)[[1, 2, 3, 0]]),
        )


def gripper_positions_m(joints_NJ: FloatArray) -> FloatArray:
    """Where the point between the fingers is at measured joints [N, 8] (rad and m), without a
    simulator: float64 [N, 3], metres, base's frame."""
    import pinocchio
    from mani_skill import PACKAGE_ASSET_DIR

    urdf = Path(PACKAGE_ASSET_DIR) / "robots" / "panda" / "panda_v2.urdf"
    model = pinocchio.buildModelFromUrdf(str(urdf))
    data, frame = model.createData(), model.getFrameId("panda_hand_tcp")
    positions_m = np.zeros((len(joints_NJ), 3))
    for row, joints in zip(positions_m, joints_NJ, strict=True):
        pinocchio.framesForwardKinematics(model, data, np.append(joints, joints[7]))
        row[:] = data.oMf[frame].translation
    return positions_m


def robot_base_m(arm: "ManiSkillArm") -> FloatArray:
    """Where the arm's base stands, float64 [3], metres, world frame. Its axes are the world's."""
    pose: Any = arm.maniskill_env.agent.robot.pose
    turned = not np.allclose(pose.q[0].numpy(), [1.0, 0.0, 0.0, 0.0], atol=1e-6)
    assert not turned, "the base is turned; positions would need a rotation"
    return np.array(pose.p[0].numpy(), dtype=np.float64)
