# SPDX-License-Identifier: Apache-2.0
"""Sampling, forward process and loss against diffusers' own schedulers, with a network that is
wrong: one that knows the answer forgives errors of the steps on the way."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from par_model.diffusion import (
    add_noise,
    denoising_errors,
    draw_times,
    make_scheduler,
    sample,
    sampling_times,
)
from par_model.presets import preset

VELOCITY = preset("par_small").action_diffusion
EPSILON = dataclasses.replace(VELOCITY, prediction="epsilon", spacing="leading")
UNCLIPPED = dataclasses.replace(EPSILON, clip_range=None)
FLOW = dataclasses.replace(EPSILON, schedule="flow_matching", clip_range=None, flow_shift=3.0)


def wrong(noisy: torch.Tensor, index: int) -> torch.Tensor:
    return (0.7 * noisy + 0.1 * (index + 1)).sin()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("config", "sampler", "steps"),
    [
        (VELOCITY, "ddim", 1), (VELOCITY, "ddim", 7), (EPSILON, "ddim", 4), (UNCLIPPED, "ddim", 4),
        (VELOCITY, "ddpm", 20), (EPSILON, "ddpm", 5), (VELOCITY, "dpmsolver++", 5),
        (FLOW, "flow_matching", 6),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spread", [0.5, 20.0])
def test_samples_are_those_of_the_scheduler_bit_for_bit(config, sampler, steps, spread):
    """Within the clipped range and far outside."""
    noise = spread * torch.randn(2, 8, 8, generator=generator())
    expected, judge = noise, make_scheduler(config, sampler, steps)
    draws = generator(5)
    for index, time in enumerate(judge.timesteps):
        extra = {"generator": draws} if sampler == "ddpm" else {}
        expected = judge.step(wrong(expected, index), time, expected, **extra).prev_sample
    assert torch.equal(sample(wrong, noise, config, sampler, steps, generator(5)), expected)


def test_ddpm_draws_from_the_generator_that_it_is_given():
    noise = torch.randn(2, 8, 8, generator=generator())
    first, again, other = (
        sample(wrong, noise, VELOCITY, "ddpm", 20, generator(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("config", "sampler"), [(VELOCITY, "ddim"), (VELOCITY, "dpmsolver++")])
def test_a_half_precision_network_is_sampled_in_float32(config, sampler):
    noise = torch.randn(2, 8, 8, generator=generator()).to(torch.bfloat16)
    seen = []

    def predict(noisy, index):
        seen.append(noisy.dtype)
        return wrong(noisy, index)

    found = sample(predict, noise, config, sampler, 8)
    exact, judge = noise.float(), make_scheduler(config, sampler, 8)
    for index, time in enumerate(judge.timesteps):
        told = wrong(exact.to(torch.bfloat16), index).float()
        exact = judge.step(told, time, exact).prev_sample
    assert set(seen) == {torch.bfloat16}
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))


def test_times_are_float32_and_may_be_as_many_as_in_training():
    times = sampling_times(VELOCITY, "ddim", VELOCITY.num_train_timesteps)
    assert times.dtype == torch.float32
    assert torch.equal(times, torch.arange(999, -1, -1, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_and_velocity_are_the_schedulers(dtype):
    clean, noise = (torch.randn(6, 3, 4, generator=generator(seed)).to(dtype) for seed in (1, 2))
    times = torch.tensor([0, 1, 200, 500, 998, 999])
    judge = make_scheduler(VELOCITY, "ddpm", 10)
    assert isinstance(judge, DDPMScheduler)
    noisy, target = add_noise(VELOCITY, clean, noise, times)
    assert noisy.dtype == target.dtype == dtype
    torch.testing.assert_close(noisy, judge.add_noise(clean, noise, times))
    torch.testing.assert_close(target, judge.get_velocity(clean, noise, times))


def test_flow_matching_mixes_as_the_scheduler_does():
    clean, noise = (torch.randn(6, 3, 4, generator=generator(seed)) for seed in (1, 2))
    judge = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=FLOW.flow_shift)
    times = judge.timesteps[[0, 10, 300, 500, 900, 999]]
    noisy, target = add_noise(FLOW, clean, noise, times)
    torch.testing.assert_close(noisy, judge.scale_noise(clean, times, noise))
    assert torch.equal(target, noise - clean)
    assert add_noise(FLOW, clean.double(), noise.double(), times)[0].dtype == torch.float64


def test_flow_matching_times_are_shifted_and_logit_normal():
    """Quantiles of the standard normal, through sigmoid and shift."""
    times = draw_times(FLOW, 40_000, generator(3))
    assert torch.equal(times, draw_times(FLOW, 40_000, generator(3)))
    sigma = torch.special.ndtri(torch.tensor([0.1, 0.5, 0.9])).sigmoid()
    expected = 1000 * FLOW.flow_shift * sigma / (1 + (FLOW.flow_shift - 1) * sigma)
    found = times.quantile(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.0)


def test_training_times_reach_both_ends():
    times = draw_times(EPSILON, 40_000, generator(3))
    assert (int(times.min()), int(times.max())) == (0, 999)


def test_the_loss_repeats_all_samples_once_a_draw():
    """A network that says 0 has the squared target as its error, one row a sample and draw."""
    clean = torch.randn(2, 3, 4, generator=generator(1)).double()
    seen = []

    def nothing(noisy, times):
        seen.append((noisy, times))
        return torch.zeros_like(noisy)

    errors = denoising_errors(nothing, clean, VELOCITY, 5, generator(7))
    draws = generator(7)
    times = draw_times(VELOCITY, 10, draws)
    noise = torch.randn(10, 3, 4, generator=draws).double()
    noisy, target = add_noise(VELOCITY, torch.cat([clean] * 5), noise, times)
    assert errors.dtype == torch.float64
    torch.testing.assert_close(errors, target.square())
    assert torch.equal(seen[0][0], noisy)
    assert torch.equal(seen[0][1], times)
    answer = denoising_errors(lambda *_: target, clean, VELOCITY, 5, generator(7))
    assert answer.abs().max() == 0
