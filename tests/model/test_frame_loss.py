# SPDX-License-Identifier: Apache-2.0
"""Sets and losses. N = 1440 tokens in K = 64 sets are 63 sets of 2 to 36 (one is empty), K = 128
gives 126. Every target is drawn 4 times, t per token for frames and per chunk for actions."""

import copy
import dataclasses

import pytest
import torch

from par_model import action_head, diffusion
from par_model.frame_head import sample_mask_ratio, set_sizes, visible_tokens
from par_model.model import TrainingBatch
from par_model.presets import preset
from tests.model.fixtures import random_model


@pytest.mark.parametrize(
    ("num_tokens", "num_sets"),
    [(1440, 64), (1440, 128), (900, 64), (256, 16), (64, 8), (5, 64)],
)
def test_set_sizes_sum_to_all_tokens(num_tokens, num_sets):
    sizes = set_sizes(num_tokens, num_sets)
    assert sum(sizes) == num_tokens
    assert min(sizes) > 0


def test_published_set_sizes():
    sizes = set_sizes(1440, 64)
    assert (len(sizes), min(sizes), max(sizes)) == (63, 2, 36)
    assert len(set_sizes(1440, 128)) == 126


def test_mask_ratio_is_a_truncated_normal():
    """Mean 1, deviation 0.25, cut to [0.7, 1]: mean 0.865 by integration of the density."""
    generator = torch.Generator().manual_seed(0)
    ratios = torch.tensor([sample_mask_ratio(0.7, 0.25, generator) for _ in range(2000)])
    assert ratios.min() >= 0.7
    assert ratios.max() <= 1.0
    grid = torch.linspace(0.7, 1.0, 10001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((grid - 1) / 0.25) ** 2)
    expected = float((grid * density).sum() / density.sum())
    assert abs(float(ratios.mean()) - expected) < 0.005


def test_visible_and_masked_tokens_are_complements():
    visible, masked = visible_tokens(3, 40, 0.8, torch.Generator().manual_seed(0))
    assert visible.shape == (3, 8)
    assert masked.shape == (3, 32)
    assert torch.equal(masked, masked.sort(dim=1).values)
    both = torch.cat((visible, masked), dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(40).expand(3, -1))


class Recorded:
    """Stands between the heads and the schedule, and keeps what was asked for."""

    def __init__(self, monkeypatch):
        self.draws = []
        draw_times, add_noise = diffusion.draw_times, diffusion.add_noise

        def draw(config, count, generator):
            times = draw_times(config, count, generator)
            self.draws.append(times)
            return times

        def noise(config, clean, noise, times):
            self.clean = clean
            return add_noise(config, clean, noise, times)

        monkeypatch.setattr(diffusion, "draw_times", draw)
        monkeypatch.setattr(diffusion, "add_noise", noise)


def batch(config, num_slots=3):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    valid = torch.ones(2, num_slots, dtype=torch.bool)
    valid[1, 2] = False
    actions = draw(num_slots, config.num_actions, config.action_width)
    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)
    return TrainingBatch(
        text_BTC=draw(config.num_text_tokens, config.text_width),
        latents_BNchw=draw(num_slots + 1, *latent),
        actions_BNLD=actions,
        context_actions_BNLD=actions,
        proprio_BNJ=draw(num_slots + 1, config.proprio_width),
        action_valid_BNL=valid[..., None].expand(-1, -1, config.num_actions).clone(),
        frame_valid_BN=valid,
        slot_offset_B=torch.zeros(2, dtype=torch.int64),
        scene_BNP=torch.zeros(2, num_slots, 0),
    )


@pytest.fixture(scope="module")
def tiny():
    loss = dataclasses.replace(preset("par_tiny").loss, frame_fraction=1.0)
    return random_model(dataclasses.replace(preset("par_tiny"), loss=loss)).double().eval()


def loss(model, data, seed=0):
    with torch.no_grad():
        return model.training_loss(data, torch.Generator().manual_seed(seed))


def test_action_targets_are_drawn_four_times_with_one_t_a_chunk(tiny, monkeypatch):
    recorded = Recorded(monkeypatch)
    data = batch(tiny.config)
    loss(tiny, data)
    chunks = int(data.frame_valid_BN.sum())
    assert chunks == 5
    assert recorded.draws[0].shape == (4 * chunks,)


def test_frame_targets_are_drawn_four_times_with_one_t_a_token(tiny, monkeypatch):
    recorded = Recorded(monkeypatch)
    data = batch(tiny.config)
    loss(tiny, data)
    times = recorded.draws[1]
    assert recorded.clean.shape == (len(times), tiny.config.image_token_width)
    per_draw = recorded.clean.reshape(4, -1, tiny.config.image_token_width)
    assert (per_draw == per_draw[:1]).all()
    # 5 valid frames of 16 tokens, at least 70 % of them masked
    assert 5 * 11 <= per_draw.shape[1] <= 5 * 16
    assert len(torch.unique(times)) > len(times) // 2


def test_padded_chunks_and_frames_do_not_count(tiny):
    data = batch(tiny.config)
    changed = dataclasses.replace(
        data,
        latents_BNchw=data.latents_BNchw.clone(),
        actions_BNLD=data.actions_BNLD.clone(),
    )
    changed.latents_BNchw[1, 3] = 7.0
    changed.actions_BNLD[1, 2] = 7.0
    before, after = loss(tiny, data), loss(tiny, changed)
    assert torch.equal(before.total, after.total)


def test_action_mean_is_over_valid_actions_only(tiny):
    """Half a chunk valid: the loss is the mean of its valid half, not diluted by the rest."""
    data = batch(tiny.config)
    half = dataclasses.replace(data, action_valid_BNL=data.action_valid_BNL.clone())
    half.action_valid_BNL[:, :, 4:] = False
    other = dataclasses.replace(half, actions_BNLD=half.actions_BNLD.clone())
    values = [action_head._masked_mean(torch.ones(3, 8), mask) for mask in (
        torch.ones(3, 8, dtype=torch.bool), half.action_valid_BNL[0]
    )]  # fmt: skip
    assert [float(value) for value in values] == [1.0, 1.0]
    assert float(loss(tiny, half).action) > 0.5 * float(loss(tiny, data).action)
    assert torch.equal(loss(tiny, half).action, loss(tiny, other).action)


def test_a_copy_of_the_model_has_a_frame_head_of_its_own(tiny):
    """The frame head is no module; it must follow the modules it borrows into a deep copy."""
    data, copied = batch(tiny.config), copy.deepcopy(tiny)
    before = loss(tiny, data)
    with torch.no_grad():
        for module in (copied.mixer, copied.image_encoder, copied.frame_decoder):
            for parameter in module.parameters():
                parameter.mul_(0.5)
    assert torch.equal(loss(tiny, data).frame, before.frame)
    assert not torch.equal(loss(copied, data).frame, before.frame)
