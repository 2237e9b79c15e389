# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of a model's weights: what is evaluated and shipped."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from par_model.training.sharding import local_parts

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    """A frozen copy of a model that follows it slowly; buffers are copied as they are."""

    def __init__(self, model: Model, decay: float, frozen: Model | None = None) -> None:
        """`frozen`: the copy, where the model is sharded and so cannot be copied here."""
        self.model = frozen or copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move towards `model` after training step `step` (from 0); early steps move faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = local_parts(self.model.parameters())
        torch._foreach_lerp_(average, local_parts(model.parameters()), 1.0 - decay)
