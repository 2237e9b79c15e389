# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes as batches for training: one observation without history, and what it shows.

Shapes: N scenes of a task; V views of each; B of a batch; J joints; P numbers of a scene; c h w of
a latent.

A scene's numbers stand in the order of a demonstration's (the task's things, metres, world frame),
the gripper's three after them; what is hidden or unknown is NaN. Held-out scenes are not drawn.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec, codec_fingerprint
from par_model.instruction import InstructionTable
from par_model.interface import ImageArray
from par_model.model import TrainingBatch
from par_model.normalization import Statistics
from par_model.simulation.tasks import task as task_by_name
from par_model.training.latent_cache import LatentArray, write_latents
from par_model.training.scene_set import SceneSet, SceneTable

# Two things of three coordinates, then the gripper's.
NUM_SCENE_NUMBERS = 9
_ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class ScenePictures:
    """One task's scenes under one codec.

    Attributes:
        name: of the set, for a run's identity.
        task: the task's name.
        num_views: V.
        latents: float16 [n V, c, h, w] a shard, in order, the views of a scene one after another;
            memory-mapped.
        joints: float64 [N, J], rad and m.
        numbers: float32 [N, P], NaN where hidden from every view or unknown.
        drawn: rows that training may draw.
        held_out: the others.
    """

    name: str
    task: str
    num_views: int
    latents: tuple[LatentArray, ...]
    joints: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.float32]
    drawn: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def scene_numbers(scenes: SceneSet, table: SceneTable) -> npt.NDArray[np.float32]:
    """float32 [N, P] as the module says."""
    base_m = scenes.robot_base_m.astype(np.float32)
    columns = []
    for name in (*task_by_name(table.task).position_names, "gripper"):
        seen = table.is_visible(name)[:, None]
        columns.append(np.where(seen, table.positions_m[name] + base_m, np.float32(np.nan)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def spread_scenes(folder: Path, num_pictures: int) -> tuple[ImageArray, npt.NDArray[np.float32]]:
    """About `num_pictures` pictures, uint8 [N, H, W, 3], that are not held out, spread evenly over
    the scenes in `folder`, and their numbers, float32 [N, P]."""
    scenes = SceneSet(folder)
    table = scenes.read_table()
    free = np.flatnonzero(~table.is_held_out())
    chosen = free[np.linspace(0, len(free) - 1, min(num_pictures, len(free))).astype(int)]
    is_chosen = np.zeros(len(table.scenes), dtype=np.bool_)
    is_chosen[chosen] = True
    parts, done = [], 0
    for pictures in scenes.pictures():
        parts.append(pictures[is_chosen[done : done + len(pictures)]])
        done += len(pictures)
    return np.concatenate(parts), scene_numbers(scenes, table)[is_chosen]


def read_scene_pictures(
    folder: Path,
    codec: FrameCodec,
    latents_root: Path,
    views: tuple[str, ...],
    report: Callable[[int, int], None],
) -> ScenePictures:
    """The scenes in `folder` with their latents, which are encoded where `latents_root` lacks them
    (about 4 ms a picture); `report(done, all)` after each shard.

    Raises ValueError for a folder without scenes, or with those of other cameras than `views`; a
    policy of one view takes any.
    """
    scenes = SceneSet(folder)
    pictures = scenes.read_table()
    table = pictures.by_scene(views, folder)
    settings = hashlib.sha256(json.dumps(scenes.settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"scenes_{scenes.task}_{settings}"
    latents = _latents(scenes, codec, latents_root / codec_fingerprint(codec) / name, report)
    held_out = table.is_held_out()
    return ScenePictures(
        name=f"{name}:{len(pictures.scenes)}",
        task=scenes.task,
        num_views=len(views),
        latents=latents,
        joints=table.joints.astype(np.float64),
        numbers=scene_numbers(scenes, table),
        drawn=np.flatnonzero(~held_out),
        held_out=np.flatnonzero(held_out),
    )


def _latents(
    scenes: SceneSet, codec: FrameCodec, cache: Path, report: Callable[[int, int], None]
) -> tuple[LatentArray, ...]:
    cache.mkdir(parents=True, exist_ok=True)
    codec = codec.for_pictures()
    paths = [cache / f"{shard.stem}.npy" for shard in scenes.shards]
    for index, path in enumerate(paths):
        if not path.exists():
            write_latents(path, _encoded(codec, scenes, index))
        report(index + 1, len(paths))
    return tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)


@torch.no_grad()
def _encoded(codec: FrameCodec, scenes: SceneSet, shard: int) -> LatentArray:
    parts = [
        codec.encode(part).half()
        for pictures in scenes.shard_pictures(shard)
        for part in torch.from_numpy(pictures).split(_ENCODED_AT_ONCE)
    ]
    latents: LatentArray = torch.cat(parts).contiguous().numpy()
    return latents


class ScenePictureSampler:
    """Batches of scenes of all tasks alike; a batch is a function of (seed, step)."""

    def __init__(
        self,
        sets: list[ScenePictures],
        statistics: Statistics,
        table: InstructionTable,
        model: ModelConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        self.sets = sets
        self._statistics = statistics
        self._texts = [table.embedding(task_by_name(s.task).instruction) for s in sets]
        self._model = model
        self._batch_size = batch_size
        self._seed = seed

    def batch(self, step: int) -> TrainingBatch:
        """Scenes of training."""
        generator = np.random.default_rng([self._seed, 2, step])
        chosen = generator.integers(len(self.sets), size=self._batch_size)
        rows = [
            (int(index), int(generator.choice(self.sets[index].drawn))) for index in np.sort(chosen)
        ]
        return self._batch(rows)

    def held_out_batch(self, index: int, most: int) -> TrainingBatch:
        """The first held-out scenes of one of `sets`."""
        return self._batch([(index, int(row)) for row in self.sets[index].held_out[:most]])

    def _batch(self, rows: list[tuple[int, int]]) -> TrainingBatch:
        model, count = self._model, len(rows)
        latents = np.stack([_latent(self.sets[index], row) for index, row in rows])
        joints = np.stack([self.sets[index].joints[row] for index, row in rows])
        numbers = np.stack([self.sets[index].numbers[row] for index, row in rows])
        now = torch.from_numpy(latents.astype(np.float32))
        proprio = torch.from_numpy(self._statistics.normalize_joints(joints)).float()
        slot, chunk = (
            torch.zeros(count, 1, length, model.action_width)
            for length in (model.num_actions, model.horizon)
        )
        return TrainingBatch(
            text_BTC=torch.stack([self._texts[index] for index, _ in rows]),
            # There is no next frame, and no chunk; neither counts.
            latents_BNchw=torch.stack((now, torch.zeros_like(now)), dim=1),
            actions_BNLD=chunk,
            context_actions_BNLD=slot,
            proprio_BNJ=torch.stack((proprio, torch.zeros_like(proprio)), dim=1),
            action_valid_BNL=torch.zeros(count, 1, model.horizon, dtype=torch.bool),
            frame_valid_BN=torch.zeros(count, 1, dtype=torch.bool),
            slot_offset_B=torch.zeros(count, dtype=torch.int64),
            scene_BNP=torch.from_numpy(numbers).unsqueeze(1),
        )


def _latent(pictures: ScenePictures, row: int) -> LatentArray:
    first, count = row * pictures.num_views, pictures.num_views
    for shard in pictures.latents:
        if first < len(shard):
            latent: LatentArray = np.concatenate(shard[first : first + count], axis=1)
            return latent
        first -= len(shard)
    raise AssertionError(f"row {row} is beyond the shards")
