# SPDX-License-Identifier: Apache-2.0
"""The robots that a task may be done with: ManiSkill's name, joints, gripper and cameras.

Everywhere but here the gripper is a joint like the others: a Panda's finger in metres, an SO-100's
jaw in rad. Nothing of ManiSkill is imported.
"""

from dataclasses import dataclass, replace

import numpy as np

from par_model.depth_view import DepthView, depth_view_of
from par_model.interface import FloatArray
from par_model.simulation.camera_view import FRONT_DEPTH, VIEWS, CameraView


@dataclass(frozen=True)
class SimulatedRobot:
    """One of ManiSkill's robots.

    Attributes:
        name: its uid in ManiSkill, and the name of its file in config/arms.
        agent: its class in mani_skill.agents.robots.
        joint_names: as the policy and the arm file have them, gripper last.
        gripper_centre, gripper_half_range: target = centre + half range * ManiSkill's action.
        gripper_unit: of the gripper's targets, m or rad.
        views: the cameras that its tasks may be seen through.
        has_light_meshes: whether light_meshes.py can draw it with fewer triangles.
    """

    name: str
    agent: str
    joint_names: tuple[str, ...]
    gripper_centre: float
    gripper_half_range: float
    gripper_unit: str
    views: tuple[CameraView, ...]
    has_light_meshes: bool

    @property
    def num_arm_joints(self) -> int:
        """Joints without the gripper."""
        return len(self.joint_names) - 1

    def named_views(
        self,
        names: tuple[str, ...],
        image_size: int,
        depth_views: tuple[DepthView, ...] | None = None,
    ) -> tuple[CameraView, ...]:
        """The named views, with square pictures, and with a policy's ranges of depth where given.

        Raises ValueError for a name that it lacks, and where a view is depth here and colour for
        the policy, or the reverse.
        """
        views = {view.name: view for view in self.views}
        if unknown := [name for name in names if name not in views]:
            raise ValueError(
                f"the simulator's {self.name} has no view {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(views)}."
            )
        found = [replace(views[name], width=image_size, height=image_size) for name in names]
        if depth_views is None:
            return tuple(found)
        return tuple(_with_range(view, depth_view_of(depth_views, view.name)) for view in found)

    def to_action(self, joint_targets: FloatArray) -> FloatArray:
        """Joint targets (float64 [J], rad and m) -> ManiSkill's pd_joint_pos action."""
        action = np.array(joint_targets, dtype=np.float64)
        action[-1] = (action[-1] - self.gripper_centre) / self.gripper_half_range
        return action

    def from_action(self, action: FloatArray) -> FloatArray:
        """The inverse of to_action()."""
        joint_targets = np.array(action, dtype=np.float64)
        joint_targets[-1] = self.gripper_centre + self.gripper_half_range * joint_targets[-1]
        return joint_targets


def _with_range(view: CameraView, depth: DepthView | None) -> CameraView:
    if (view.depth_range_m is None) != (depth is None):
        kinds = ("colour", "depth") if view.depth_range_m is None else ("depth", "colour")
        raise ValueError(
            f"the simulator's view {view.name!r} is {kinds[0]} and the policy's is {kinds[1]}; "
            "check depth_views in the checkpoint's config.json, or name another view."
        )
    return view if depth is None else replace(view, depth_range_m=(depth.near_m, depth.far_m))


PANDA = SimulatedRobot(
    name="panda",
    agent="Panda",
    joint_names=(*(f"panda_joint{number}" for number in range(1, 8)), "panda_finger_joint1"),
    # ManiSkill's gripper action is -1 closed, 1 open: -0.01 m to 0.04 m.
    gripper_centre=0.015,
    gripper_half_range=0.025,
    gripper_unit="m",
    views=(*VIEWS.values(), FRONT_DEPTH),
    has_light_meshes=True,
)

SO100 = SimulatedRobot(
    name="so100",
    agent="SO100",
    joint_names=(
        "shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper",
    ),
    # Its action is the jaw's angle.
    gripper_centre=0.0,
    gripper_half_range=1.0,
    gripper_unit="rad",
    views=(CameraView("front", (-0.12, 0.36, 0.36), (-0.46, 0.0, 0.04), 0.85),),
    has_light_meshes=False,
)  # fmt: skip
