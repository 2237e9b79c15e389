# SPDX-License-Identifier: Apache-2.0
"""Steps of a training, measured on synthetic clips: what `python -m par_model.benchmark --part
training` prints.

A step is what policy_training.py does: Eq. 11 forward and backward in bfloat16, gradients clipped,
AdamW, the moving average. Clips are as long as the context and lie on the device, so neither data
nor workers limit it. Its work is counted by torch's FlopCounterMode while the real modules run on
tensors without data; a multiply-add is 2 FLOPs, and what is computed a second time to save memory
does not count. Model FLOP utilisation (MFU) is that work, over the step's time and the device's
dense bfloat16 peak.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from par_model.config import ModelConfig
from par_model.frame_head import sample_mask_ratio
from par_model.latency import Clock
from par_model.model import PARModel, TrainingBatch
from par_model.training.ema import WeightAverage
from par_model.training.memory_plan import full_clips, step_loss, tensors_without_data
from par_model.training.policy_parts import parameter_groups
from par_model.training.training_presets import TRAINING_PRESETS, training_preset_of_model
from par_model.training.training_step import StepLoss


@dataclass(frozen=True)
class Training:
    """A model on a device, ready for steps of `num_clips` of the longest clips."""

    model: ModelConfig
    loss: StepLoss
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    batch: TrainingBatch
    gradient_clip: float

    @staticmethod
    def make(model: PARModel, num_clips: int, device: torch.device) -> "Training":
        """`model` moves to `device`, with the training defaults of its size."""
        config = TRAINING_PRESETS[training_preset_of_model(model.config)]
        # That of a loaded checkpoint is frozen.
        loss = step_loss(model.requires_grad_(True), config, None, num_scene=0)
        loss = loss.to(device).train()
        return Training(
            model=model.config,
            loss=loss,
            optimizer=torch.optim.AdamW(
                parameter_groups(loss, config.weight_decay), lr=config.learning_rate
            ),
            average=WeightAverage(model, config.average_decay),
            batch=_random(full_clips(model.config, num_clips, num_scene=0)).to(device),
            gradient_clip=config.gradient_clip,
        )

    def step(self, index: int, mask_ratio: float) -> None:
        """One step; nothing waits for the device."""
        generator = torch.Generator(self.batch.text_BTC.device).manual_seed(index)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.batch, None, 1.0, generator, mask_ratio).total.backward()
        torch.nn.utils.clip_grad_norm_(self.loss.parameters(), self.gradient_clip)
        self.optimizer.step()
        self.average.update(self.loss.model, index)


def measure_training(
    training: Training, clock: Clock, peak_tflop_per_s: float | None
) -> dict[str, Any]:
    """Times of steps, and what follows from their median; `mfu` only where the device's peak is
    given [TFLOP/s]. Every step masks the mean share of image tokens."""
    mask_ratio, indices = mean_mask_ratio(training.model), itertools.count()
    times = clock.measure(lambda: training.step(next(indices), mask_ratio))
    clips, slots = training.batch.frame_valid_BN.shape
    tflop = step_tflop(training.model, training.loss, clips, mask_ratio)
    seconds = times["p50"] / 1e3
    result: dict[str, Any] = {
        "step_ms": times,
        "clips": clips,
        "slots": clips * slots,
        "tokens": clips * (training.model.num_prefix_tokens + slots * training.model.slot_length),
        "mask_ratio": mask_ratio,
        "tflop": tflop,
        "tflop_per_s": tflop / seconds,
    }
    result["tokens_per_s"] = result["tokens"] / seconds
    result["slots_per_s"] = result["slots"] / seconds
    if peak_tflop_per_s is not None:
        result["peak_tflop_per_s"] = peak_tflop_per_s
        result["mfu"] = result["tflop_per_s"] / peak_tflop_per_s
    return result


def step_tflop(model: ModelConfig, loss: StepLoss, num_clips: int, mask_ratio: float) -> float:
    """Work of one step's forward and backward pass [TFLOP]."""
    with tensors_without_data(model):
        counted = step_loss(PARModel(model), loss.config, None, num_scene=0)
        batch = full_clips(model, num_clips, num_scene=0)
        with FlopCounterMode(display=False) as counter:
            counted(batch, None, 1.0, torch.Generator(), mask_ratio).total.backward()
    return counter.get_total_flops() / 1e12


def mean_mask_ratio(model: ModelConfig) -> float:
    """Of the truncated normal distribution that training draws from, by 1,000 draws."""
    generator = torch.Generator().manual_seed(0)
    loss = model.loss
    draws = [
        sample_mask_ratio(loss.mask_ratio_low, loss.mask_ratio_std, generator) for _ in range(1000)
    ]
    return float(np.mean(draws))


def _random(batch: TrainingBatch) -> TrainingBatch:
    """The batch with random numbers in the place of zeros: zeros can run faster than data."""
    generator = torch.Generator().manual_seed(0)
    names = ("text_BTC", "latents_BNchw", "actions_BNLD", "context_actions_BNLD", "proprio_BNJ")
    return dataclasses.replace(
        batch,
        **{n: torch.randn(getattr(batch, n).shape, generator=generator) for n in names},
    )
