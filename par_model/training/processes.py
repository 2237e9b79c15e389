# SPDX-License-Identifier: Apache-2.0
"""A training by several processes: DistributedDataParallel or FSDP2 (sharding.py) under torchrun,
gloo on CPUs, NCCL on GPUs. Without torchrun there is one process and nothing here does anything.

The first process writes logs, states and checkpoints. A step's micro-batches, and their random
numbers, are the same whatever the number of processes (batch_loader.py).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Execution:
    """How a run is computed, which leaves its samples as they are.

    Attributes:
        micro_slots: slots of a micro-batch at most, padding included; None: a step's whole batch.
        data_workers: processes that cut batches ahead; 0: the trainer does.
        sharded: each process keeps a part of weights, gradients, moments and average.
    """

    micro_slots: int | None = None
    data_workers: int = 0
    sharded: bool = False

    def going_on(self, stored: object) -> "Execution":
        """For a resumed run: its own micro-batches, with which its bits are the same, or smaller
        ones."""
        sizes = [size for size in (self.micro_slots, stored) if isinstance(size, int)]
        return replace(self, micro_slots=min(sizes, default=None))


def is_under_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Meet the other processes of torchrun; yields this process's device."""
    if not is_under_torchrun():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


class Processes:
    """This process among those that train together."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.count = distributed.get_world_size() if together else 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, loss: nn.Module, sharded: bool) -> nn.Module:
        """The module whose backward pass averages gradients over the processes; a sharded one does
        so after each micro-batch, by itself."""
        if self.count == 1 or sharded:
            return loss
        # The tokens of other forms of the model (begin-of-video) have no gradient.
        return DistributedDataParallel(loss, broadcast_buffers=False, find_unused_parameters=True)

    def adding_up(self, loss: nn.Module, more_follows: bool) -> AbstractContextManager[None]:
        """Within it gradients are kept for the micro-batches that follow."""
        if isinstance(loss, DistributedDataParallel) and more_follows:
            return loss.no_sync()
        return nullcontext()

    def summed(self, losses: list[Tensor]) -> list[Tensor]:
        """Each added up over the processes."""
        stacked = torch.stack(losses)
        if self.count > 1:
            distributed.all_reduce(stacked)
        return list(stacked)

    def any(self, flag: bool) -> bool:
        """Whether the flag is True in any process; does not wait for a GPU."""
        if self.count == 1:
            return flag
        seen = torch.tensor(int(flag))
        distributed.all_reduce(seen)
        return bool(seen)

    def of_first(self, number: int) -> int:
        """The first process's number."""
        if self.count == 1:
            return number
        shared = torch.tensor(number)
        distributed.broadcast(shared, 0)
        return int(shared)

    @contextmanager
    def others_may_end(self) -> Iterator[None]:
        """Raises ValueError with a sentence where another process ended meanwhile. SIGTERM, which
        torchrun then sends, is ignored from there on: the sentence is still to be printed."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1:
                raise
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise ValueError(
                f"process {self.rank} of {self.count} could not go on ({_first_line(error)}); "
                "another process of this training has probably ended. The same command goes on "
                "from the last saved step."
            ) from error


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]
