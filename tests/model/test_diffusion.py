# SPDX-License-Identifier: Apache-2.0
"""Samplers against a network that knows the answer, and the forward process against its formula."""

import dataclasses

import pytest
import torch

from par_model.diffusion import add_noise, draw_times, make_scheduler, sample, sampling_times
from par_model.presets import preset

VELOCITY = preset("par_small").action_diffusion
CONFIG = dataclasses.replace(VELOCITY, prediction="epsilon", spacing="leading")
FLOW = dataclasses.replace(CONFIG, schedule="flow_matching", clip_range=None)


def oracle(config, sampler, steps, clean):
    """What a perfect network predicts where all samples are one point: `clean`."""
    scheduler = make_scheduler(config, sampler, steps)
    times = sampling_times(config, sampler, steps)

    def predict(noisy, index):
        if sampler == "flow_matching":
            return (noisy - clean) / scheduler.sigmas[index]
        alpha = scheduler.alphas_cumprod[int(times[index])]
        noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        if config.prediction == "v_prediction":
            return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        return noise

    return predict


@pytest.mark.parametrize("noise_process", [CONFIG, VELOCITY], ids=["epsilon", "velocity"])
@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddim", 1), ("ddim", 4), ("ddim", 10), ("ddpm", 100), ("dpmsolver++", 4),
     ("dpmsolver++", 10), ("flow_matching", 4)],
)  # fmt: skip
def test_sampler_finds_the_only_point(sampler, steps, noise_process):
    config = FLOW if sampler == "flow_matching" else noise_process
    clean = torch.linspace(-1, 1, 64).view(1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 8, 8, generator=generator)
    found = sample(oracle(config, sampler, steps, clean), noise, config, sampler, steps, generator)
    assert (found - clean).abs().max() < 1e-3


def test_forward_process_is_eq_3():
    clean, noise = torch.ones(3, 2), torch.full((3, 2), 2.0)
    times = torch.tensor([0, 500, 999])
    noisy, target = add_noise(CONFIG, clean, noise, times)
    alphas = make_scheduler(CONFIG, "ddpm", 10).alphas_cumprod[times]
    assert torch.equal(target, noise)
    expected = alphas.sqrt()[:, None] * clean + (1 - alphas).sqrt()[:, None] * noise
    assert torch.allclose(noisy, expected)


def test_velocity_at_full_noise_is_the_clean_sample():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 8, generator=generator) for _ in range(2))
    _, target = add_noise(VELOCITY, clean, noise, torch.full((4,), 999))
    assert torch.allclose(target, -clean, atol=1e-3)


def test_draws_cover_the_schedule_and_repeat_with_the_seed():
    def draw():
        return draw_times(CONFIG, 4000, torch.Generator().manual_seed(3))

    times = draw()
    assert torch.equal(times, draw())
    assert times.min() < 10
    assert times.max() > 989
    assert times.max() < 1000


def test_refusals_name_what_is_known():
    with pytest.raises(ValueError, match="'euler' is unknown; the samplers are ddim"):
        make_scheduler(CONFIG, "euler", 10)
    with pytest.raises(ValueError, match="must be 1 to 1000, got 0"):
        make_scheduler(CONFIG, "ddim", 0)
    with pytest.raises(ValueError, match="does not fit the schedule"):
        make_scheduler(CONFIG, "flow_matching", 10)
