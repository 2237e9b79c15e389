# SPDX-License-Identifier: Apache-2.0
"""Measures how far an episode came, and derives the kind of failure.

Everything here is computed from positions and contacts that the simulator reports after each
control step; the policy sees none of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.maniskill_env import ManiSkillArm

# The fingers can close around a cube (half edge 20 mm) from here. Closer than ManiSkill's grasp
# asks for: closed fingers that push a cube before them count as a grasp there.
REACHED_M = 0.025
# A cube that moved this far was pushed.
MOVED_M = 0.01
# ManiSkill's own limits: PickCube's goal radius, and half a cube's diagonal plus 5 mm.
PICK_GOAL_RADIUS_M = 0.025
STACK_OFFSET_M = 0.0333

SUCCESS = "success"
# In the order in which a task is done: later kinds came further.
KINDS: dict[str, tuple[str, ...]] = {
    "PushCube": (
        "cube moved by less than 1 cm",
        "pushed aside",
        "stopped short of the goal",
        "pushed too far",
    ),
    "PickCube": (
        "never reached the cube",
        "cube knocked away",
        "reached, not grasped",
        "grasped, lost",
        "held, stopped short of the goal",
        "at the goal, not at rest",
    ),
    "StackCube": (
        "never reached the cube",
        "cube knocked away",
        "reached, not grasped",
        "grasped, lost",
        "held, not over the other cube",
        "held over the other cube, not released",
        "released over the other cube, not stacked",
    ),
}


@dataclass(frozen=True)
class Milestones:
    """One episode's measurements; metres, world frame. Plain values, for JSON.

    Attributes:
        initial_positions, final_positions: name (cube, goal or cube_b) -> [x, y, z].
        min_gripper_cube_m: least distance between the fingers' centre and the cube's.
        max_cube_moved_m: largest distance of the cube from where it lay.
        max_cube_raised_m: how far the cube was above where it lay, at most.
        first_grasp_step: control step after which both fingers first pressed on it from within
            REACHED_M; None: never.
        num_grasped_steps: control steps that ended with the cube grasped.
        is_grasped_at_end: whether the last one did.
        min_second_distance_m: least distance of the cube from the goal or the other cube.
    """

    initial_positions: dict[str, list[float]]
    final_positions: dict[str, list[float]]
    min_gripper_cube_m: float
    max_cube_moved_m: float
    max_cube_raised_m: float
    first_grasp_step: int | None
    num_grasped_steps: int
    is_grasped_at_end: bool
    min_second_distance_m: float


@dataclass(frozen=True)
class SceneMoment:
    """What is measured after a control step (and once before the first); `is_grasped` is
    ManiSkill's."""

    positions: dict[str, FloatArray]
    gripper: FloatArray
    is_grasped: bool


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


def summarise(moments: Sequence[SceneMoment]) -> Milestones:
    """Milestones of an episode; the first moment is the one before any step."""
    second = next(name for name in moments[0].positions if name != "cube")
    cube_T3 = np.stack([moment.positions["cube"] for moment in moments])
    second_T3 = np.stack([moment.positions[second] for moment in moments])
    gripper_T3 = np.stack([moment.gripper for moment in moments])
    distance_T = np.linalg.norm(gripper_T3 - cube_T3, axis=1)
    grasped = [
        moment.is_grasped and bool(distance_m <= REACHED_M)
        for moment, distance_m in zip(moments, distance_T, strict=True)
    ]
    return Milestones(
        initial_positions=_plain(moments[0].positions),
        final_positions=_plain(moments[-1].positions),
        min_gripper_cube_m=_metres(distance_T.min()),
        max_cube_moved_m=_metres(np.linalg.norm(cube_T3 - cube_T3[0], axis=1).max()),
        max_cube_raised_m=_metres((cube_T3[:, 2] - cube_T3[0, 2]).max()),
        first_grasp_step=grasped.index(True) if any(grasped) else None,
        num_grasped_steps=sum(grasped),
        is_grasped_at_end=grasped[-1],
        min_second_distance_m=_metres(np.linalg.norm(cube_T3 - second_T3, axis=1).min()),
    )


def failure_kind(task: str, success: bool, milestones: Milestones) -> str:
    """SUCCESS, or the entry of KINDS[task] that the measurements say."""
    if success:
        return SUCCESS
    if task == "PushCube":
        return _push_failure(milestones)
    if milestones.first_grasp_step is None:
        if milestones.min_gripper_cube_m <= REACHED_M:
            return "reached, not grasped"
        moved = milestones.max_cube_moved_m >= MOVED_M
        return "cube knocked away" if moved else "never reached the cube"
    return _pick_failure(milestones) if task == "PickCube" else _stack_failure(milestones)


def _push_failure(milestones: Milestones) -> str:
    if milestones.max_cube_moved_m < MOVED_M:
        return "cube moved by less than 1 cm"
    missing = _position(milestones, "goal") - _position(milestones, "cube")
    # The goal lies in x from the cube's start.
    if abs(missing[1]) > abs(missing[0]):
        return "pushed aside"
    return "stopped short of the goal" if missing[0] > 0 else "pushed too far"


def _pick_failure(milestones: Milestones) -> str:
    missing_m = np.linalg.norm(_position(milestones, "goal") - _position(milestones, "cube"))
    if missing_m <= PICK_GOAL_RADIUS_M:
        return "at the goal, not at rest"
    if milestones.is_grasped_at_end:
        return "held, stopped short of the goal"
    return "grasped, lost"


def _stack_failure(milestones: Milestones) -> str:
    offset = _position(milestones, "cube_b") - _position(milestones, "cube")
    over = float(np.linalg.norm(offset[:2])) <= STACK_OFFSET_M
    if milestones.is_grasped_at_end:
        return "held over the other cube, not released" if over else "held, not over the other cube"
    return "released over the other cube, not stacked" if over else "grasped, lost"


def _moment(arm: ManiSkillArm) -> SceneMoment:
    return SceneMoment(arm.environment_state(), arm.gripper_position(), arm.is_grasping_cube())


def _position(milestones: Milestones, name: str) -> FloatArray:
    return np.array(milestones.final_positions[name])


def _plain(positions: dict[str, FloatArray]) -> dict[str, list[float]]:
    return {name: [_metres(value) for value in place] for name, place in positions.items()}


def _metres(value: float) -> float:
    """A tenth of a millimetre is more than any reader needs."""
    return round(float(value), 4)
