# SPDX-License-Identifier: Apache-2.0
"""PushCubeSO100: an SO-100 pushes the cube 16 cm away from itself, onto a target on the table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.hand_motion import horizontal
from par_model.simulation.milestones import CUBE_FEATURES, MOVED_M
from par_model.simulation.robots import SO100
from par_model.simulation.so100_arm import SO100Jaws
from par_model.simulation.task import Task
from par_model.simulation.tasks.push_cube import PUSH_CUBE

if TYPE_CHECKING:
    # It reads the tasks.
    from par_model.simulation.maniskill_env import ManiSkillArm

# The jaws' tip behind the cube's centre, on the way and when it pushes; its height; and the height
# in which it comes to the cube.
_BEHIND_M, _HEIGHT_M, _CLEAR_M = 0.06, 0.02, 0.075
# The tip stops this far before the goal's centre: the cube then lies 1 to 2 cm before it.
_STOP_M = 0.045
# The tip pushes from where it is if it is this near to the line through cube and goal, low enough
# and not beside the cube.
_BESIDE_M, _LOW_M, _AHEAD_M = 0.012, 0.035, 0.025
_MAX_STEPS, _CHUNK_STEPS = 150, 8


class PushCubeSO100Expert:
    """Over the place behind the cube, down, then straight to the goal with closed jaws."""

    def __init__(self, arm: "ManiSkillArm") -> None:
        """The arm must have been reset once."""
        self._arm = arm
        self._jaws = SO100Jaws(arm)
        self.reset()

    def reset(self) -> None:
        self._forward = horizontal(self._place("goal") - self._place("cube"))

    def label(self, num_steps: int) -> FloatArray:
        """Joint targets float64 [num_steps, 6], rad."""
        cube_m, goal_m = self._place("cube"), self._place("goal")
        ahead = horizontal(goal_m - cube_m)
        tip_m = self._jaws.tip_m(self._arm.read_joints()[0])
        behind_m = _at_height(cube_m - _BEHIND_M * ahead, _HEIGHT_M)
        stop_m = _at_height(goal_m - _STOP_M * ahead, _HEIGHT_M)
        if self._is_there():
            return self._jaws.along([tip_m], num_steps)
        if self._pushes(tip_m, cube_m, ahead):
            return self._jaws.along([stop_m], num_steps)
        way = [_at_height(behind_m, _CLEAR_M), behind_m, stop_m]
        is_over = np.linalg.norm((tip_m - behind_m)[:2]) < _BESIDE_M
        if is_over:
            way = way[1:]
        elif tip_m[2] < _CLEAR_M - 0.02:
            way = [_at_height(tip_m, _CLEAR_M), *way]
        return self._jaws.along(way, num_steps)

    def teaches(self) -> bool:
        """With a cube that was pushed aside, and near the goal."""
        way_m = (self._place("goal") - self._place("cube"))[:2]
        aside_m = abs(self._forward[0] * way_m[1] - self._forward[1] * way_m[0])
        return bool(aside_m > MOVED_M or np.linalg.norm(way_m) < 0.08)

    def _place(self, name: str) -> FloatArray:
        return self._arm.environment_state()[name]

    def _is_there(self) -> bool:
        """Whether the cube lies well inside the goal."""
        return float(np.linalg.norm((self._place("goal") - self._place("cube"))[:2])) < 0.025

    @staticmethod
    def _pushes(tip_m: FloatArray, cube_m: FloatArray, ahead: FloatArray) -> bool:
        """Whether the way ahead pushes the cube to the goal."""
        way_m = cube_m - tip_m
        beside_m = abs(ahead[0] * way_m[1] - ahead[1] * way_m[0])
        return bool(beside_m < _BESIDE_M and way_m @ ahead > _AHEAD_M and tip_m[2] < _LOW_M)


def plan(environment: Any, seed: int) -> None:
    """The expert's own way: a chunk at a time, until the cube lies in the goal."""
    environment.reset(seed=seed)
    arm = environment.arm
    expert = PushCubeSO100Expert(arm)
    for _ in range(_MAX_STEPS // _CHUNK_STEPS):
        for targets in expert.label(_CHUNK_STEPS):
            _, _, _, _, info = environment.step(SO100.to_action(targets))
        if expert._is_there() and info["success"]:
            return


def _at_height(place_m: FloatArray, height_m: float) -> FloatArray:
    return np.array([*place_m[:2], height_m])


PUSH_CUBE_SO100 = Task(
    name="PushCubeSO100",
    maniskill_id="PushCubeSO100-v1",
    instruction="Push the cube onto the target with the small arm.",
    objects=PUSH_CUBE.objects,
    planner=plan,
    failure_kinds=PUSH_CUBE.failure_kinds,
    failure_kind=PUSH_CUBE.failure_kind,
    features=CUBE_FEATURES,
    expert=PushCubeSO100Expert,
    robot=SO100,
    scene_module="par_model.simulation.so100_scene",
)
