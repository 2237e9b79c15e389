# SPDX-License-Identifier: Apache-2.0
"""Scenes that are put together, not played: the arm anywhere it can reach, cubes lying, moved,
tipped, held or stacked. Each is a function of its task and number alone.

Positions are metres in the world frame here. The hand points down, more or less: its z axis is the
approach, its y axis the one along which the fingers close.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from par_model.interface import FloatArray
from par_model.simulation.arm_kinematics import (
    NUM_ARM_JOINTS,
    ArmKinematics,
    Placed,
    robot_base_m,
)
from par_model.simulation.maniskill_env import ManiSkillArm

# Reset seeds of the scenes: apart from demonstrations, model selection and measurement.
FIRST_SCENE_SEED = 1_000_000
CUBE_HALF_M = 0.02
# Where the hand is, and its share; "start" is the reset's own pose.
HANDS = {"start": 0.08, "far": 0.27, "near": 0.4, "goal": 0.25}
# What the first cube does. PushCube's is pushed by the closed fingers where others are held.
CUBES = {"placed": 0.45, "moved": 0.2, "tipped": 0.08, "held": 0.27}
# Finger positions, metres.
_OPEN_M, _CLOSED_M, _HOLDING_M = 0.04, 0.0, CUBE_HALF_M
_REST_RAD = np.array([0.0, np.pi / 8, 0.0, -5 * np.pi / 8, 0.0, 3 * np.pi / 4, np.pi / 4])
_ARM_SPREAD_RAD = 0.3
# The hand's reach: x, y, z from and to, world frame.
_REACH_LOW_M, _REACH_HIGH_M = np.array([-0.25, -0.35, 0.02]), np.array([0.25, 0.35, 0.42])
_TABLE_LOW_M, _TABLE_HIGH_M = np.array([-0.2, -0.28]), np.array([0.25, 0.28])
# The hand's boxes in its own frame (origin between the finger tips, z ahead): palm, then a finger.
_PALM_LOW_M, _PALM_HIGH_M = np.array([-0.034, -0.105, -0.17]), np.array([0.034, 0.105, -0.045])
_FINGER_HALF_WIDTH_M, _FINGER_THICKNESS_M, _FINGER_END_M = 0.011, 0.022, 0.0115
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
# Corners, faces' middles and the centre of a cube, in half edges.
_CUBE_POINTS = np.concatenate([_CORNERS, np.eye(3), -np.eye(3), np.zeros((1, 3))])
_MAX_TRIES = 200


@dataclass(frozen=True)
class RandomScene:
    """What was put into the simulator.

    Attributes:
        number: of the scene; the reset's seed is FIRST_SCENE_SEED plus it.
        hand: where the hand is, one of HANDS; "far" or "goal" where it holds the cube.
        cube: what the first cube does, one of CUBES, or "stacked".
    """

    number: int
    hand: str
    cube: str


class SceneMaker:
    """Puts random scenes into one ManiSkillArm."""

    def __init__(self, arm: ManiSkillArm) -> None:
        self._arm = arm
        self._arm.reset(0)
        self._kinematics = ArmKinematics(arm)
        self._base_m = robot_base_m(arm)

    def make(self, number: int) -> RandomScene:
        """Put scene `number` into the simulator, at rest; about 5 ms."""
        arm = self._arm
        arm.reset(FIRST_SCENE_SEED + number, rebuild=False)
        task_number = sum(arm.task.name.encode())
        generator = np.random.default_rng([number, task_number, 20_261_126])
        reset = {name: self._read(name) for name in arm.task.position_names}
        for _ in range(_MAX_TRIES):
            drawn = _Draw(arm.task.name, reset, generator)
            scene = RandomScene(number, drawn.hand, drawn.cube)
            if not drawn.cubes_are_apart():
                continue
            if drawn.hand == "start":
                self._place(drawn)
                return scene
            if drawn.hand_is_free():
                joints = self._joints(drawn, generator)
                if joints is not None:
                    self._place(drawn)
                    self._move_arm(joints, drawn.finger_m)
                    return scene
        raise AssertionError(f"no possible scene in {_MAX_TRIES} tries for number {number}")

    def _joints(self, drawn: "_Draw", generator: np.random.Generator) -> FloatArray | None:
        near = _REST_RAD + generator.normal(0.0, _ARM_SPREAD_RAD, NUM_ARM_JOINTS)
        place = drawn.hand_place
        orientation = place.orientation.as_quat()[[3, 0, 1, 2]]
        return self._kinematics.joints_at(place.position_m - self._base_m, orientation, near)

    def _read(self, name: str) -> Placed:
        pose = self._arm.scene_object(name).pose
        quaternion = pose.q[0].numpy().astype(np.float64)[[1, 2, 3, 0]]
        return Placed(pose.p[0].numpy().astype(np.float64), Rotation.from_quat(quaternion))

    def _place(self, drawn: "_Draw") -> None:
        import sapien

        for name, place in drawn.cubes.items():
            quaternion = place.orientation.as_quat()[[3, 0, 1, 2]]
            self._arm.scene_object(name).set_pose(sapien.Pose(place.position_m, quaternion))

    def _move_arm(self, joints: FloatArray, finger_m: float) -> None:
        robot: Any = self._arm.maniskill_env.agent.robot
        robot.set_qpos(np.concatenate([joints, [finger_m, finger_m]])[None].astype(np.float32))


class _Draw:
    """One try at a scene of a task: the hand's place, the fingers, the cubes' places."""

    def __init__(
        self, task_name: str, reset: dict[str, Placed], generator: np.random.Generator
    ) -> None:
        self._generator = generator
        self._pushes = task_name == "PushCube"
        self._reset = reset
        self.hand = _chosen(HANDS, generator)
        self.cube = _chosen(CUBES, generator)
        if self.cube == "held" and self.hand != "goal":
            self.hand = "far"
        self.cubes = {name: place for name, place in reset.items() if name.startswith("cube")}
        if "cube_b" in self.cubes:
            if generator.random() < 0.2:
                self.cubes["cube_b"] = self._lying(tipped=generator.random() < 0.2)
            if self.cube == "placed" and generator.random() < 0.25:
                self.cube = "stacked"
                self.cubes["cube"] = self._stacked()
        if self.cube in ("moved", "tipped"):
            self.cubes["cube"] = self._lying(tipped=self.cube == "tipped")
        self.hand_place = self._hand_place()
        if self.cube == "held":
            self.cubes["cube"] = self._in_the_hand()
        self.finger_m = self._finger_m()

    def cubes_are_apart(self) -> bool:
        """Whether no cube is inside the other one."""
        if "cube_b" not in self.cubes or self.cube == "stacked":
            return True
        apart_m = self.cubes["cube"].position_m - self.cubes["cube_b"].position_m
        # Beyond that only edges can meet.
        return bool(np.linalg.norm(apart_m) > 2.05 * CUBE_HALF_M)

    def hand_is_free(self) -> bool:
        """Whether no cube is inside the hand or the table, and no finger inside the table."""
        inverse = self.hand_place.orientation.inv()
        for place in self.cubes.values():
            points = place.orientation.apply(CUBE_HALF_M * 0.97 * _CUBE_POINTS) + place.position_m
            in_hand = inverse.apply(points - self.hand_place.position_m)
            if points[:, 2].min() < -0.002 or _is_in_hand(in_hand, self.finger_m):
                return False
        side_m = self.finger_m + _FINGER_THICKNESS_M
        ends = np.array(
            [
                [x, y, _FINGER_END_M]
                for x in (-_FINGER_HALF_WIDTH_M, _FINGER_HALF_WIDTH_M)
                for y in (-side_m, side_m)
            ]
        )
        heights_m = self.hand_place.orientation.apply(ends)[:, 2] + self.hand_place.position_m[2]
        return bool(heights_m.min() > 0.0)

    def _lying(self, tipped: bool) -> Placed:
        """Somewhere on the table; tipped onto an edge or corner, as it is while it falls over."""
        x, y = self._generator.uniform(_TABLE_LOW_M, _TABLE_HIGH_M)
        turn = Rotation.from_euler("z", self._generator.uniform(0, 2 * np.pi))
        if not tipped:
            return Placed(np.array([x, y, CUBE_HALF_M]), turn)
        turn = Rotation.random(random_state=self._generator)
        height_m = -turn.apply(CUBE_HALF_M * _CORNERS)[:, 2].min()
        return Placed(np.array([x, y, height_m]), turn)

    def _stacked(self) -> Placed:
        """On top of the other cube, up to where it would fall."""
        below = self.cubes["cube_b"]
        offset_m = np.append(self._generator.uniform(-0.018, 0.018, 2), 0.0)
        top_m = below.orientation.apply(CUBE_HALF_M * _CORNERS)[:, 2].max()
        turn = Rotation.from_euler("z", self._generator.uniform(0, 2 * np.pi))
        return Placed(below.position_m + offset_m + [0, 0, top_m + CUBE_HALF_M], turn)

    def _hand_place(self) -> Placed:
        generator = self._generator
        if self.hand == "near":
            target = self.cubes["cube"]
            offset_m = np.append(generator.normal(0.0, 0.025, 2), generator.uniform(-0.015, 0.1))
            return Placed(target.position_m + offset_m, self._downwards(target.orientation, 0.1))
        if self.hand == "goal":
            return self._hand_at_goal()
        position_m = generator.uniform(_REACH_LOW_M, _REACH_HIGH_M)
        if self._pushes and self.cube == "held":
            position_m[2] = generator.uniform(0.012, 0.04)
        return Placed(position_m, self._downwards(None, 0.25))

    def _hand_at_goal(self) -> Placed:
        generator = self._generator
        if "cube_b" in self.cubes:
            offset_m = np.append(generator.normal(0.0, 0.02, 2), generator.uniform(0.02, 0.12))
            target = self.cubes["cube_b"]
            return Placed(target.position_m + offset_m, self._downwards(target.orientation, 0.08))
        goal_m = self._reset["goal"].position_m
        if self._pushes:
            # Somewhere on the way to the goal, at the cube's height.
            offset_m = np.array([generator.uniform(-0.3, 0.02), generator.normal(0.0, 0.03), 0.0])
            most_m = 0.04 if self.cube == "held" else 0.08
            height_m = [0.0, 0.0, generator.uniform(0.012, most_m)]
            return Placed(goal_m * [1, 1, 0] + offset_m + height_m, self._downwards(None, 0.1))
        offset_m = generator.normal(0.0, 0.03, 3)
        offset_m[2] += generator.uniform(0.0, 0.05)
        return Placed(goal_m + offset_m, self._downwards(None, 0.15))

    def _downwards(self, cube: Rotation | None, tilt_rad: float) -> Rotation:
        """The hand pointing down, tilted by about `tilt_rad`; often along the faces of `cube`."""
        generator = self._generator
        yaw = generator.uniform(-np.pi / 2, np.pi / 2)
        if self._pushes:
            yaw = generator.normal(0.0, 0.2)
        elif cube is not None and generator.random() < 0.7:
            # A quarter turn more or less is the same cube.
            along = float(cube.as_euler("ZYX")[0]) % (np.pi / 2)
            yaw = along - (np.pi / 2 if generator.random() < 0.5 else 0.0)
            yaw += generator.normal(0.0, 0.08)
        tilt = Rotation.from_rotvec(np.append(generator.normal(0.0, tilt_rad / 1.5, 2), 0.0))
        return tilt * Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi)

    def _in_the_hand(self) -> Placed:
        """Between the fingers, two faces against them; or before the closed fingers of a push."""
        generator, hand = self._generator, self.hand_place
        if self._pushes:
            ahead_m = CUBE_HALF_M + _FINGER_HALF_WIDTH_M + generator.uniform(0.0, 0.004)
            yaw = generator.normal(0.0, 0.2)
            side_m = generator.normal(0.0, 0.006)
            position_m = np.array(
                [hand.position_m[0] + ahead_m, hand.position_m[1] + side_m, CUBE_HALF_M]
            )
            return Placed(position_m, Rotation.from_euler("z", yaw))
        offset_m = np.array(
            [generator.normal(0, 0.005), generator.normal(0, 0.0005), generator.normal(0, 0.005)]
        )
        turn = Rotation.from_euler("y", generator.normal(0.0, 0.15))
        return Placed(hand.position_m + hand.orientation.apply(offset_m), hand.orientation * turn)

    def _finger_m(self) -> float:
        generator = self._generator
        kind = generator.random()
        if self._pushes:
            return _CLOSED_M if kind < 0.85 else float(generator.uniform(_CLOSED_M, _OPEN_M))
        if self.cube == "held":
            return _HOLDING_M
        if kind < 0.6:
            return _OPEN_M
        return _CLOSED_M if kind < 0.75 else float(generator.uniform(_CLOSED_M, _OPEN_M))


def _is_in_hand(points_m: FloatArray, finger_m: float) -> bool:
    """Whether a point [N, 3] in the hand's frame lies in the palm or in a finger."""
    x, y, z = points_m.T
    in_palm = np.all((points_m > _PALM_LOW_M) & (points_m < _PALM_HIGH_M), axis=1)
    beside = (np.abs(y) > finger_m) & (np.abs(y) < finger_m + _FINGER_THICKNESS_M)
    along = (z > _PALM_HIGH_M[2]) & (z < _FINGER_END_M)
    in_finger = beside & along & (np.abs(x) < _FINGER_HALF_WIDTH_M)
    return bool((in_palm | in_finger).any())


def _chosen(shares: dict[str, float], generator: np.random.Generator) -> str:
    names = list(shares)
    total = np.cumsum(list(shares.values()))
    return names[min(int(np.searchsorted(total, generator.random() * total[-1])), len(names) - 1)]
