# SPDX-License-Identifier: Apache-2.0
"""PickCube: grasp a red cube and hold it at a green goal in the air."""

from typing import Any

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.grasping import GraspingExpert
from par_model.simulation.hand_motion import CLOSED_M, HandChunk, placed
from par_model.simulation.milestones import CUBE_FEATURES, NOT_GRASPED, Milestones, not_grasped
from par_model.simulation.task import Task

# ManiSkill's own limit.
GOAL_RADIUS_M = 0.025
# A held cube within this distance is near the goal.
NEAR_GOAL_M = 0.1


def plan(environment: Any, seed: int) -> None:
    from mani_skill.examples.motionplanning.panda.solutions import solvePickCube

    solvePickCube(environment, seed=seed, debug=False, vis=False)


class PickCubeExpert(GraspingExpert):
    """Grasp the cube, then on a straight line to the goal."""

    def after_grasp(self, chunk: HandChunk) -> HandChunk:
        return chunk.move(self.held_at(self._goal_m()), CLOSED_M)

    def is_done(self) -> bool:
        return False

    def is_near_goal(self) -> bool:
        return bool(np.linalg.norm(self._goal_m() - self.cube().position_m) < NEAR_GOAL_M)

    def _goal_m(self) -> FloatArray:
        return placed(self.arm.scene_object("goal").pose).position_m


def failure_kind(milestones: Milestones) -> str:
    kind = not_grasped(milestones)
    if kind is not None:
        return kind
    if np.linalg.norm(milestones.missing_m("goal")) <= GOAL_RADIUS_M:
        return "at the goal, not at rest"
    return "held, stopped short of the goal" if milestones.is_grasped_at_end else "grasped, lost"


PICK_CUBE = Task(
    name="PickCube",
    maniskill_id="PickCube-v1",
    instruction="Grasp a red cube and move it to a target goal position.",
    objects={"cube": "cube", "goal": "goal_site"},
    planner=plan,
    failure_kinds=(
        *NOT_GRASPED,
        "grasped, lost",
        "held, stopped short of the goal",
        "at the goal, not at rest",
    ),
    failure_kind=failure_kind,
    features=CUBE_FEATURES
    | {"goal: height, z (cm)": lambda m: 100 * m.initial_positions["goal"][2]},
    expert=PickCubeExpert,
)
