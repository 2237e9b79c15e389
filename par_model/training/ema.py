# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of a model's weights: what is evaluated and shipped."""

import copy

import torch
from torch import nn


class WeightAverage:
    """A frozen copy of a model that follows it slowly; buffers are copied as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after training step `step` (from 0); early steps move faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = list(self.model.parameters())
        torch._foreach_lerp_(average, list(model.parameters()), 1.0 - decay)
