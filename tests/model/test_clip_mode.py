# SPDX-License-Identifier: Apache-2.0
"""Observation mode "clip": later observations are the last latent of a tile of 5 pictures, the same
in training and in use; a checkpoint of one mode refuses the other."""

import dataclasses
import re

import numpy as np
import pytest

from par_model.checkpoint import save_checkpoint
from par_model.config import FrameCodecConfig
from par_model.load_policy import load_policy
from par_model.presets import preset
from par_model.training.latent_cache import ShiftConfig, encode_variants
from tests.model.fixtures import INSTRUCTIONS, random_checkpoint_parts, random_observation

VIDEO_CODEC = FrameCodecConfig("opensora_plan", 4, 8, 1, (32, 32, 32, 32), 1, 32, 0.2, 2, 4)


@pytest.fixture(scope="module")
def parts():
    return random_checkpoint_parts("par_tiny", codec=VIDEO_CODEC, observation_mode="clip")


@pytest.fixture(scope="module")
def policy(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "checkpoint"
    save_checkpoint(folder, **parts)
    return load_policy(folder, device="cpu", observation_mode="clip")


def observe(policy, pictures):
    """Two observations: picture 0 alone, then the tile whose newest picture is number 4."""
    rng = np.random.default_rng(0)
    first = random_observation(rng, policy.spec, 0.0)
    first = dataclasses.replace(first, image=pictures[0])
    policy.reset(INSTRUCTIONS[0], 0)
    policy.observe(first)
    executed = policy.act().joint_positions
    second = random_observation(rng, policy.spec, 0.4, executed)
    policy.observe(dataclasses.replace(second, image=pictures[4], recent_images=pictures[1:5]))
    return policy.act().joint_positions


def random_pictures(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_the_pictures_on_the_way_are_seen(policy):
    pictures = random_pictures()
    changed = pictures.copy()
    changed[2] = 255 - changed[2]
    assert not np.array_equal(observe(policy, pictures), observe(policy, changed))


def test_training_encodes_as_the_policy_does(policy, parts):
    """Frame 8 of a recording and the tile of every second frame up to it give one latent."""
    recording = random_pictures(10, seed=1)
    codec = policy._graphs.codec
    trained = encode_variants(codec, recording, 0, ShiftConfig(num_variants=1), "clip")[0]
    used = policy._graphs.encode(recording[0:9:2])
    assert np.array_equal(trained[8], used[0].half().numpy())
    assert np.array_equal(trained[3], policy._graphs.encode(recording[3])[0].half().numpy())
    pictures_only = encode_variants(codec, recording, 0, ShiftConfig(num_variants=1))[0]
    assert np.abs(pictures_only[8] - trained[8]).max() > 1e-3


def test_missing_or_inconsistent_pictures_are_refused(policy):
    pictures = random_pictures()
    rng = np.random.default_rng(0)
    policy.reset(INSTRUCTIONS[0], 0)
    policy.observe(random_observation(rng, policy.spec, 0.0))
    later = random_observation(rng, policy.spec, 0.4, policy.act().joint_positions)
    with pytest.raises(ValueError, match="recent_images must be given"):
        policy.observe(later)
    with pytest.raises(ValueError, match="must end with observation"):
        policy.observe(dataclasses.replace(later, recent_images=pictures[1:5]))


def test_clip_mode_on_an_image_checkpoint_is_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match=r"'clip' was asked for .* trained in mode 'image'"):
        load_policy(tiny_checkpoint, device="cpu", observation_mode="clip")
    policy = load_policy(tiny_checkpoint, backend="eager", device="cpu", observation_mode="image")
    rng = np.random.default_rng(0)
    first = random_observation(rng, policy.spec, 0.0)
    policy.reset(INSTRUCTIONS[0], 0)
    with pytest.raises(ValueError, match='the policy\'s mode is "image"'):
        policy.observe(dataclasses.replace(first, recent_images=random_pictures(4)))


def test_image_mode_on_a_clip_checkpoint_is_refused(parts, tmp_path):
    save_checkpoint(tmp_path / "clip", **parts)
    with pytest.raises(ValueError, match="cannot be mixed"):
        load_policy(tmp_path / "clip", device="cpu", observation_mode="image")
    with pytest.raises(ValueError, match=re.escape("use backend 'eager'")):
        load_policy(tmp_path / "clip", device="cpu", backend="onnx")


def test_clip_mode_needs_a_video_autoencoder():
    config = dataclasses.replace(preset("par_tiny"), observation_mode="clip")
    with pytest.raises(ValueError, match="no level that spans time"):
        config.validate()


def test_a_video_model_is_no_policy(tmp_path):
    form = {
        "num_actions": 0,
        "proprio_width": 0,
        "first_slot": "bov",
        "position_mode": "ape",
        "text_joint_with_first_slot": True,
    }
    parts = random_checkpoint_parts("par_tiny", **form)
    one_row = np.zeros((1, 8))
    parts["statistics"] = dataclasses.replace(
        parts["statistics"], action_low=one_row - 1, action_high=one_row + 1
    )
    save_checkpoint(tmp_path / "video", **parts)
    with pytest.raises(ValueError, match="video model without actions"):
        load_policy(tmp_path / "video", device="cpu")
