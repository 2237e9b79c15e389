# SPDX-License-Identifier: Apache-2.0
"""Between two log lines a training step never waits for the device.

Without a GPU: operators whose result the host must read (`item`, `nonzero`, masked selection) are
refused while a step of a prepared batch is computed, forward and backward.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from par_model.training.batch_loader import BatchLoader, Division
from par_model.training.finetuning import FinetuningConfig
from par_model.training.policy_training import PolicyTrainer
from par_model.training.training_step import StepLoss
from tests.model.fixtures import random_model
from tests.training.fixtures import MODEL
from tests.training.test_policy_training import CPU, WITH_BOTH, make_parts

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
}


class NothingWaits(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in WAITING:
            raise AssertionError(f"{func} waits for the device")
        if func in (aten.index.Tensor, aten._index_put_impl_.default):
            masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor)]
            if any(mask.dtype == torch.bool for mask in masks):
                raise AssertionError(f"{func} with a mask waits for the device")
        return func(*args, **(kwargs or {}))


def prepared(folder: Path, trainer: PolicyTrainer) -> Any:
    loader = BatchLoader(trainer.sampler, Division(8), 0, False)
    return loader.next().micro[0]


@pytest.mark.parametrize("tuning", [None, FinetuningConfig(text_dropout=0.5)], ids=["new", "tuned"])
def test_nothing_of_a_step_is_read_by_the_host(
    tmp_path: Path, tuning: FinetuningConfig | None
) -> None:
    parts = make_parts(tmp_path)
    if tuning is not None:
        weights = random_model(MODEL).state_dict()
        parts = dataclasses.replace(parts, initial_weights=weights, finetuning=tuning)
    trainer = PolicyTrainer(parts, WITH_BOTH, tmp_path / "run", CPU)
    micro = prepared(tmp_path, trainer)
    loss = StepLoss(trainer.model, trainer.side, WITH_BOTH, tuning)
    with NothingWaits():
        result = loss(micro.batch, None, micro.share, torch.Generator(), mask_ratio=0.8)
        result.total.backward()
        parameters = [p for p in loss.parameters() if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        trainer.average.update(trainer.model, 0)
    with pytest.raises(AssertionError, match="waits"), NothingWaits():
        loss(dataclasses.replace(micro.batch, action_rows_M=None), None, 1.0, torch.Generator())


@pytest.mark.gpu
def test_a_step_on_a_gpu_waits_for_nothing(tmp_path: Path) -> None:
    device = torch.device("cuda")
    trainer = PolicyTrainer(make_parts(tmp_path), WITH_BOTH, tmp_path / "run", device)
    trainer.run(lambda progress: None, stop_at=2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = trainer._train_step()
        with pytest.raises(RuntimeError, match="synchronizing"):
            losses[0].item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(losses).all()
