# SPDX-License-Identifier: Apache-2.0
"""ManiSkill as an arm: SI joint targets in, joint positions and pictures out. No ROS."""

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from par_model.depth_view import DepthView
from par_model.interface import DEFAULT_VIEWS, FloatArray, ImageArray
from par_model.simulation.camera_view import CameraView
from par_model.simulation.further_cameras import DrawnPicture, FurtherCameras, drawn, shown
from par_model.simulation.light_meshes import light_urdf
from par_model.simulation.light_shaders import light_shaders
from par_model.simulation.robots import SimulatedRobot
from par_model.simulation.task import Task
from par_model.simulation.tasks import CONTROL_STEP_S
from par_model.simulation.tasks import task as task_by_name

# Longer than any episode: who steps the arm decides when an episode ends.
_NO_STEP_LIMIT = 1_000_000
# Physics steps a second in every task; a control step is a whole number of them.
_PHYSICS_HZ = 100
_DRIVER_SIGNS = ("rendering device", "physical device", "vulkan", "vk::")


class VulkanDriverError(ValueError):
    """No Vulkan driver that SAPIEN accepts."""


@dataclass(frozen=True)
class StepResult:
    """Result of one control step.

    Attributes:
        success: whether the task's condition holds now.
        success_once: whether it has held at any step since the reset.
        step: control steps since the reset, this one included.
    """

    success: bool
    success_once: bool
    step: int


class ManiSkillArm:
    """One ManiSkill environment with the task's robot and its cameras. Call `reset` first.

    Physics and pictures are apart: `step` takes about 1 ms and draws nothing, `capture` draws the
    scene as it is now. Equal seeds and targets give equal states and pictures, bit for bit.
    Raises VulkanDriverError where SAPIEN finds no usable Vulkan driver.
    """

    def __init__(
        self,
        task: Task | str,
        *,
        image_size: int = 128,
        light_meshes: bool = True,
        step_s: float = CONTROL_STEP_S,
        views: tuple[str, ...] = DEFAULT_VIEWS,
        depth_views: tuple[DepthView, ...] | None = None,
    ) -> None:
        """Raises ValueError for an unknown view, and where physics cannot make a step of `step_s`.

        Args:
            image_size: height and width of a view's picture.
            step_s: duration of a control step.
            views: names of the robot's cameras (robots.py), in the order of their pictures.
            depth_views: those that are depth for a policy, whose ranges are used; it is an error if
                they are others than the robot's. None: as the robot's cameras are.
        """
        self.task = task_by_name(task) if isinstance(task, str) else task
        self.image_size = image_size
        self.step_s = step_s
        self.robot = self.task.robot
        self.joint_names = self.robot.joint_names
        self._light_meshes = light_meshes and self.robot.has_light_meshes
        self.views = views
        self._camera_views = self.robot.named_views(views, image_size, depth_views)
        first, *others = self._camera_views
        with _drawn(self.robot, self._light_meshes):
            self._env = _make_environment(self.task, first, step_s)
        self._other_cameras = FurtherCameras(self._env, tuple(others))
        self._camera = self._env._human_render_cameras["render_camera"]
        self._num_steps = 0
        self._success_once = False

    def reset(self, seed: int, *, rebuild: bool = True) -> None:
        """Put arm and objects where `seed` says.

        The scene is rebuilt (about 0.1 s): PhysX keeps contact caches across a mere reset, and
        the same seed and targets then end 0.4 mm apart after a grasp, depending on what ran before.
        With rebuild=False the scene is kept; use it to look at initial states only.
        """
        with _drawn(self.robot, self._light_meshes):
            self._env.reset(seed=seed, options={"reconfigure": True} if rebuild else None)
        self._camera = self._env._human_render_cameras["render_camera"]
        for hidden in self._env._hidden_objects:
            # PickCube's goal: hidden from ManiSkill's sensors, but a policy that has only
            # pictures must see it.
            hidden.show_visual()
        self._num_steps = 0
        self._success_once = False

    def step(self, joint_targets: FloatArray) -> StepResult:
        """Drive towards `joint_targets` (float64 [J], rad and m) for one control step.

        Raises ValueError for a wrong shape, NaN or Inf. Targets beyond the gripper's range are
        clipped by ManiSkill's controller.
        """
        num_joints = len(self.joint_names)
        if joint_targets.shape != (num_joints,) or not np.isfinite(joint_targets).all():
            raise ValueError(
                f"joint targets must be {num_joints} finite numbers in the order "
                f"{list(self.joint_names)}, got {joint_targets!r}; check what commands the arm."
            )
        _, _, _, _, info = self._env.step(self.robot.to_action(joint_targets))
        success = bool(info["success"])
        self._num_steps += 1
        self._success_once = self._success_once or success
        return StepResult(success, self._success_once, self._num_steps)

    def read_joints(self) -> tuple[FloatArray, FloatArray]:
        """(measured positions [J] in rad and m, measured velocities [J] in rad/s and m/s)."""
        robot, num_joints = self._env.agent.robot, len(self.joint_names)
        positions = robot.get_qpos()[0, :num_joints].numpy().astype(np.float64)
        velocities = robot.get_qvel()[0, :num_joints].numpy().astype(np.float64)
        return positions, velocities

    def capture(self) -> ImageArray:
        """The views' pictures of the scene as it is now, one above the other: uint8 [V H, W, 3],
        RGB; 5 to 10 ms a view."""
        self.start_capture()
        return self.finish_capture()

    def start_capture(self) -> None:
        """Begin to draw the scene as it is now; `step` may be called while it is drawn."""
        # Made before the scene is updated: a camera that comes later does not show it.
        others = self._other_cameras.cameras()
        self._env.scene.update_render(update_sensors=False, update_human_render_cameras=True)
        self._camera.capture()
        for camera in others:
            camera.take_picture()

    def finish_capture(self) -> ImageArray:
        """Wait for the pictures that the last `start_capture` began: uint8 [V H, W, 3], RGB, and
        the grey levels of depth views."""
        drawn_views = zip(self.drawn_pictures().values(), self._camera_views, strict=True)
        pictures = [shown(picture, view) for picture, view in drawn_views]
        return pictures[0] if len(pictures) == 1 else np.concatenate(pictures)

    def drawn_pictures(self) -> dict[str, DrawnPicture]:
        """The same by view, as cameras give them: uint8 [H, W, 3], RGB, or uint16 [H, W], mm."""
        first = drawn(self._camera.camera, self._camera_views[0])
        return dict(zip(self.views, (first, *self._other_cameras.pictures()), strict=True))

    @property
    def depth_views(self) -> tuple[DepthView, ...]:
        """Those of the views that are depth."""
        found = (view.depth_view for view in self._camera_views)
        return tuple(view for view in found if view is not None)

    def camera_matrices(self) -> dict[str, FloatArray]:
        """Intrinsic matrix K of each view, float64 [3, 3], in pixels."""
        cameras = (self._camera.camera, *self._other_cameras.cameras())
        return {
            view: np.array(camera.get_intrinsic_matrix()[0], dtype=np.float64)
            for view, camera in zip(self.views, cameras, strict=True)
        }

    def move_camera(self, pose: Any) -> None:
        """Look from another place (ManiSkill's pose) until the next reset."""
        self._camera.camera.set_local_pose(pose.sp)

    def environment_state(self) -> dict[str, FloatArray]:
        """Positions that the policy never sees: name -> float64 [3], metres, world frame."""
        return {
            name: np.array(self.scene_object(name).pose.p[0].numpy(), dtype=np.float64)
            for name in self.task.objects
        }

    def gripper_position(self) -> FloatArray:
        """The point between the fingers, float64 [3], metres, world frame."""
        return np.array(self._env.agent.tcp_pose.p[0].numpy(), dtype=np.float64)

    def is_grasping_cube(self) -> bool:
        """Whether both fingers press on the task's cube, as ManiSkill defines a grasp."""
        return bool(self._env.agent.is_grasping(self.scene_object("cube"))[0])

    def scene_object(self, name: str) -> Any:
        """ManiSkill's own object behind one of the task's position names."""
        return getattr(self._env, self.task.objects[name])

    @property
    def maniskill_env(self) -> Any:
        """The bare ManiSkill environment, for its own motion planners."""
        return self._env

    def close(self) -> None:
        self._env.close()

    def __enter__(self) -> "ManiSkillArm":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _control_hz(step_s: float) -> int:
    """Control steps a second, which ManiSkill takes as a whole number that divides the physics."""
    control_hz = round(1.0 / step_s)
    if abs(control_hz * step_s - 1.0) > 1e-9 or _PHYSICS_HZ % control_hz:
        raise ValueError(
            f"the simulator makes {_PHYSICS_HZ} physics steps per second and cannot make control "
            f"steps of {step_s:g} s; use a checkpoint with a step_s of 0.01, 0.02, 0.04, 0.05, "
            "0.1, 0.2, 0.25, 0.5 or 1 s."
        )
    return control_hz


