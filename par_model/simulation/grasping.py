# SPDX-License-Identifier: Apache-2.0
"""The part of an expert that gets a cube between the fingers, from any state on.

The phase follows from the state alone: over the cube (CLEAR_M above its centre), down, close; up
first where the hand stands low beside the cube, with the fingers open. What comes after the grasp
is the task's. Metres, world frame.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from par_model.interface import FloatArray
from par_model.simulation.arm_kinematics import NUM_ARM_JOINTS, Placed
from par_model.simulation.hand_motion import (
    CLOSED_M,
    OPEN_M,
    Hand,
    HandChunk,
    horizontal,
    placed,
    pointing_down,
)
from par_model.simulation.milestones import MOVED_M, REACHED_M

if TYPE_CHECKING:
    # It reads the tasks.
    from par_model.simulation.maniskill_env import ManiSkillArm

# Height of the hand above the cube's centre on the way to it, as the planners have it.
CLEAR_M = 0.05
# Steps that the fingers take to close, as the planners wait.
CLOSE_STEPS = 6
# Below this height above the cube's centre the fingers hit the cube when they come from the side.
_LOW_M = 0.04
# Beside the cube's centre by less than this: the open fingers go down around it. Above the cube
# more is enough, since the way down is a line that ends at its centre.
_BESIDE_M, _BESIDE_PER_HEIGHT = 0.010, 0.3
# The fingers close here.
_AROUND_M, _AROUND_HEIGHT_M = 0.012, 0.010
_TURNED_RAD = 0.2
# Half gap: fully open; and less than a cube is between the fingers.
_IS_OPEN_M, _IS_EMPTY_M = 0.035, 0.017
_OPEN_STEPS = 3
# Half a finger's width, and its distance from the middle when open, out and in.
_FINGER_M = np.array([0.011, 0.064, 0.038])
_CUBE_HALF_M = 0.02
# Of the hand, where a cube is too far away for straight down.
_TILTS_RAD = (0.0, 0.2, 0.4)


class GraspingExpert(ABC):
    """Labels any state of a task that begins with a grasp of its cube."""

    def __init__(self, arm: "ManiSkillArm") -> None:
        """The arm must have been reset once."""
        self.arm = arm
        self.hand = Hand(arm)
        self.reset()

    def reset(self) -> None:
        self._closing_at_reset = horizontal(self.hand.place().orientation.as_matrix()[:, 1])
        self._cube_at_reset_m = self.cube().position_m
        self._was_missed = False

    def label(self, num_steps: int) -> FloatArray:
        chunk = self.hand.chunk(num_steps)
        if self.is_held():
            self._was_missed = False
            return self.after_grasp(chunk).targets(CLOSED_M)
        if self.is_done():
            return self.retreat(chunk).targets(OPEN_M)
        empty = self.hand.finger_m() < _IS_EMPTY_M
        self._was_missed = self._was_missed or empty
        grasp = self._grasp()
        if self._is_around(grasp) and not empty:
            self.close(chunk)
        else:
            self._come(chunk, grasp)
        return chunk.targets(CLOSED_M)

    def teaches(self) -> bool:
        """After a missed grasp, with a knocked cube, and near the goal."""
        if self.is_held():
            return self.is_near_goal()
        moved_m = np.linalg.norm(self.cube().position_m - self._cube_at_reset_m)
        return bool(self._was_missed or moved_m > MOVED_M)

    @abstractmethod
    def after_grasp(self, chunk: HandChunk) -> HandChunk:
        """What is done with the held cube."""

    @abstractmethod
    def is_done(self) -> bool:
        """Whether the cube, not held, lies where it should."""

    @abstractmethod
    def is_near_goal(self) -> bool:
        """Whether the held cube is near its goal."""

    def cube(self) -> Placed:
        return placed(self.arm.scene_object("cube").pose)

    def is_held(self) -> bool:
        apart_m = np.linalg.norm(self.hand.place().position_m - self.cube().position_m)
        return bool(apart_m < REACHED_M) and self.arm.is_grasping_cube()

    def close(self, chunk: HandChunk) -> HandChunk:
        """Close, then go on as if the cube were held."""
        chunk.wait(CLOSE_STEPS, CLOSED_M)
        return chunk if chunk.is_full else self.after_grasp(chunk)

    def retreat(self, chunk: HandChunk) -> HandChunk:
        """Open, then up."""
        if self.hand.finger_m() < _IS_OPEN_M:
            chunk.wait(_OPEN_STEPS, OPEN_M)
        place = self.hand.place()
        height_m = max(place.position_m[2], self.cube().position_m[2] + 2 * CLEAR_M)
        return chunk.move(_at_height(place, height_m), OPEN_M)

    def held_at(self, cube_m: FloatArray) -> Placed:
        """Where the hand is when the held cube is at `cube_m`; the hand points straight down."""
        hand = self.hand.place()
        closing = horizontal(hand.orientation.as_matrix()[:, 1])
        in_hand_m = self.cube().position_m - hand.position_m
        return Placed(cube_m - in_hand_m, pointing_down(closing))

    def _come(self, chunk: HandChunk, grasp: Placed) -> None:
        """To the cube with open fingers, around it, and close."""
        place = self.hand.place()
        height_m = place.position_m[2] - grasp.position_m[2]
        is_over = self._is_over(grasp)
        if self.hand.finger_m() < _IS_OPEN_M and height_m < _LOW_M:
            chunk.wait(_OPEN_STEPS, OPEN_M)
        if not is_over:
            if height_m < _LOW_M:
                chunk.move(_at_height(place, grasp.position_m[2] + CLEAR_M), OPEN_M)
            chunk.move(_at_height(grasp, grasp.position_m[2] + CLEAR_M), OPEN_M)
        chunk.move(grasp, OPEN_M)
        if chunk.reached:
            self.close(chunk)
        else:
            chunk.wait(CLOSE_STEPS, OPEN_M)

    def _is_over(self, grasp: Placed) -> bool:
        beside_m, height_m, turned_rad = self._away(grasp)
        room_m = max(_BESIDE_M, _BESIDE_PER_HEIGHT * height_m)
        return bool(beside_m < room_m and height_m < 1.6 * CLEAR_M and turned_rad < _TURNED_RAD)

    def _is_around(self, grasp: Placed) -> bool:
        beside_m, height_m, turned_rad = self._away(grasp)
        is_near = beside_m < _AROUND_M and abs(height_m) < _AROUND_HEIGHT_M
        return bool(is_near and turned_rad < _TURNED_RAD)

    def _away(self, grasp: Placed) -> tuple[float, float, float]:
        """The hand from where it grasps: to the side and up, metres; turned, rad."""
        place = self.hand.place()
        way_m = place.position_m - grasp.position_m
        turned_rad = float((grasp.orientation.inv() * place.orientation).magnitude())
        return float(np.linalg.norm(way_m[:2])), float(way_m[2]), turned_rad

    def _grasp(self) -> Placed:
        """The hand around the cube, its fingers along two of the cube's upright faces: those along
        which they nearly are, else those nearest to the reset's direction, with room for the
        fingers."""
        cube = self.cube()
        now = horizontal(self.hand.place().orientation.as_matrix()[:, 1])
        best, least = None, np.inf
        for closing in _closings(cube, self._closing_at_reset):
            cost = float(np.arccos(np.clip(closing @ self._closing_at_reset, -1.0, 1.0)))
            cost -= 0.5 * float(closing @ now > np.cos(_TURNED_RAD))
            cost += 4.0 * float(not self._has_room(cube, closing))
            if cost < least:
                best, least = closing, cost
        assert best is not None
        return self._within_reach(cube.position_m, best)

    def _within_reach(self, cube_m: FloatArray, closing: FloatArray) -> Placed:
        """Straight down around the cube; tilted where the arm does not reach that far."""
        near_rad = self.arm.read_joints()[0][:NUM_ARM_JOINTS]
        for tilt_rad in _TILTS_RAD:
            grasp = Placed(cube_m, pointing_down(closing, tilt_rad))
            if self.hand.joints_at(grasp, near_rad) is not None:
                return grasp
        return Placed(cube_m, pointing_down(closing))

    def _has_room(self, cube: Placed, closing: FloatArray) -> bool:
        """Whether the open fingers beside `cube` miss the other cubes."""
        ahead = np.array([-closing[1], closing[0], 0.0])
        for name in self.arm.task.objects:
            if not name.startswith("cube_"):
                continue
            other = placed(self.arm.scene_object(name).pose)
            way_m = other.position_m - cube.position_m
            corners = [np.array([x, y, 0.0]) for x in (-1, 0, 1) for y in (-1, 0, 1)]
            for corner in corners:
                point_m = way_m + other.orientation.apply(_CUBE_HALF_M * corner)
                out_m, side_m = abs(point_m @ closing), abs(point_m @ ahead)
                if _FINGER_M[2] - 0.004 < out_m < _FINGER_M[1] and side_m < _FINGER_M[0] + 0.006:
                    return False
        return True


def _closings(cube: Placed, forward: FloatArray) -> list[FloatArray]:
    """The horizontal directions across a cube's upright faces, turned to the side of `forward`."""
    axes = cube.orientation.as_matrix().T
    flat = sorted(axes, key=lambda axis: abs(axis[2]))[:2]
    directions = [horizontal(axis) for axis in flat]
    # Of a tipped cube only one direction may be level; the other one is across it.
    directions[1] = np.array([-directions[0][1], directions[0][0], 0.0])
    return [d if d @ forward >= 0 else -d for d in directions]


def _at_height(place: Placed, height_m: float) -> Placed:
    return Placed(np.array([*place.position_m[:2], height_m]), place.orientation)
