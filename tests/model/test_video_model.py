# SPDX-License-Identifier: Apache-2.0
"""NOVA's own form at par_tiny's size: absolute positions, the instruction joint with slot 0,
begin-of-video. Block-masked forward equals the cached one to 1e-12 in float64, mixer included."""

import dataclasses

import pytest
import torch

from par_model import video_generation
from par_model.physical_tokenizer import Motion
from par_model.presets import preset
from par_model.video_generation import GenerationConfig, generate_latents
from tests.model.fixtures import random_clip, random_model

NUM_SLOTS = 5
NOVA_FORM = {
    "num_actions": 0,
    "proprio_width": 0,
    "first_slot": "bov",
    "position_mode": "ape",
    "text_joint_with_first_slot": True,
    "overflow": "error",
    "num_slots": NUM_SLOTS,
    "motion_tokens": True,
}


@pytest.fixture(scope="module")
def model():
    config = dataclasses.replace(preset("par_tiny"), **NOVA_FORM)
    return random_model(config).double().eval().requires_grad_(False)


def cached(model, text, latents):
    none = latents.new_zeros(len(latents), 1, 0, model.config.action_width)
    cache, outputs = model.prefill(text), []
    for slot in range(latents.shape[1]):
        context, cache = model.extend(
            cache, text, latents[:, slot : slot + 1], none, None, slot, slot == 0
        )
        outputs.append(context.frame_BNKC)
    return torch.cat(outputs, dim=1)


def masked(model, text, latents):
    none = latents.new_zeros(*latents.shape[:2], 0, model.config.action_width)
    start = torch.zeros(len(latents), dtype=torch.int64)
    return model.encode_clip(text, latents, none, None, start).frame_BNKC


def test_block_masked_equals_cached_with_mixer(model):
    clip = random_clip(model.config, NUM_SLOTS, batch_size=2)
    full, steps = masked(model, clip.text, clip.latents), cached(model, clip.text, clip.latents)
    assert (full - steps).abs().max() < 1e-12
    conditions = model.frame_head.clip_conditions(full)
    for slot in range(1, NUM_SLOTS):
        condition = model.frame_head.condition(steps[:, slot], steps[:, 0])
        assert (conditions[:, slot] - condition).abs().max() < 1e-12
    assert torch.equal(conditions[:, 0], full[:, 0])


def test_the_joint_prefix_matters_in_par_form_too():
    """The flag alone, with actions and rotary time: cached equals masked, and differs from the
    prefix that sees itself only."""
    config = dataclasses.replace(preset("par_tiny"), text_joint_with_first_slot=True)
    joint = random_model(config).double().eval().requires_grad_(False)
    plain = random_model(preset("par_tiny")).double().eval().requires_grad_(False)
    clip = random_clip(config, 4)
    start = torch.zeros(1, dtype=torch.int64)
    full = joint.encode_clip(clip.text, clip.latents, clip.actions, clip.proprio, start)
    other = plain.encode_clip(clip.text, clip.latents, clip.actions, clip.proprio, start)
    assert (full.action_BNZC - other.action_BNZC).abs().max() > 1e-3
    cache = joint.prefill(clip.text)
    assert cache.length == 0
    for slot in range(4):
        one = slice(slot, slot + 1)
        context, cache = joint.extend(
            cache,
            clip.text,
            clip.latents[:, one],
            clip.actions[:, one],
            clip.proprio[:, one],
            slot,
            slot == 0,
        )
        assert (context.action_BNZC[:, 0] - full.action_BNZC[:, slot]).abs().max() < 1e-12


def test_motion_is_two_tokens_and_changes_the_video(model):
    """NOVA's usual motion where none is given; each of the two numbers matters."""
    text = random_clip(model.config, 1).text
    tokens = model.tokenizer.prefix_tokens(text)
    assert tokens.shape[1] == model.config.num_text_tokens + 2 == model.config.num_prefix_tokens
    assert torch.equal(tokens, model.tokenizer.prefix_tokens(text, Motion(5.0, 12.0)))

    def generate(motion):
        settings = GenerationConfig("ddim", 2, 2, 3.0, motion)
        return generate_latents(model, text, settings, torch.Generator().manual_seed(0))

    usual = generate(Motion())
    assert torch.equal(usual, generate(Motion()))
    assert not torch.equal(usual, generate(Motion(flow=1.0)))
    assert not torch.equal(usual, generate(Motion(fps=6.0)))


