# SPDX-License-Identifier: Apache-2.0
"""PushCube: push a blue cube 20 cm away from the robot, onto a target on the table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.arm_kinematics import Placed
from par_model.simulation.hand_motion import CLOSED_M, Hand, horizontal, placed, pointing_down
from par_model.simulation.milestones import CUBE_FEATURES, MOVED_M, Milestones
from par_model.simulation.task import Task

if TYPE_CHECKING:
    # It reads the tasks.
    from par_model.simulation.maniskill_env import ManiSkillArm


# The hand behind the cube, from centre to centre, and its height; as the planner has them.
BEHIND_M, HEIGHT_M = 0.05, 0.02
# Where the hand stops before the goal's centre: the cube then lies 7 cm from it, and 10 succeed.
STOP_M = 0.1
# Height in which the hand passes over the cube.
CLEAR_M = 0.09
# The hand pushes from where it is if it is this near to the line through cube and goal, not
# further behind, low enough, and turned to it.
BESIDE_M, FAR_BEHIND_M, LOW_M, TURNED_RAD = 0.010, 0.08, 0.035, 0.3
# A cube that is this far from the goal's centre is near it; ManiSkill's own limit is 0.1.
NEAR_GOAL_M = 0.16
# What the closed fingers and the cube take up together, half: along the push, across, and the
# fingers' ends below the hand's centre; with 5 mm to spare.
_ROOM_M = np.array([0.036, 0.049, 0.036])


def plan(environment: Any, seed: int) -> None:
    from mani_skill.examples.motionplanning.panda.solutions import solvePushCube

    solvePushCube(environment, seed=seed, debug=False, vis=False)


class PushCubeExpert:
    """Behind the cube, seen from the goal, then straight to the goal with closed fingers."""

    def __init__(self, arm: "ManiSkillArm") -> None:
        """The arm must have been reset once."""
        self._arm = arm
        self._hand = Hand(arm)
        self.reset()

    def reset(self) -> None:
        self._forward = self._way_to_goal()

    def label(self, num_steps: int) -> FloatArray:
        cube_m, goal_m, hand = self._cube_m(), self._goal_m(), self._hand.place()
        ahead = self._way_to_goal()
        turned = pointing_down(np.array([-ahead[1], ahead[0], 0.0]) * self._side(hand))
        chunk = self._hand.chunk(num_steps)
        behind_m = np.array([*(cube_m - BEHIND_M * ahead)[:2], HEIGHT_M])
        behind = Placed(behind_m, turned)
        if not self._pushes(hand, cube_m, ahead, turned):
            if self._is_blocked(hand.position_m, behind_m, cube_m, ahead):
                clear = np.array([0.0, 0.0, CLEAR_M - HEIGHT_M])
                if hand.position_m[2] < CLEAR_M - 0.02:
                    up_m = np.array([*hand.position_m[:2], CLEAR_M])
                    chunk.move(Placed(up_m, hand.orientation), CLOSED_M)
                chunk.move(Placed(behind_m + clear, turned), CLOSED_M)
            chunk.move(behind, CLOSED_M)
        stop_m = np.array([*(goal_m - STOP_M * ahead)[:2], HEIGHT_M])
        if (stop_m - behind_m) @ ahead > 0:
            chunk.move(Placed(stop_m, turned), CLOSED_M)
        return chunk.targets(CLOSED_M)

    def teaches(self) -> bool:
        """With a cube that was pushed aside, and near the goal."""
        way_m = (self._goal_m() - self._cube_m())[:2]
        aside_m = abs(self._forward[0] * way_m[1] - self._forward[1] * way_m[0])
        return bool(aside_m > MOVED_M or np.linalg.norm(way_m) < NEAR_GOAL_M)

    def _cube_m(self) -> FloatArray:
        return placed(self._arm.scene_object("cube").pose).position_m

    def _goal_m(self) -> FloatArray:
        return placed(self._arm.scene_object("goal").pose).position_m

    def _way_to_goal(self) -> FloatArray:
        return horizontal(self._goal_m() - self._cube_m())

    @staticmethod
    def _side(hand: Placed) -> float:
        """1 where the hand's y axis lies to the left, else -1: half a turn is the same push."""
        return 1.0 if hand.orientation.as_matrix()[1, 1] >= 0 else -1.0

    @staticmethod
    def _pushes(hand: Placed, cube_m: FloatArray, ahead: FloatArray, turned: Any) -> bool:
        """Whether the way ahead pushes the cube to the goal."""
        way_m = cube_m - hand.position_m
        along_m = float(way_m @ ahead)
        beside_m = abs(ahead[0] * way_m[1] - ahead[1] * way_m[0])
        turned_rad = (turned.inv() * hand.orientation).magnitude()
        return bool(
            beside_m < BESIDE_M
            and 0.02 < along_m < FAR_BEHIND_M
            and hand.position_m[2] < LOW_M
            and turned_rad < TURNED_RAD
        )

    @staticmethod
    def _is_blocked(
        start_m: FloatArray, end_m: FloatArray, cube_m: FloatArray, ahead: FloatArray
    ) -> bool:
        """Whether the hand meets the cube on the straight way, its own place left out."""
        points_N3 = start_m + np.linspace(0.0, 1.0, 17)[:, None] * (end_m - start_m) - cube_m
        along_N = np.abs(points_N3 @ ahead)
        across_N = np.abs(points_N3[:, 1] * ahead[0] - points_N3[:, 0] * ahead[1])
        meets_N = (along_N < _ROOM_M[0]) & (across_N < _ROOM_M[1]) & (points_N3[:, 2] < _ROOM_M[2])
        return bool(meets_N.any())


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
    expert=PushCubeExpert,
)
