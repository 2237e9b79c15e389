# SPDX-License-Identifier: Apache-2.0
"""Samplers against a network that knows the answer, and the forward process against its formula."""

import dataclasses

import pytest
import torch

from par_model.action_head import ActionDit
from par_model.diffusion import (
    LEAST_NOISE_STEPS,
    add_noise,
    draw_times,
    make_scheduler,
    sample,
    sampling_times,
)
from par_model.presets import PRESETS, predicting_noise, preset

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


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].num_actions])
def test_the_first_sampling_time_is_the_noisiest(name):
    config = PRESETS[name]
    noisiest = config.action_diffusion.num_train_timesteps - 1
    for num_steps in range(1, config.action_diffusion.num_train_timesteps + 1):
        times = sampling_times(config.action_diffusion, "ddim", num_steps)
        assert times[0] == noisiest, num_steps
    first = sampling_times(
        config.action_diffusion, config.sampling.action_sampler, config.sampling.action_num_steps
    )
    assert first[0] == noisiest


MEAN, DEVIATION = 0.7, 0.5


def sampled_gaussian(config, sampler, steps, error):
    """Mean and standard deviation of samples where the data is a Gaussian of MEAN and DEVIATION
    and the network the best possible, but for a relative and an absolute `error`."""
    times = sampling_times(config, sampler, steps)
    alphas = make_scheduler(config, "ddpm", 10).alphas_cumprod

    def predict(noisy, index):
        alpha = alphas[int(times[index])].double()
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        surprise = (noisy.double() - signal * MEAN) / (alpha * DEVIATION**2 + 1 - alpha)
        noise, clean = spread * surprise, MEAN + signal * DEVIATION**2 * surprise
        is_velocity = config.prediction == "v_prediction"
        best = signal * noise - spread * clean if is_velocity else noise
        return (best * (1 + error) + error).float()

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 1, 8, generator=generator)
    found = sample(predict, noise, config, sampler, steps, generator)
    return found.mean().item(), found.std().item()


@pytest.mark.parametrize("error", [0.0, 0.01, -0.01])
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 25, 100])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmsolver++"])
def test_v_samples_a_gaussian_in_any_number_of_steps(sampler, steps, error):
    """The mean from one step on; the deviation grows from 0 (one step gives the mean) as the
    discretisation gets finer."""
    config = preset("par_0_6b").action_diffusion
    mean, deviation = sampled_gaussian(config, sampler, steps, error)
    assert abs(mean - MEAN) < 0.02
    assert deviation < DEVIATION + 0.02
    if steps >= 10:
        assert deviation > 0.75 * DEVIATION
    if steps == 100:
        assert abs(deviation - DEVIATION) < 0.03


@pytest.mark.parametrize("error", [0.0, 0.01, -0.01])
@pytest.mark.parametrize("steps", [LEAST_NOISE_STEPS, 25, 100])
def test_noise_prediction_samples_a_gaussian_by_its_own_sampler(steps, error):
    config = predicting_noise(preset("par_0_6b"))
    sampler = config.sampling.action_sampler
    mean, deviation = sampled_gaussian(config.action_diffusion, sampler, steps, error)
    assert abs(mean - MEAN) < (0.06 if steps < 100 else 0.025)
    assert 0.7 * DEVIATION < deviation < DEVIATION + 0.03


def test_too_few_steps_of_noise_prediction_are_refused():
    head = ActionDit(predicting_noise(preset("par_tiny")))
    assert len(head.schedule("ddpm", LEAST_NOISE_STEPS).steps) == LEAST_NOISE_STEPS
    with pytest.raises(ValueError, match=r"at least 10 for an action head that predicts noise"):
        head.schedule("ddpm", LEAST_NOISE_STEPS - 1)
    assert len(ActionDit(preset("par_tiny")).schedule("ddim", 1).steps) == 1


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
