# SPDX-License-Identifier: Apache-2.0
"""Noise schedules, the diffusion loss and the samplers: free functions over any network.

The schedulers are diffusers'. Paper, section 3.1 and Eqs. 3 to 5; DDIM, DPM-Solver++ and flow
matching reduce the number of steps.

Shape letters: R repeated draws, M samples.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from par_model.config import DiffusionConfig
from par_model.diffusers_parts import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

# (noisy sample, index of the sampling step) to the network's prediction.
PredictNoise = Callable[[Tensor, int], Tensor]
Scheduler = (
    DDIMScheduler | DDPMScheduler | DPMSolverMultistepScheduler | FlowMatchEulerDiscreteScheduler
)
SAMPLERS = ("ddim", "ddpm", "dpmsolver++", "flow_matching")
# Those whose step needs no state but the noisy values: exported graphs can run them.
STATELESS_SAMPLERS = ("ddim", "flow_matching")


@lru_cache(maxsize=32)
def _prototype(config: DiffusionConfig, sampler: str) -> Scheduler:
    if (config.schedule == "flow_matching") != (sampler == "flow_matching"):
        raise ValueError(
            f"sampler {sampler!r} does not fit the schedule {config.schedule!r} that the network "
            "was trained with; flow matching needs both, the other samplers neither."
        )
    if sampler == "flow_matching":
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=config.num_train_timesteps, shift=config.flow_shift
        )
    common = {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_schedule": config.schedule,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "prediction_type": config.prediction,
        "steps_offset": config.steps_offset,
        "timestep_spacing": config.spacing,
    }
    clip = {
        "clip_sample": config.clip_range is not None,
        "clip_sample_range": config.clip_range or 1.0,
    }
    if sampler == "ddim":
        return DDIMScheduler(**common, **clip, set_alpha_to_one=True)
    if sampler == "ddpm":
        return DDPMScheduler(**common, **clip, variance_type="fixed_small")
    if sampler == "dpmsolver++":
        return DPMSolverMultistepScheduler(
            **common,
            algorithm_type="dpmsolver++",
            solver_order=2,
            thresholding=False,
            final_sigmas_type="zero",
        )
    raise ValueError(f"sampler {sampler!r} is unknown; the samplers are {', '.join(SAMPLERS)}.")


@lru_cache(maxsize=32)
def _alphas(config: DiffusionConfig, device: torch.device) -> Tensor:
    """alpha-bar of every training time; kept, because a copy to a GPU waits for it."""
    return _prototype(config, "ddpm").alphas_cumprod.to(device)


def make_scheduler(config: DiffusionConfig, sampler: str, num_steps: int) -> Scheduler:
    """A scheduler of its own, set to `num_steps`.

    Raises:
        ValueError: an unknown sampler, one that does not fit the schedule, or a step count
            outside 1 .. num_train_timesteps.
    """
    if not 1 <= num_steps <= config.num_train_timesteps:
        raise ValueError(
            f"number of sampling steps must be 1 to {config.num_train_timesteps}, got {num_steps}."
        )
    scheduler = copy.copy(_prototype(config, sampler))
    scheduler.set_timesteps(num_steps)
    return scheduler


# Below this a sampler of a network that predicts noise ends far from the data (test_diffusion.py).
LEAST_NOISE_STEPS = 10


def least_steps(config: DiffusionConfig) -> int:
    """The fewest sampling steps that an action head of this configuration may take."""
    predicts_noise = config.prediction == "epsilon" and config.schedule != "flow_matching"
    return LEAST_NOISE_STEPS if predicts_noise else 1


def require_enough_steps(config: DiffusionConfig, num_steps: int) -> None:
    """Raise ValueError for fewer steps than a network that predicts noise needs."""
    if num_steps < least_steps(config):
        raise ValueError(
            f"number of sampling steps must be at least {LEAST_NOISE_STEPS} for an action head "
            f"that predicts noise, got {num_steps}; a head that predicts v samples in one."
        )


def sampling_times(config: DiffusionConfig, sampler: str, num_steps: int) -> Tensor:
    """The network's diffusion times of each step, noisiest first: float32 [num_steps]."""
    return make_scheduler(config, sampler, num_steps).timesteps.to(torch.float32)


