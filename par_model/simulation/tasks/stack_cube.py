# SPDX-License-Identifier: Apache-2.0
"""StackCube: put a red cube on top of a green one and let go of it."""

from typing import Any

import numpy as np

from par_model.simulation.milestones import CUBE_FEATURES, NOT_GRASPED, Milestones, not_grasped
from par_model.simulation.task import Task

# ManiSkill's own limit: half a cube's diagonal plus 5 mm.
STACK_OFFSET_M = 0.0333


def plan(environment: Any, seed: int) -> None:
    from mani_skill.examples.motionplanning.panda.solutions import solveStackCube

    solveStackCube(environment, seed=seed, debug=False, vis=False)


def failure_kind(milestones: Milestones) -> str:
    kind = not_grasped(milestones)
    if kind is not None:
        return kind
    over = float(np.linalg.norm(milestones.missing_m("cube_b")[:2])) <= STACK_OFFSET_M
    if milestones.is_grasped_at_end:
        return "held over the other cube, not released" if over else "held, not over the other cube"
    return "released over the other cube, not stacked" if over else "grasped, lost"


def distance_of_cubes_cm(milestones: Milestones) -> float:
    """At the start."""
    positions = milestones.initial_positions
    return 100 * float(np.linalg.norm(np.array(positions["cube"]) - positions["cube_b"]))


STACK_CUBE = Task(
    name="StackCube",
    maniskill_id="StackCube-v1",
    instruction=(
        "Pick up a red cube and stack it on top of a green cube and let go of the cube "
        "without it falling."
    ),
    objects={"cube": "cubeA", "cube_b": "cubeB"},
    planner=plan,
    failure_kinds=(
        *NOT_GRASPED,
        "grasped, lost",
        "held, not over the other cube",
        "held over the other cube, not released",
        "released over the other cube, not stacked",
    ),
    failure_kind=failure_kind,
    features=CUBE_FEATURES | {"distance of the two cubes (cm)": distance_of_cubes_cm},
)
