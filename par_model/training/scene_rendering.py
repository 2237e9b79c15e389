# SPDX-License-Identifier: Apache-2.0
"""Renders random scenes into a scene set: one job a shard, in processes that keep a simulator.

A worker returns a shard's file; the command that was started writes it."""

import contextlib
import gc
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from par_model.simulation.arm_kinematics import ROBOT_BASE_M, robot_base_m
from par_model.simulation.camera_view import CameraView
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.random_scenes import FIRST_SCENE_SEED, RandomScene, SceneMaker
from par_model.simulation.robots import PANDA
from par_model.simulation.scene_cameras import Look, SceneCameras
from par_model.simulation.tasks import task
from par_model.simulation.worker_pool import run_jobs
from par_model.training.scene_set import (
    SCENES_PER_SHARD,
    SceneRow,
    encoded_shard,
    shard_path,
    start_scene_set,
    store_shard,
)
from par_model.worker_options import WorkerOptions

# Raise when the same number would give another scene.
_RECIPE_VERSION = 1
# What a picture depends on: a set is not continued with other versions.
_VERSIONED = ("mani-skill", "sapien", "numpy", "scipy")

# Called with (pictures made in this call, seconds of work per picture of the last shard).
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class SceneRendering:
    """What is rendered of one task. Equal settings give equal pictures.

    Attributes:
        task: the task's name.
        num_scenes: how many; whole shards are rendered.
        views: each scene is seen from each of them.
        scenes_per_shard: scenes in a file.
    """

    task: str
    num_scenes: int
    views: tuple[CameraView, ...]
    scenes_per_shard: int = SCENES_PER_SHARD

    def validate(self) -> None:
        """Raise ValueError for what cannot be rendered."""
        task(self.task)
        if self.num_scenes < 1 or self.scenes_per_shard < 1:
            raise ValueError(
                "the numbers of scenes and of scenes a shard must be at least 1, got "
                f"{self.num_scenes} and {self.scenes_per_shard}."
            )
        names = [view.name for view in self.views]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"cameras need names of their own, got {', '.join(names) or 'none'}.")
        if len({(view.width, view.height) for view in self.views}) > 1:
            raise ValueError("the pictures of a set must have one size; use an --out for each.")

    @property
    def num_shards(self) -> int:
        return -(-self.num_scenes // self.scenes_per_shard)

    def missing_shards(self, out: Path) -> list[int]:
        """Numbers of the shards that OUT/TASK lacks."""
        folder = out / self.task
        return [n for n in range(self.num_shards) if not shard_path(folder, n).exists()]

    def settings(self) -> dict[str, Any]:
        """All that decides what a scene's pictures look like."""
        return {
            "task": self.task,
            "cameras": [str(view) for view in self.views],
            "robot_base_m": list(ROBOT_BASE_M),
            "joint_names": list(PANDA.joint_names),
            "scenes_per_shard": self.scenes_per_shard,
            "recipe": _RECIPE_VERSION,
            "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        }


def render_scenes(
    rendering: SceneRendering, out: Path, workers: WorkerOptions, report: Report
) -> None:
    """Render into OUT/TASK what is missing there. Blocks until done."""
    rendering.validate()
    folder = out / rendering.task
    start_scene_set(folder, rendering.settings())
    missing = [_Job(rendering, shard) for shard in rendering.missing_shards(out)]
    with contextlib.closing(run_jobs(_render_shard, missing, workers)) as results:
        for shard in results:
            store_shard(folder, shard.number, shard.content)
            report(shard.num_pictures, shard.work_s / shard.num_pictures)


@dataclass(frozen=True)
class _Job:
    """One shard for a worker."""

    rendering: SceneRendering
    shard: int


@dataclass(frozen=True)
class _Shard:
    """What a worker made: the file's content, how many pictures it has and how long they took."""

    number: int
    content: bytes
    num_pictures: int
    work_s: float


@dataclass(frozen=True)
class _Studio:
    """A worker's simulator of one task, kept from shard to shard."""

    arm: ManiSkillArm
    maker: SceneMaker
    cameras: SceneCameras


_studios: dict[tuple[str, tuple[CameraView, ...]], _Studio] = {}


def _studio(rendering: SceneRendering) -> _Studio:
    key = (rendering.task, rendering.views)
    if key not in _studios:
        arm = ManiSkillArm(rendering.task)
        maker = SceneMaker(arm)
        assert np.allclose(robot_base_m(arm), ROBOT_BASE_M, atol=1e-6)
        _studios[key] = _Studio(arm, maker, SceneCameras(arm, rendering.views))
        # ManiSkill collects garbage at each reset: 0.25 s that go through torch's and its own
        # modules, which stay.
        gc.freeze()
    return _studios[key]


def _render_shard(job: _Job) -> _Shard:
    """Runs in a worker."""
    studio = _studio(job.rendering)
    started = time.monotonic()
    rows: list[SceneRow] = []
    first = job.shard * job.rendering.scenes_per_shard
    for number in range(first, first + job.rendering.scenes_per_shard):
        scene = studio.maker.make(number)
        looks = studio.cameras.capture()
        for view, look in zip(job.rendering.views, looks, strict=True):
            rows.append(_row(studio.arm, scene, view, look))
    content = encoded_shard(rows)
    return _Shard(job.shard, content, len(rows), time.monotonic() - started)


def _row(arm: ManiSkillArm, scene: RandomScene, view: CameraView, look: Look) -> SceneRow:
    positions_m = {"gripper": arm.gripper_position()} | arm.environment_state()
    return SceneRow(
        task=arm.task.name,
        seed=FIRST_SCENE_SEED + scene.number,
        scene=scene.number,
        camera=view.name,
        hand=scene.hand,
        cube_state=scene.cube,
        image=look.image,
        joints=arm.read_joints()[0],
        positions_m={name: p - np.array(ROBOT_BASE_M) for name, p in positions_m.items()},
        pixels={name: blob.num_pixels for name, blob in look.blobs.items()},
    )
