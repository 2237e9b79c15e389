# SPDX-License-Identifier: Apache-2.0
"""The latents that a training keeps: at most half of the machine's memory, whoever reads them."""

import os
from pathlib import Path

import pytest
import torch

from par_model.training.policy_options import execution, latent_memory
from par_model.training.stage_options import PolicyOptions


@pytest.mark.parametrize("num_trainers", [None, 1, 2, 8], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("data_workers", [None, 0, 3], ids=str)
def test_all_that_read_latents_keep_half_of_the_memory_together(
    num_trainers: int | None,
    device: str,
    data_workers: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each trainer reads them for its validation, each of its data workers for its batches. 16
    trainers on two machines: those of this one share its memory."""
    if num_trainers is not None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(2 * num_trainers))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_trainers))
    options = PolicyOptions(
        data=(Path("set"),), out=Path("run"), data_workers=data_workers, micro_slots=4
    )
    num_workers = execution(options, None, torch.device(device)).data_workers
    num_readers = (num_trainers or 1) * (1 + num_workers)
    kept = num_readers * latent_memory(options, torch.device(device))
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert half - num_readers < kept <= half
