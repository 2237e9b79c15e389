# SPDX-License-Identifier: Apache-2.0
"""StackCube: put a red cube on top of a green one and let go of it."""

from typing import Any

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.arm_kinematics import Placed
from par_model.simulation.grasping import GraspingExpert
from par_model.simulation.hand_motion import CLOSED_M, OPEN_M, HandChunk, placed
from par_model.simulation.milestones import CUBE_FEATURES, NOT_GRASPED, Milestones, not_grasped
from par_model.simulation.task import Task

# ManiSkill's own limit: half a cube's diagonal plus 5 mm.
STACK_OFFSET_M = 0.0333
STACK_HEIGHT_M = 0.005
CUBE_M = 0.04
# The height of the planner's lift above where the cube should stand; and what is enough over the
# other cube already.
LIFT_M, _LIFT_OVER_M = 0.06, 0.025
# A held cube this near to where it should stand, to the side and in height, is let go.
LET_GO_M, LET_GO_HEIGHT_M = 0.015, 0.008
# A held cube within this distance to the side is near the goal.
NEAR_GOAL_M = 0.06
SETTLE_STEPS, RELEASE_STEPS = 1, 6
_LOW_ABOVE_M = 0.015


def plan(environment: Any, seed: int) -> None:
    from mani_skill.examples.motionplanning.panda.solutions import solveStackCube

    solveStackCube(environment, seed=seed, debug=False, vis=False)


class StackCubeExpert(GraspingExpert):
    """Grasp the cube, lift it, over the other one, let go, up."""

    def after_grasp(self, chunk: HandChunk) -> HandChunk:
        cube_m, stacked_m = self.cube().position_m, self._stacked_m()
        beside_m = np.linalg.norm((cube_m - stacked_m)[:2])
        if beside_m < LET_GO_M and abs(cube_m[2] - stacked_m[2]) < LET_GO_HEIGHT_M:
            return self.retreat(chunk.wait(RELEASE_STEPS, OPEN_M))
        if beside_m > LET_GO_M and cube_m[2] < stacked_m[2] + _LOW_ABOVE_M:
            # Straight up first: the held cube would hit the other one.
            above_m = LIFT_M if beside_m > NEAR_GOAL_M else _LIFT_OVER_M
            up = self.held_at(np.array([*cube_m[:2], stacked_m[2] + above_m]))
            chunk.move(up, CLOSED_M)
        chunk.move(self.held_at(stacked_m), CLOSED_M)
        chunk.wait(SETTLE_STEPS, CLOSED_M)
        return self.retreat(chunk.wait(RELEASE_STEPS, OPEN_M))

    def is_done(self) -> bool:
        away_m = self.cube().position_m - self._stacked_m()
        is_over = np.linalg.norm(away_m[:2]) < STACK_OFFSET_M
        return bool(is_over and abs(away_m[2]) < STACK_HEIGHT_M)

    def is_near_goal(self) -> bool:
        return bool(np.linalg.norm((self.cube().position_m - self._stacked_m())[:2]) < NEAR_GOAL_M)

    def _stacked_m(self) -> FloatArray:
        """Where the cube's centre is when it stands on the other one."""
        return self._other().position_m + np.array([0.0, 0.0, CUBE_M])

    def _other(self) -> Placed:
        return placed(self.arm.scene_object("cube_b").pose)


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
    expert=StackCubeExpert,
)
