# SPDX-License-Identifier: Apache-2.0
"""The learning rate over a training run."""

import math

from torch.optim import Optimizer


def learning_rate_factor(
    step: int, num_warmup_steps: int, num_steps: int, final_factor: float = 0.01
) -> float:
    """Part of the peak rate at `step` (from 0): linear warm-up, then half a cosine down."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return final_factor + (1.0 - final_factor) * cosine


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Of all parameters, for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
