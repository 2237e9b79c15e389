# SPDX-License-Identifier: Apache-2.0
"""The precomputed samplers make diffusers' own samples, bit for bit."""

import dataclasses

import pytest
import torch

from par_model.diffusion import make_scheduler, sample, sampling_coefficients
from par_model.presets import preset

VELOCITY = preset("par_small").action_diffusion
ACTIONS = dataclasses.replace(VELOCITY, prediction="epsilon")
CONFIGURATIONS = {
    "ddim with clipping": ("ddim", ACTIONS),
    "ddim, velocity": ("ddim", VELOCITY),
    "ddim with an offset": ("ddim", preset("par_small").frame_diffusion),
    "ddim, trailing": ("ddim", dataclasses.replace(ACTIONS, spacing="trailing")),
    "flow matching": ("flow_matching", dataclasses.replace(ACTIONS, schedule="flow_matching")),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("num_steps", [1, 3, 10, 100])
def test_same_as_diffusers(name, num_steps):
    sampler, config = CONFIGURATIONS[name]
    generator = torch.Generator().manual_seed(num_steps)
    weights = 0.3 * torch.randn(8, 8, generator=generator)
    noise = torch.randn(1, 8, 8, generator=generator)

    def predict(noisy, index):
        return torch.tanh(noisy @ weights + 0.1 * index)

    scheduler, current = make_scheduler(config, sampler, num_steps), noise
    for index, time in enumerate(scheduler.timesteps):
        predicted = predict(current, index)
        current = scheduler.step(predicted, time, current, return_dict=False)[0]
    assert torch.equal(sample(predict, noise, config, sampler, num_steps), current)


def test_a_sampler_that_draws_noise_has_no_coefficients():
    with pytest.raises(ValueError, match="'ddpm' has no fixed coefficients"):
        sampling_coefficients(ACTIONS, "ddpm", 10)
