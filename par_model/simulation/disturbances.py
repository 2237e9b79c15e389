# SPDX-License-Identifier: Apache-2.0
"""Things that go wrong in the middle of an episode, each drawn from a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from par_model.interface import FloatArray, ImageArray
from par_model.simulation.maniskill_env import ManiSkillArm, StepResult

# Control steps after the reset within which a disturbance begins.
FIRST_STEP, LAST_STEP = 10, 45
OPEN_GRIPPER_M = 0.04
_CUBE_HEIGHT_M = 0.02
_SLIP_STEPS = 8
_HELD_STEPS_BEFORE_A_SLIP = 3
_NEW_COLOURS = ((0.9, 0.8, 0.1), (0.6, 0.1, 0.7), (0.1, 0.8, 0.8), (0.95, 0.95, 0.95))
_OBSTACLE_HALF_M = (0.02, 0.02, 0.05)
_OBSTACLE_COLOUR = (0.55, 0.2, 0.65, 1.0)
# Where nothing can be seen or touched.
_AWAY_M = (8.0, 8.0, 0.5)


@dataclass(frozen=True)
class Disturbance:
    """One change to a running episode.

    Attributes:
        kind: one of KINDS.
        seed: of everything that is drawn: when it begins, how large it is, and where.
    """

    kind: str
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"disturbance {self.kind!r} is unknown; the kinds are {', '.join(KINDS)}."
            )

    def generator(self) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, list(KINDS).index(self.kind)]))


class DisturbedArm(ManiSkillArm):
    """A ManiSkillArm whose episodes are disturbed. Set `disturbance` before `reset`; None: none.

    A slip begins 3 control steps after the gripper has closed on the cube, the others at a step
    between FIRST_STEP and LAST_STEP.

    Attributes:
        began_at: control steps from the reset to the disturbance; None: it has not begun (yet).
    """

    disturbance: Disturbance | None = None
    began_at: int | None = None

    def reset(self, seed: int, *, rebuild: bool = True) -> None:
        super().reset(seed, rebuild=rebuild)
        self.began_at = None
        self._steps = 0
        self._held_steps = 0
        self._frozen: ImageArray | None = None
        if self.disturbance is not None:
            self._generator = self.disturbance.generator()
            self._start = int(self._generator.integers(FIRST_STEP, LAST_STEP + 1))
            # Built with the scene: an object that is added later would change the physics' order.
            if self.disturbance.kind == "unknown_object":
                self._obstacle = _build_obstacle(self.maniskill_env.scene)

    def step(self, joint_targets: FloatArray) -> StepResult:
        if self._slips():
            joint_targets = np.append(joint_targets[:-1], OPEN_GRIPPER_M)
        result = super().step(joint_targets)
        self._steps += 1
        disturbance = self.disturbance
        if disturbance is None or self.began_at is not None:
            return result
        if disturbance.kind == "gripper_slips":
            self._held_steps = self._held_steps + 1 if self.is_grasping_cube() else 0
            begins = self._held_steps >= _HELD_STEPS_BEFORE_A_SLIP
        else:
            begins = self._steps >= self._start
        # A task that is done is no longer disturbed.
        if begins and not result.success:
            self.began_at = self._steps
            KINDS[disturbance.kind](self, self._generator)
        return result

    def finish_capture(self) -> ImageArray:
        picture = super().finish_capture()
        return picture if self._frozen is None else self._frozen.copy()

    def freeze_picture(self) -> None:
        """From now on every capture gives the scene as it is now."""
        self._frozen = super().capture()

    def place_obstacle(self, place_m: FloatArray) -> None:
        """Put the unknown object here (its centre, metres, world frame)."""
        import sapien

        self._obstacle.set_pose(sapien.Pose(place_m))

    def _slips(self) -> bool:
        is_slip = self.disturbance is not None and self.disturbance.kind == "gripper_slips"
        return is_slip and self.began_at is not None and self._steps < self.began_at + _SLIP_STEPS


def _build_obstacle(scene: Any) -> Any:
    import sapien

    builder = scene.create_actor_builder()
    builder.add_box_collision(half_size=_OBSTACLE_HALF_M)
    material = sapien.render.RenderMaterial(base_color=_OBSTACLE_COLOUR)
    builder.add_box_visual(half_size=_OBSTACLE_HALF_M, material=material)
    builder.initial_pose = sapien.Pose(_AWAY_M)
    return builder.build_kinematic(name="unknown_object")


def _move_cube(arm: DisturbedArm, generator: np.random.Generator) -> None:
    """By 3 to 8 cm in any direction on the table."""
    import sapien

    pose = arm.scene_object("cube").pose.sp
    angle, length_m = generator.uniform(0.0, 2 * np.pi), generator.uniform(0.03, 0.08)
    place_m = pose.p + length_m * np.array([np.cos(angle), np.sin(angle), 0.0])
    place_m[2] = _CUBE_HEIGHT_M
    arm.scene_object("cube").set_pose(sapien.Pose(place_m, pose.q))


def _take_cube_away(arm: DisturbedArm, generator: np.random.Generator) -> None:
    import sapien

    arm.scene_object("cube").set_pose(sapien.Pose(_AWAY_M))


def _recolour_cube(arm: DisturbedArm, generator: np.random.Generator) -> None:
    """To yellow, violet, turquoise or white."""
    import sapien

    colour = _NEW_COLOURS[int(generator.integers(len(_NEW_COLOURS)))]
    for entity in arm.scene_object("cube")._objs:
        body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
        for shape in body.render_shapes:
            shape.material.set_base_color([*colour, 1.0])


def _bump_camera(arm: DisturbedArm, generator: np.random.Generator) -> None:
    """The first view's, by 1 to 10 cm in any direction; it goes on looking the same way."""
    from mani_skill.utils.sapien_utils import look_at

    direction = generator.normal(size=3)
    direction *= generator.uniform(0.01, 0.10) / np.linalg.norm(direction)
    view = arm.robot.named_views(arm.views, arm.image_size)[0]
    arm.move_camera(look_at(view.eye_m + direction, view.target_m + direction))