def sample(
    predict: PredictNoise,
    noise: Tensor,
    config: DiffusionConfig,
    sampler: str,
    num_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run the reverse process from `noise` to a clean sample of the same shape (Eq. 5).

    `generator` serves the samplers that draw noise on the way (ddpm). Runs in float32 at least,
    whatever the network's type.
    """
    kind = torch.promote_types(noise.dtype, torch.float32)
    current = noise.to(kind)
    if sampler in STATELESS_SAMPLERS:
        for index, step in enumerate(sampling_coefficients(config, sampler, num_steps)):
            predicted = predict(current.to(noise.dtype), index).to(kind)
            current = denoise_step(step, current, predicted, config.clip_range)
        return current.to(noise.dtype)
    scheduler = make_scheduler(config, sampler, num_steps)
    extra = {"generator": generator} if sampler == "ddpm" else {}
    for index, time in enumerate(scheduler.timesteps):
        predicted = predict(current.to(noise.dtype), index).to(kind)
        current = scheduler.step(predicted, time, current, return_dict=False, **extra)[0]
    return current.to(noise.dtype)


@dataclass(frozen=True)
class DdimStep:
    """One deterministic DDIM step: square roots of alpha-bar and 1 - alpha-bar, now and next."""

    signal: float
    spread: float
    next_signal: float
    next_spread: float


@dataclass(frozen=True)
class VelocityStep(DdimStep):
    """The same for a network that predicts v = signal * noise - spread * clean."""


@dataclass(frozen=True)
class EulerStep:
    """One Euler step of flow matching: the change of sigma."""

    sigma_change: float


@lru_cache(maxsize=32)
def sampling_coefficients(
    config: DiffusionConfig, sampler: str, num_steps: int
) -> tuple[DdimStep | EulerStep, ...]:
    """The numbers of each step of a deterministic sampler, noisiest first, read from diffusers'
    schedule once; they make the same samples as its `step`, bit for bit.

    Raises:
        ValueError: the sampler is not one of STATELESS_SAMPLERS; as `make_scheduler`.
    """
    scheduler = make_scheduler(config, sampler, num_steps)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        changes = scheduler.sigmas[1:] - scheduler.sigmas[:-1]
        return tuple(EulerStep(change.item()) for change in changes)
    if not isinstance(scheduler, DDIMScheduler):
        raise ValueError(
            f"sampler {sampler!r} has no fixed coefficients; 'ddim' and 'flow_matching' have."
        )
    kind = VelocityStep if config.prediction == "v_prediction" else DdimStep
    steps = []
    for time in scheduler.timesteps:
        before = time - config.num_train_timesteps // num_steps
        now = scheduler.alphas_cumprod[time]
        after = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        roots = (now**0.5, (1 - now) ** 0.5, after**0.5, (1 - after) ** 0.5)
        steps.append(kind(*(root.item() for root in roots)))
    return tuple(steps)


def denoise_step(
    step: DdimStep | EulerStep, current: Tensor, predicted: Tensor, clip_range: float | None
) -> Tensor:
    """`current` one step less noisy, given what the network predicted at it."""
    if isinstance(step, EulerStep):
        return current + step.sigma_change * predicted
    if isinstance(step, VelocityStep):
        clean = step.signal * current - step.spread * predicted
        predicted = step.signal * predicted + step.spread * current
    else:
        clean = (current - step.spread * predicted) / step.signal
    if clip_range is not None:
        clean = clean.clamp(-clip_range, clip_range)
    return step.next_signal * clean + step.next_spread * predicted


def denoising_errors(
    predict: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    config: DiffusionConfig,
    num_draws: int,
    generator: torch.Generator,
) -> Tensor:
    """The diffusion loss before averaging (Eqs. 4 and 10): squared errors of what `predict` says at
    random times and noises.

    Args:
        predict: (noisy samples, their diffusion times) to the network's prediction.
        clean: [M, ...], samples.
        num_draws: R, times and noises of each sample.

    Returns:
        [R * M, ...], all samples of the first draw before those of the second.
    """
    clean = clean.repeat(num_draws, *(1 for _ in clean.shape[1:]))
    times = draw_times(config, clean.shape[0], generator)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device).to(clean.dtype)
    noisy, target = add_noise(config, clean, noise, times)
    return (predict(noisy, times) - target).square()


def draw_times(config: DiffusionConfig, count: int, generator: torch.Generator) -> Tensor:
    """Diffusion times of `count` training draws: uniform; logit-normal for flow matching."""
    device = generator.device
    if config.schedule == "flow_matching":
        sigma = torch.randn(count, generator=generator, device=device).sigmoid()
        shift = config.flow_shift
        return shift * sigma / (1 + (shift - 1) * sigma) * config.num_train_timesteps
    return torch.randint(
        0, config.num_train_timesteps, (count,), generator=generator, device=device
    )


def add_noise(
    config: DiffusionConfig, clean: Tensor, noise: Tensor, times: Tensor
) -> tuple[Tensor, Tensor]:
    """The forward process at `times` (one per row of dimension 0).

    Returns the noisy sample and what the network is to predict: the noise or v, as the config says;
    noise - clean for flow matching.
    """
    column = (slice(None), *([None] * (clean.ndim - 1)))
    if config.schedule == "flow_matching":
        sigma = (times / config.num_train_timesteps).to(clean.dtype)[column]
        return (1 - sigma) * clean + sigma * noise, noise - clean
    alphas = _alphas(config, clean.device)[times.long()]
    signal = alphas.sqrt().to(clean.dtype)[column]
    spread = (1 - alphas).sqrt().to(clean.dtype)[column]
    noisy = signal * clean + spread * noise
    if config.prediction == "v_prediction":
        return noisy, signal * noise - spread * clean
    return noisy, noise
