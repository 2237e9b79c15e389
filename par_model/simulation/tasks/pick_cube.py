# SPDX-License-Identifier: Apache-2.0
"""PickCube: grasp a red cube and hold it at a green goal in the air."""

from typing import Any

import numpy as np

from par_model.simulation.milestones import CUBE_FEATURES, NOT_GRASPED, Milestones, not_grasped
from par_model.simulation.task import Task

# ManiSkill's own limit.
GOAL_RADIUS_M = 0.025


def plan(environment: Any, seed: int) -> None:
    from mani_skill.examples.motionplanning.panda.solutions import solvePickCube

    solvePickCube(environment, seed=seed, debug=False, vis=False)


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
)