def _change_light(arm: DisturbedArm, generator: np.random.Generator) -> None:
    """All lights to 30 to 70 %, or to 140 to 200 %."""
    import sapien

    brighter = bool(generator.integers(2))
    factor = generator.uniform(1.4, 2.0) if brighter else generator.uniform(0.3, 0.7)
    for scene in arm.maniskill_env.scene.sub_scenes:
        scene.set_ambient_light((factor * np.array(scene.ambient_light)).tolist())
        for entity in scene.entities:
            light = entity.find_component_by_type(sapien.render.RenderLightComponent)
            if light is not None:
                light.color = (factor * np.array(light.color)).tolist()


def _show_unknown_object(arm: DisturbedArm, generator: np.random.Generator) -> None:
    """A violet post of 4 x 4 x 10 cm on the table, 7 to 9 cm from the cube and at least 9 cm from
    the gripper where there is such a place."""
    cube_m, gripper_m = arm.environment_state()["cube"], arm.gripper_position()
    for _ in range(50):
        angle, length_m = generator.uniform(0.0, 2 * np.pi), generator.uniform(0.07, 0.09)
        place_m = cube_m + length_m * np.array([np.cos(angle), np.sin(angle), 0.0])
        if np.linalg.norm((place_m - gripper_m)[:2]) > 0.09:
            break
    place_m[2] = _OBSTACLE_HALF_M[2]
    arm.place_obstacle(place_m)


def _freeze_picture(arm: DisturbedArm, generator: np.random.Generator) -> None:
    arm.freeze_picture()


def _slip(arm: DisturbedArm, generator: np.random.Generator) -> None:
    """`DisturbedArm.step` opens the gripper for 8 control steps."""


# What may be asked for, in the order of tables.
KINDS: dict[str, Callable[[DisturbedArm, np.random.Generator], None]] = {
    "cube_moved": _move_cube,
    "cube_recoloured": _recolour_cube,
    "cube_taken_away": _take_cube_away,
    "camera_bumped": _bump_camera,
    "light_changed": _change_light,
    "unknown_object": _show_unknown_object,
    "gripper_slips": _slip,
    "picture_frozen": _freeze_picture,
}
