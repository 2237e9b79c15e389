# SPDX-License-Identifier: Apache-2.0
"""What is measured of an episode, and what several tasks read from it.

Everything here is computed from positions and contacts that the simulator reports after each
control step; the policy sees none of it. Each task derives its kinds of failure from it
(par_model/simulation/tasks).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from par_model.interface import FloatArray

# The fingers can close around a cube (half edge 20 mm) from here. Closer than ManiSkill's grasp
# asks for: closed fingers that push a cube before them count as a grasp there.
REACHED_M = 0.025
# A cube that moved this far was pushed.
MOVED_M = 0.01

# The cube was never grasped; a grasping task's first kinds of failure.
NOT_GRASPED = ("never reached the cube", "cube knocked away", "reached, not grasped")


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

    def missing_m(self, name: str) -> FloatArray:
        """The way from the cube to the object `name` at the end, float64 [3]."""
        return np.array(self.final_positions[name]) - np.array(self.final_positions["cube"])


@dataclass(frozen=True)
class SceneMoment:
    """What is measured after a control step (and once before the first).

    Attributes:
        positions: name -> float64 [3], metres, world frame; `cube` and one other object.
        gripper: the point between the fingers, float64 [3], metres, world frame.
        is_grasped: whether ManiSkill calls the cube grasped.
    """

    positions: dict[str, FloatArray]
    gripper: FloatArray
    is_grasped: bool


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


def not_grasped(milestones: Milestones) -> str | None:
    """The entry of NOT_GRASPED that holds; None if the cube was grasped at some step."""
    if milestones.first_grasp_step is not None:
        return None
    if milestones.min_gripper_cube_m <= REACHED_M:
        return "reached, not grasped"
    moved = milestones.max_cube_moved_m >= MOVED_M
    return "cube knocked away" if moved else "never reached the cube"


# A number of an episode's start that may decide success.
Feature = Callable[[Milestones], float]

CUBE_FEATURES: dict[str, Feature] = {
    "cube: away from the base, x (cm)": lambda m: 100 * m.initial_positions["cube"][0],
    "cube: to the side, y (cm)": lambda m: 100 * m.initial_positions["cube"][1],
}


def _plain(positions: dict[str, FloatArray]) -> dict[str, list[float]]:
    return {name: [_metres(value) for value in place] for name, place in positions.items()}


def _metres(value: float) -> float:
    """A tenth of a millimetre is more than any reader needs."""
    return round(float(value), 4)
