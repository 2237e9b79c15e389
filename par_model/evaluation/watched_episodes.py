# SPDX-License-Identifier: Apache-2.0
"""The planners' episodes seen through several cameras at once.

Shapes: T pictures of an episode; V views; 3 coordinates.
"""

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from par_model.interface import FloatArray, ImageArray
from par_model.simulation.camera_view import CameraView
from par_model.simulation.demonstrations import (
    FailedDemonstration,
    NoiseSettings,
    record_demonstration,
)
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.scene_cameras import SceneCameras
from par_model.simulation.worker_pool import run_jobs
from par_model.worker_options import WorkerOptions

# A picture answers this many control steps.
PICTURE_STEPS = 8


@dataclass(frozen=True)
class WatchedEpisode:
    """What V cameras saw of one planner's episode, at every 8th step.

    Attributes:
        task, seed: of the episode.
        positions_m: float64 [T, 3] by name, world frame.
        pixels: int64 [T, V] by name, how many show the thing.
        columns_px, rows_px: float64 [T, V] by name, their mean place; NaN where there is none.
    """

    task: str
    seed: int
    positions_m: dict[str, FloatArray]
    pixels: dict[str, np.ndarray]
    columns_px: dict[str, FloatArray]
    rows_px: dict[str, FloatArray]


@dataclass(frozen=True)
class EpisodeToWatch:
    """One job."""

    task: str
    seed: int
    views: tuple[CameraView, ...]


class _WatchingArm(ManiSkillArm):
    """Looks through the views where a demonstration takes the policy's picture."""

    def __init__(self, task: str, views: tuple[CameraView, ...]) -> None:
        super().__init__(task)
        self._cameras = SceneCameras(self, views)
        self._num_captures = 0
        self.looks: list[list[dict]] = []

    def reset(self, seed: int, *, rebuild: bool = True) -> None:
        super().reset(seed, rebuild=rebuild)
        self._num_captures = 0
        self.looks = []

    def capture(self) -> ImageArray:
        if self._num_captures % PICTURE_STEPS == 0:
            self.looks.append([look.blobs for look in self._cameras.capture()])
        self._num_captures += 1
        return np.zeros((1, 1, 3), dtype=np.uint8)


def watch_episodes(
    episodes: Iterable[EpisodeToWatch], workers: WorkerOptions
) -> Iterator[WatchedEpisode | None]:
    """In the order in which they finish; None where the planner finds no way."""
    return run_jobs(_watch, episodes, workers)


_worker_arms: dict[tuple[str, tuple[CameraView, ...]], _WatchingArm] = {}


def _watch(episode: EpisodeToWatch) -> WatchedEpisode | None:
    key = (episode.task, episode.views)
    if key not in _worker_arms:
        _worker_arms[key] = _WatchingArm(episode.task, episode.views)
        # As in `collect`: ManiSkill collects garbage at each reset.
        gc.freeze()
    arm = _worker_arms[key]
    try:
        done = record_demonstration(arm, episode.seed, NoiseSettings(share=0.0), num_hold_steps=0)
    except FailedDemonstration:
        return None
    names = arm.task.position_names
    state = done.environment_state[::PICTURE_STEPS].astype(np.float64)
    by_name = {name: [[blobs[name] for blobs in seen] for seen in arm.looks] for name in names}

    def numbers(of: str) -> dict[str, np.ndarray]:
        return {
            name: np.array([[getattr(blob, of) for blob in row] for row in rows])
            for name, rows in by_name.items()
        }

    return WatchedEpisode(
        task=episode.task,
        seed=episode.seed,
        positions_m={name: state[:, 3 * i : 3 * i + 3] for i, name in enumerate(names)},
        pixels=numbers("num_pixels"),
        columns_px=numbers("column"),
        rows_px=numbers("row"),
    )