@contextlib.contextmanager
def _drawn(robot: SimulatedRobot, light: bool) -> Iterator[None]:
    """What a scene that is built inside is drawn with: shaders, and light meshes or not.

    ManiSkill takes the robot's file from its class whenever it builds a scene.

    The stock file is put back afterwards: the planners read the class too, and other environments
    of this process must keep theirs.
    """
    _, robots, _ = _import_maniskill()
    agent = getattr(robots, robot.agent)
    stock_urdf = agent.urdf_path
    if light:
        agent.urdf_path = str(light_urdf(Path(stock_urdf)))
    try:
        with light_shaders():
            yield
    finally:
        agent.urdf_path = stock_urdf


def _make_environment(task: Task, view: CameraView, step_s: float) -> Any:
    control_hz = _control_hz(step_s)
    gymnasium, _, look_at = _import_maniskill()
    if task.scene_module:
        importlib.import_module(task.scene_module)
    camera = {
        "pose": look_at(view.eye_m, view.target_m),
        "fov": view.fov_rad,
        "width": view.width,
        "height": view.height,
        "shader_pack": "minimal",
    }
    try:
        return gymnasium.make(
            task.maniskill_id,
            num_envs=1,
            obs_mode="none",
            reward_mode="none",
            control_mode="pd_joint_pos",
            robot_uids=task.robot.name,
            sim_backend="physx_cpu",
            render_backend="cpu",
            render_mode="rgb_array",
            human_render_camera_configs={"render_camera": camera},
            max_episode_steps=_NO_STEP_LIMIT,
            sim_config={"control_freq": control_hz},
        ).unwrapped
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _DRIVER_SIGNS):
            raise
        raise VulkanDriverError(
            f"ManiSkill found no usable Vulkan driver ({str(error).strip()}); Mesa's lavapipe 25 "
            "or newer is needed: run `./par setup`, or install mesa-vulkan-drivers from "
            "bookworm-backports."
        ) from error


def _import_maniskill() -> tuple[ModuleType, Any, Any]:
    try:
        import gymnasium
        import mani_skill.envs  # noqa: F401  registers the tasks
        from mani_skill.agents import robots
        from mani_skill.utils.sapien_utils import look_at
    except ImportError as error:
        raise ValueError(
            f"ManiSkill cannot be imported ({error}); install the extra `sim`: "
            "pip install 'par_ros[sim]', or run `./par setup`."
        ) from error
    return gymnasium, robots, look_at
