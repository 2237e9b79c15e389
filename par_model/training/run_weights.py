# SPDX-License-Identifier: Apache-2.0
"""The weights that a run trains, with what is made of them: moments, moving average, stored state.

Whole in each process, or sharded (sharding.py). What is stored is whole in both cases, so a run may
go on with another number of processes, sharded or not.
"""

import copy

import torch
from torch import Tensor, nn

from par_model.model import PARModel
from par_model.training.ema import WeightAverage
from par_model.training.policy_parts import parameter_groups
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.processes import Processes
from par_model.training.schedule import set_learning_rate
from par_model.training.sharding import gathered, shard, sharded_copy
from par_model.training.side_tasks import SideTasks
from par_model.training.training_state import (
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from par_model.training.training_step import StepLoss


class RunWeights:
    """Model and side tasks of `loss`, AdamW's moments, and the model's moving average."""

    def __init__(
        self,
        loss: StepLoss,
        config: PolicyTrainingConfig,
        processes: Processes,
        device: torch.device,
        sharded: bool,
    ) -> None:
        self.model, self.side, self._processes, self._device = (
            loss.model,
            loss.side,
            processes,
            device,
        )
        self._whole: nn.ModuleDict | None = None
        averaged = None
        if sharded:
            if processes.is_first:
                self._whole = _whole_on_cpu(self.model, self.side)
            averaged = sharded_copy(self.model, device)
            shard(loss, device)
        self.average = WeightAverage(self.model, config.average_decay, averaged)
        self._is_sharded = sharded
        self._clip = config.gradient_clip
        self.optimizer = torch.optim.AdamW(
            parameter_groups(nn.ModuleList([self.model, self.side]), config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )

    def step(self, number: int, learning_rate: float) -> None:
        """One step of AdamW along the gradients, whose norm over all weights is clipped, and of the
        average; `number` from 0."""
        set_learning_rate(self.optimizer, learning_rate)
        trained = [*self.model.parameters(), *self.side.parameters()]
        torch.nn.utils.clip_grad_norm_(trained, self._clip)
        self.optimizer.step()
        self.average.update(self.model, number)

    def whole(self) -> tuple[PARModel, SideTasks] | None:
        """The averaged model and the side tasks; where they are sharded, gathered into the first
        process (None in the others), until `release`. All processes must call it."""
        if not self._is_sharded:
            return self.average.model, self.side
        tensors = module_tensors("model", self.average.model) | module_tensors("side", self.side)
        found = gathered(tensors, self._whole is not None)
        if self._whole is None:
            return None
        self._whole.load_state_dict(found)
        self._whole.to(self._device)
        model, side = self._whole["model"], self._whole["side"]
        assert isinstance(model, PARModel)
        assert isinstance(side, SideTasks)
        return model, side

    def release(self) -> None:
        """Give up the memory on the device that `whole` took."""
        if self._whole is not None:
            self._whole.to("cpu")

    def tensors(self) -> dict[str, Tensor]:
        """All that a stored state needs, whole; empty in other processes than the first. All
        processes must call it."""
        tensors = module_tensors("model", self.model)
        tensors |= module_tensors("average", self.average.model)
        tensors |= optimizer_tensors(self.model, self.optimizer)
        tensors |= module_tensors("side", self.side)
        tensors |= optimizer_tensors(self.side, self.optimizer, "side.")
        return gathered(tensors, self._processes.is_first)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`, which every process has whole. Raises ValueError where they are
        of another model."""
        restore_module("model", self.model, tensors)
        restore_module("average", self.average.model, tensors)
        restore_optimizer(self.model, self.optimizer, tensors)
        restore_module("side", self.side, tensors)
        restore_optimizer(self.side, self.optimizer, tensors, "side.")


def _whole_on_cpu(model: PARModel, side: SideTasks) -> nn.ModuleDict:
    """Copies to gather into."""
    modules = nn.ModuleDict({"model": copy.deepcopy(model), "side": copy.deepcopy(side)})
    return modules.to("cpu").requires_grad_(False).eval()
