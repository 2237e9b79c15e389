# SPDX-License-Identifier: Apache-2.0
"""Measures how far an episode came, step by step.

What is measured: par_model/simulation/milestones.py. The kinds of failure that follow from it: the
task's file in par_model/simulation/tasks.
"""

from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.milestones import Milestones, SceneMoment, summarise


class MilestoneWatcher:
    """Measures the scene through an episode; see direct_loop.EpisodeWatcher."""

    def __init__(self, arm: ManiSkillArm) -> None:
        self._arm = arm
        self._moments: list[SceneMoment] = []

    def started(self) -> None:
        self._moments = [_moment(self._arm)]

    def chunk_chosen(self) -> None:
        """Nothing changes between a step and the next chunk."""

    def stepped(self) -> None:
        self._moments.append(_moment(self._arm))

    def milestones(self) -> Milestones:
        return summarise(self._moments)


def _moment(arm: ManiSkillArm) -> SceneMoment:
    return SceneMoment(arm.environment_state(), arm.gripper_position(), arm.is_grasping_cube())
