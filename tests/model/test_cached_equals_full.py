# SPDX-License-Identifier: Apache-2.0
"""6 slots of par_tiny, slot by slot through the cache against one masked pass: 1e-12 in float64,
1e-5 in float32; the same for the ablations and after a rebase."""

import pytest
import torch

from par_model.model import PARModel
from par_model.presets import preset
from par_model.transformer import attend_masked, attend_slot
from tests.model.fixtures import forget_absolute_times, random_clip, random_model

VARIANTS = {
    "figure 3": {},
    "absolute positions": {"position_mode": "ape"},
    "no inverse kinematics": {"action_sees_frame": False},
    "history of 1 slot": {"history_slots": 1},
    "history of 2 slots": {"history_slots": 2},
    "no autoregression": {"autoregressive": False},
    "regression heads": {"action_head": "regression", "frame_head": "regression"},
    "no mixer": {"mixer_rank": 0},
    "two views": {"views": ("front", "right")},
}


def configured(changes) -> PARModel:
    from dataclasses import replace

    return random_model(replace(preset("par_tiny"), **changes)).eval()


def full_pass(model, clip):
    offset = torch.zeros(clip.text.shape[0], dtype=torch.int64)
    return model.encode_clip(clip.text, clip.latents, clip.actions, clip.proprio, offset)


def worst_step_error(model, clip):
    full = full_pass(model, clip)
    cache = None if model.transformer is None else model.prefill(clip.text)
    worst = 0.0
    for n in range(clip.latents.shape[1]):
        context, cache = model.extend(
            cache,
            clip.text,
            clip.latents[:, n : n + 1],
            clip.actions[:, n : n + 1],
            clip.proprio[:, n : n + 1],
            n,
            n == 0,
        )
        for step, whole in (
            (context.frame_BNKC, full.frame_BNKC),
            (context.action_BNZC, full.action_BNZC),
        ):
            worst = max(worst, (step[:, 0] - whole[:, n]).abs().max().item())
    return worst


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
@torch.no_grad()
def test_float64(changes):
    model = configured(changes).double()
    assert worst_step_error(model, random_clip(model.config, 6, batch_size=2)) < 1e-12


@torch.no_grad()
def test_float32():
    model = configured({})
    clip = random_clip(model.config, 6, dtype=torch.float32)
    assert worst_step_error(model, clip) < 1e-5


@torch.no_grad()
def test_extending_by_several_slots_equals_one_by_one():
    model = configured({}).double()
    clip = random_clip(model.config, 5)
    full = full_pass(model, clip)
    cache = model.prefill(clip.text)
    _, cache = model.extend(
        cache, clip.text, clip.latents[:, :2], clip.actions[:, :2], clip.proprio[:, :2], 0, True
    )
    context, cache = model.extend(
        cache, clip.text, clip.latents[:, 2:], clip.actions[:, 2:], clip.proprio[:, 2:], 2, False
    )
    assert (context.action_BNZC - full.action_BNZC[:, 2:]).abs().max() < 1e-12
    assert cache.length == model.config.num_text_tokens + 5 * model.config.slot_length


@torch.no_grad()
def test_a_rewound_cache_answers_as_if_nothing_had_followed():
    """What the arm really did replaces a prediction: rewind, then another token."""
    model = configured({}).double()
    clip, other = random_clip(model.config, 3), random_clip(model.config, 3, seed=1)

    def extend(cache, source, n):
        return model.extend(
            cache,
            clip.text,
            source.latents[:, n : n + 1],
            source.actions[:, n : n + 1],
            source.proprio[:, n : n + 1],
            n,
            n == 0,
        )

    _, cache = extend(model.prefill(clip.text), clip, 0)
    length = cache.length
    straight, _ = extend(cache, clip, 1)
    _, longer = extend(cache, other, 1)
    again, _ = extend(longer.rewind(length), clip, 1)
    assert torch.equal(straight.action_BNZC, again.action_BNZC)


@torch.no_grad()
def test_two_mask_free_calls_equal_the_dense_mask():
    torch.manual_seed(0)
    frame_tokens, actions, cached = 5, 8, 21
    q, k, v = (
        torch.randn(2, 3, n, 16, dtype=torch.float64)
        for n in (frame_tokens + actions, *(cached + frame_tokens + actions,) * 2)
    )
    new = torch.ones(frame_tokens + actions, frame_tokens + actions, dtype=torch.bool).tril()
    new[:frame_tokens, :frame_tokens] = True
    mask = torch.cat((torch.ones(len(new), cached, dtype=torch.bool), new), dim=1)
    difference = attend_slot(frame_tokens)(q, k, v) - attend_masked(mask)(q, k, v)
    assert difference.abs().max() < 1e-13


@torch.no_grad()
def test_the_clock_of_the_rotation_is_shared():
    """Shifting a whole clip by any number of slots changes nothing without absolute times: what
    counts is elapsed time. (Text stands still, so it is left out by an empty instruction.)"""
    from dataclasses import replace

    config = replace(preset("par_tiny"), num_text_tokens=0)
    assert config.position_mode == "ape+rope_time"
    model = random_model(config).double().eval()
    forget_absolute_times(model)
    clip = random_clip(config, 3)
    at_0 = model.encode_clip(clip.text, clip.latents, clip.actions, clip.proprio, torch.tensor([0]))
    at_3 = model.encode_clip(clip.text, clip.latents, clip.actions, clip.proprio, torch.tensor([3]))
    assert (at_0.action_BNZC - at_3.action_BNZC).abs().max() < 1e-12
