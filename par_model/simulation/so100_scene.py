# SPDX-License-Identifier: Apache-2.0
"""ManiSkill's PushCube within the reach of an SO-100. Importing it registers PushCubeSO100-v1."""

from typing import Any, ClassVar

import torch
from mani_skill.envs.tasks.tabletop.push_cube import PushCubeEnv
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs.pose import Pose

# Where the cube lies, world frame: the base stands at -0.725 m and looks along x.
_CENTRE_X_M = -0.48
# Of ManiSkill's own cube positions, which reach 0.1 m to each side: 3 cm along x, 6 cm along y.
_SHARE_X, _SHARE_Y = 0.3, 0.6


@register_env("PushCubeSO100-v1", max_episode_steps=100)
class PushCubeSO100Env(PushCubeEnv):
    """The same cube, a goal of half the radius, and its own robot."""

    SUPPORTED_ROBOTS: ClassVar = ["so100"]
    goal_radius = 0.05

    def __init__(self, *args: Any, robot_uids: str = "so100", **kwargs: Any) -> None:
        super().__init__(*args, robot_uids=robot_uids, **kwargs)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        """ManiSkill's draw of the cube's place, moved in front of the arm, the goal with it."""
        super()._initialize_episode(env_idx, options)
        drawn = self.obj.pose.p.clone()
        moved = drawn.clone()
        moved[..., 0] = _CENTRE_X_M + _SHARE_X * drawn[..., 0]
        moved[..., 1] = _SHARE_Y * drawn[..., 1]
        for thing in (self.goal_region, self.obj):
            pose = thing.pose
            thing.set_pose(Pose.create_from_pq(p=moved + (pose.p - drawn), q=pose.q))
