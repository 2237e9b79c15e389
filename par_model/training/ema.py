# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of a model's weights: what is evaluated and shipped."""

import copy

import torch

from par_model.model import PARModel
from par_model.training.sharding import local_parts


class WeightAverage:
    """A frozen copy of a model that follows it slowly; buffers are copied as they are."""

    def __init__(self, model: PARModel, decay: float, frozen: PARModel | None = None) -> None:
        """`frozen`: the copy, where the model is sharded and so cannot be copied here."""
        self.model = frozen or copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: PARModel, step: int) -> None:
        """Move towards `model` after training step `step` (from 0); early steps move faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = local_parts(self.model.parameters())
        torch._foreach_lerp_(average, local_parts(model.parameters()), 1.0 - decay)
