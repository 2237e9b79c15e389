# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to Policy: the only place that chooses a runtime."""

import logging
from pathlib import Path

import torch

from par_model.backends.policy_graphs import PolicyGraphs
from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import Checkpoint, load_checkpoint
from par_model.policy import PARPolicy

BACKENDS = ("auto", "eager")

_log = logging.getLogger(__name__)


def load_policy(
    path: Path,
    *,
    backend: str = "auto",
    num_steps: int | None = None,
    device: str = "auto",
) -> PARPolicy:
    """Load a checkpoint folder and make it answer observations.

    Args:
        path: the checkpoint folder.
        backend: one of BACKENDS.
        num_steps: sampling steps of the action head; None is the checkpoint's default.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        ValueError: the checkpoint, the backend, the device or the number of steps is refused; the
            sentence says why.
    """
    checkpoint = load_checkpoint(path)
    graphs = _graphs(checkpoint, backend, _device(device), num_steps)
    _log.info("policy %s answers with %s", path, graphs.name)
    return PARPolicy(checkpoint.config, checkpoint.statistics, checkpoint.instructions, graphs)


def _graphs(
    checkpoint: Checkpoint, backend: str, device: torch.device, num_steps: int | None
) -> PolicyGraphs:
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    return TorchEager(checkpoint, device, num_steps=num_steps)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for and torch sees no CUDA GPU; use 'cpu'.")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is unknown; choose auto, cpu or cuda.")
    return torch.device(name)
