# SPDX-License-Identifier: Apache-2.0
"""Demonstrations with known numbers, and par_tiny as the model that reads them."""

import dataclasses
from pathlib import Path

import numpy as np

from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec
from par_model.instruction import code_table
from par_model.normalization import Statistics, fit_statistics
from par_model.presets import preset
from par_model.training.clip_config import ClipConfig
from par_model.training.clips import ClipSampler, TrainingEpisode
from par_model.training.demonstrations_on_disk import DemonstrationSteps
from par_model.training.latent_cache import LatentCache, ShiftConfig
from par_model.training.staged_episodes import Episode, stage_episode, start_staging

JOINTS = tuple(f"joint{i}" for i in range(8))
MODEL = dataclasses.replace(preset("par_tiny"), num_slots=6)
DIGEST = "0badcafe"
# Clips with a history, and without noise in it.
LONG_CLIPS = ClipConfig(
    from_start_share=0.5, offset_share=0.5, single_slot_share=0.0, context_noise=0.0
)


class StoredLatents(LatentCache):
    """A cache whose latent of frame t holds the number t in variant 0 and t + 100 in variant 1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FrameCodec(MODEL.codec), "stored", ShiftConfig(num_variants=2))


def make_episode(folder: Path, num_steps: int, key: int, task: str = "Push") -> TrainingEpisode:
    generator = np.random.default_rng(key)
    joints = generator.normal(size=(num_steps, 8)) * 0.1
    actions = joints + 0.05
    cache = StoredLatents(folder)
    size = (MODEL.codec.latent_channels, MODEL.latent_height, MODEL.latent_width)
    frame_numbers = np.arange(num_steps, dtype=np.float16)[:, None, None, None]
    one = np.broadcast_to(frame_numbers, (num_steps, *size))
    cache.write(key, DIGEST, np.stack([one, one + 100]).astype(np.float16))
    # like the latents, the scene tells the step: two centimetres a step
    scene = np.repeat(0.02 * np.arange(num_steps)[:, None], 6, axis=1)
    steps = DemonstrationSteps(key, task, actions, actions + 0.01, joints, scene, DIGEST)
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


def record_noise(
    folder: Path, num_steps_by_seed: dict[int, int], instruction: str, noise_seed: int = 0
) -> None:
    """A recording of random pictures of 32x32 pixels and random joints; targets 1 above the
    joints, executed ones 2 above."""
    joints = [f"panda_joint{i}" for i in range(1, 8)] + ["panda_finger_joint1"]
    start_staging(folder, {"joint_names": joints, "fps": 20, "instruction": instruction})
    generator = np.random.default_rng(noise_seed)
    for seed, num_steps in num_steps_by_seed.items():
        numbers = generator.normal(size=(num_steps, 8)).astype(np.float32)
        episode = Episode(
            instruction=instruction,
            frames=generator.integers(0, 256, size=(num_steps, 32, 32, 3), dtype=np.uint8),
            measured_joint_positions=numbers,
            actions=numbers + 1,
            executed_actions=numbers + 2,
            environment_state=np.zeros((num_steps, 6), np.float32),
            success=np.ones(num_steps, np.bool_),
            seed=seed,
            noisy=False,
        )
        stage_episode(folder, episode, 20)
