# SPDX-License-Identifier: Apache-2.0
"""PushCube: push a blue cube 20 cm away from the robot, onto a target on the table."""

from typing import Any

from par_model.simulation.milestones import CUBE_FEATURES, MOVED_M, Milestones
from par_model.simulation.task import Task


def plan(environment: Any, seed: int) -> None:
    from mani_skill.examples.motionplanning.panda.solutions import solvePushCube

    solvePushCube(environment, seed=seed, debug=False, vis=False)


def failure_kind(milestones: Milestones) -> str:
    if milestones.max_cube_moved_m < MOVED_M:
        return "cube moved by less than 1 cm"
    missing_x_m, missing_y_m, _ = milestones.missing_m("goal")
    # The goal lies in x from the cube's start.
    if abs(missing_y_m) > abs(missing_x_m):
        return "pushed aside"
    return "stopped short of the goal" if missing_x_m > 0 else "pushed too far"


PUSH_CUBE = Task(
    name="PushCube",
    maniskill_id="PushCube-v1",
    instruction="Push and move a cube to a goal region in front of it.",
    objects={"cube": "obj", "goal": "goal_region"},
    planner=plan,
    failure_kinds=(
        "cube moved by less than 1 cm",
        "pushed aside",
        "stopped short of the goal",
        "pushed too far",
    ),
    failure_kind=failure_kind,
    features=CUBE_FEATURES,
)
