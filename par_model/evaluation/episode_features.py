# SPDX-License-Identifier: Apache-2.0
"""A policy's features along demonstrations, each slot with its whole history.

Shapes: N slots of all episodes together; T steps of an episode; c h w of a latent.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from par_model.checkpoint import Checkpoint
from par_model.evaluation.context_readout import Features
from par_model.frame_codec import encode_views
from par_model.interface import FloatArray
from par_model.model import TrainingBatch
from par_model.simulation.arm_kinematics import ROBOT_BASE_M, gripper_positions_m
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import TASKS, Task
from par_model.training.clips import (
    ClipPlan,
    TrainingEpisode,
    clip_num_slots,
    collate,
    cut_clip,
)
from par_model.training.demonstrations_on_disk import DemonstrationSet, is_held_out
from par_model.training.scene_set import THINGS, VISIBLE_PIXELS, SceneTable

# A cube that is nearer to the point between the fingers, which are about its width apart, is held.
_HELD_M, _HELD_FINGER_M = 0.02, (0.017, 0.023)


@dataclass(frozen=True)
class EpisodeFeatures:
    """Features of N slots, what they show, and which are of held-out demonstrations, bool [N].

    How many pixels show a thing is not known of demonstrations: all count as visible.
    """

    features: Features
    table: SceneTable
    judged: npt.NDArray[np.bool_]


class _Latents:
    """Stands where clips.py reads a cache: one episode, one variant."""

    def __init__(self, latents_Tchw: FloatArray) -> None:
        self._latents = latents_Tchw

    def read(self, episode_key: int, digest: str) -> list[FloatArray]:
        return [self._latents]


@torch.no_grad()
def read_episode_features(
    checkpoint: Checkpoint,
    demonstrations: DemonstrationSet,
    max_episodes: int | None = None,
    steps_after_success: int | None = 2,
) -> EpisodeFeatures:
    """Of the set's first episodes; about 0.3 s each on a CPU core.

    steps_after_success: episodes are cut so many steps after their first success; None: not.

    Raises ValueError for a set of no task here, or without positions.
    """
    parts, rows, keys = [], [], []
    for key in demonstrations.keys[:max_episodes]:
        episode = encoded_episode(checkpoint, demonstrations, key, steps_after_success)
        steps = episode.steps
        num_slots = clip_num_slots(
            steps.num_steps, 0, checkpoint.config.num_actions, checkpoint.config.num_slots
        )
        at = np.arange(num_slots) * checkpoint.config.num_actions
        parts.append(_features(checkpoint, episode, num_slots))
        rows.append(np.concatenate([steps.measured_joints[at], steps.scene[at]], axis=1))
        keys.append(np.full(num_slots, key))
    task = _task(demonstrations, rows[0].shape[1] - 8)
    numbers = np.concatenate(rows)
    scenes = np.concatenate(keys)
    return EpisodeFeatures(
        features=Features(*(torch.cat(column) for column in zip(*parts, strict=True))),
        table=_table(task, scenes, numbers[:, :8], numbers[:, 8:]),
        judged=np.array([is_held_out(int(key)) for key in scenes]),
    )


def _task(demonstrations: DemonstrationSet, num_numbers: int) -> Task:
    for task in TASKS.values():
        if task.instruction in demonstrations.instructions:
            if task.robot != PANDA:
                raise ValueError(
                    f"{demonstrations.path} is of the {task.robot.name}; where the gripper is can "
                    f"be computed for the {PANDA.name} only."
                )
            if num_numbers != 3 * len(task.position_names):
                raise ValueError(f"{demonstrations.path} knows no positions of its things.")
            return task
    raise ValueError(f"{demonstrations.path} is of none of the tasks {', '.join(TASKS)}.")


def encoded_episode(
    checkpoint: Checkpoint,
    demonstrations: DemonstrationSet,
    key: int,
    steps_after_success: int | None,
) -> TrainingEpisode:
    """An episode with the latents of each chunk's first frame, from which clips can be cut."""
    steps = demonstrations.read_steps(key, steps_after_success)
    frames = demonstrations.read_frames(key, checkpoint.config.views)
    latents = _encoded(checkpoint, frames[: steps.num_steps])
    return TrainingEpisode("", steps, _Latents(latents))  # type: ignore[arg-type]


@torch.no_grad()
def _encoded(checkpoint: Checkpoint, frames_THWC: np.ndarray) -> FloatArray:
    """Every chunk's first frame only; the others are not read."""
    length = checkpoint.config.num_actions
    codec = checkpoint.codec.for_pictures()
    needed = torch.from_numpy(frames_THWC[::length])
    latents = encode_views(codec, needed, checkpoint.config.num_views).float().contiguous().numpy()
    everywhere: FloatArray = np.repeat(latents, length, axis=0)[: len(frames_THWC)]
    return everywhere


def whole_clip(checkpoint: Checkpoint, episode: TrainingEpisode, num_slots: int) -> TrainingBatch:
    """A batch of one: the episode from its first step on, without noise in its history."""
    config = checkpoint.config
    quiet = np.zeros((num_slots, config.num_actions, config.action_width))
    plan = ClipPlan(0, 0, num_slots, 0, 0)
    clip = cut_clip(
        episode, plan, checkpoint.statistics, quiet, config.context_action, config.num_actions
    )
    has_delays = config.max_delay_steps > 0
    texts = [episode.steps.instruction]
    return collate([clip], texts, [0], checkpoint.instructions, 0, has_delays)


def _features(
    checkpoint: Checkpoint, episode: TrainingEpisode, num_slots: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    model = checkpoint.model.eval()
    batch = whole_clip(checkpoint, episode, num_slots)
    context = model.training_context(batch)
    first = torch.zeros(1, num_slots, dtype=torch.bool)
    first[:, 0] = True
    latents_1Nchw = batch.latents_BNchw[:, :-1]
    tokens = model.tokenizer.frame_tokens(latents_1Nchw, first, torch.arange(num_slots)[None])
    return (
        context.action_BNZC[0].flatten(1),
        tokens[0].flatten(1),
        latents_1Nchw[0].flatten(1),
    )


def _table(
    task: Task,
    scenes: npt.NDArray[np.int64],
    joints: FloatArray,
    positions_m: FloatArray,
) -> SceneTable:
    count = len(scenes)
    missing = np.full((count, 3), np.nan, dtype=np.float32)
    by_name = dict.fromkeys(THINGS, missing)
    by_name["gripper"] = gripper_positions_m(joints).astype(np.float32)
    for index, name in enumerate(task.position_names):
        here_m = positions_m[:, 3 * index : 3 * index + 3] - np.array(ROBOT_BASE_M)
        by_name[name] = here_m.astype(np.float32)
    apart_m = np.linalg.norm(by_name["gripper"] - by_name["cube"], axis=1)
    low_m, high_m = _HELD_FINGER_M
    is_held = (apart_m < _HELD_M) & (joints[:, 7] > low_m) & (joints[:, 7] < high_m)
    return SceneTable(
        task=task.name,
        scenes=scenes,
        cameras=np.full(count, "front"),
        hands=np.full(count, "planner"),
        cube_states=np.where(is_held, "held", "placed"),
        joints=joints.astype(np.float32),
        positions_m=by_name,
        pixels={name: np.full(count, VISIBLE_PIXELS, np.int32) for name in THINGS[1:]},
    )