def test_a_video_of_one_latent(model):
    """T = 1: a picture, the first latent of a model with one slot."""
    config = dataclasses.replace(model.config, num_slots=1)
    one = random_model(config).double().eval().requires_grad_(False)
    text = random_clip(one.config, 1).text
    settings = GenerationConfig("ddim", 2, 2, 3.0)
    video = generate_latents(one, text, settings, torch.Generator().manual_seed(0))
    assert video.shape == (1, 1, 4, 4, 4)
    assert torch.isfinite(video).all()
    with pytest.raises(ValueError, match="at least 2 slots and no motion tokens"):
        dataclasses.replace(preset("par_tiny"), num_slots=1).validate()
    with pytest.raises(ValueError, match="at least 2 slots and no motion tokens"):
        dataclasses.replace(preset("par_tiny"), motion_tokens=True).validate()


def test_begin_of_video_stands_in_slot_0(model):
    """What is given as the latent of slot 0 is not read, whatever it is."""
    clip = random_clip(model.config, 3)
    before = masked(model, clip.text, clip.latents)
    changed = clip.latents.clone()
    changed[:, 0] = torch.nan
    assert torch.equal(masked(model, clip.text, changed), before)


SETTINGS = {
    "ddpm": GenerationConfig("ddpm", 3, 4, 1.0),
    "ddpm, guided": GenerationConfig("ddpm", 3, 4, 5.0),
    "ddim, guided": GenerationConfig("ddim", 3, 4, 5.0),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_videos_repeat_with_the_seed_and_follow_the_text(model, settings):
    text = random_clip(model.config, 1).text

    def generate(seed, words=text, first=None):
        generator = torch.Generator().manual_seed(seed)
        return generate_latents(model, words, settings, generator, first)

    video = generate(1)
    assert video.shape == (1, NUM_SLOTS, 4, 4, 4)
    assert torch.isfinite(video).all()
    assert torch.equal(video, generate(1))
    assert not torch.equal(video, generate(2))
    assert not torch.equal(video, generate(1, -text))
    given = torch.ones(1, 4, 4, 4, dtype=torch.float64)
    continued = generate(1, first=given)
    assert torch.equal(continued[:, 0], given)
    assert not torch.equal(continued[:, 1], video[:, 1])


def test_guidance_is_null_plus_scale_times_difference(model):
    """With one set and one step the guided prediction is linear in the scale."""
    text = random_clip(model.config, 1).text

    def generate(scale):
        settings = GenerationConfig("ddim", 1, 1, scale)
        generator = torch.Generator().manual_seed(0)
        return generate_latents(model, text, settings, generator)[:, 0]

    one, three, five = generate(1.0 + 1e-12), generate(3.0), generate(5.0)
    difference = (three - one).abs().max()
    assert difference > 1e-7
    assert (five - three - (three - one)).abs().max() < 1e-6 * difference


def test_one_order_serves_every_latent_of_a_video(model, monkeypatch):
    drawn = []

    def draw(num_tokens, generator):
        drawn.append(num_tokens)
        return torch.arange(num_tokens)

    monkeypatch.setattr(video_generation, "generation_order", draw)
    text = random_clip(model.config, 1).text
    settings = GenerationConfig("ddim", 1, 2, 1.0)
    generate_latents(model, text, settings, torch.Generator().manual_seed(0))
    assert drawn == [model.config.num_image_tokens]


def test_a_model_with_actions_is_refused():
    par = random_model(preset("par_tiny"))
    text = random_clip(par.config, 1, dtype=torch.float32).text
    with pytest.raises(ValueError, match="--form nova"):
        generate_latents(par, text, SETTINGS["ddpm"], torch.Generator())
