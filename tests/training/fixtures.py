# SPDX-License-Identifier: Apache-2.0
"""Demonstrations with known numbers, and par_tiny as the model that reads them."""

import dataclasses
from pathlib import Path

import numpy as np

from par_model.config import ModelConfig, preset
from par_model.instruction import code_table
from par_model.normalization import Statistics, fit_statistics
from par_model.training.clips import ClipConfig, ClipSampler, TrainingEpisode
from par_model.training.demonstrations_on_disk import DemonstrationSteps
from par_model.training.latent_cache import LatentCache, ShiftConfig

JOINTS = tuple(f"joint{i}" for i in range(8))
MODEL = dataclasses.replace(preset("par_tiny"), num_slots=6)


class StoredLatents(LatentCache):
    """A cache whose latent of frame t holds the number t in variant 0 and t + 100 in variant 1."""

    def __init__(self, folder: Path) -> None:
        self.shifts = ShiftConfig(num_variants=2)
        self.folder = folder


def make_episode(folder: Path, num_steps: int, key: int, task: str = "Push") -> TrainingEpisode:
    generator = np.random.default_rng(key)
    joints = generator.normal(size=(num_steps, 8)) * 0.1
    actions = joints + 0.05
    cache = StoredLatents(folder)
    size = (MODEL.codec.latent_channels, MODEL.latent_height, MODEL.latent_width)
    frame_numbers = np.arange(num_steps, dtype=np.float16)[:, None, None, None]
    one = np.broadcast_to(frame_numbers, (num_steps, *size))
    cache.write(key, np.stack([one, one + 100]).astype(np.float16))
    steps = DemonstrationSteps(key, task, actions, actions + 0.01, joints)
    return TrainingEpisode(task, steps, cache)


def make_sampler(folder: Path, lengths: list[int], config: ClipConfig) -> ClipSampler:
    episodes = [make_episode(folder, length, key) for key, length in enumerate(lengths)]
    return ClipSampler(
        episodes,
        {"Push": 1.0},
        fit(episodes, MODEL),
        code_table(("Push",), MODEL.num_text_tokens, MODEL.text_width),
        MODEL,
        config,
    )


def fit(episodes: list[TrainingEpisode], model: ModelConfig) -> Statistics:
    return fit_statistics(
        [(e.steps.actions, e.steps.measured_joints) for e in episodes],
        arm="panda",
        joint_names=JOINTS,
        action_frame=model.action_frame,
        num_actions=model.num_actions,
    )
