# SPDX-License-Identifier: Apache-2.0
"""The batches of a training run in order, cut by worker processes ahead of the step that needs
them, and on a GPU in pinned memory.

A step's batch is cut into micro-batches, which depend on the batch and on `micro_slots` alone;
several processes take them in turn. So the number of processes changes no sample.
"""

import itertools
import multiprocessing.connection
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import DataLoader, Dataset

from par_model.model import TrainingBatch
from par_model.training.clips import ClipSampler
from par_model.training.scene_pictures import ScenePictureSampler

Place = tuple[int, int]
# How long a worker whose connection has broken may take to end.
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class MicroBatch:
    """Part `index` of a step's batch, with its share of the step's slots; `pictures` are the
    rendered scenes beside it, on the first part alone."""

    batch: TrainingBatch
    share: float
    index: int
    pictures: TrainingBatch | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        pictures = None if self.pictures is None else self.pictures.to(device)
        return MicroBatch(self.batch.to(device), self.share, self.index, pictures)

    def pin_memory(self) -> "MicroBatch":
        pictures = None if self.pictures is None else self.pictures.pin_memory()
        return MicroBatch(self.batch.pin_memory(), self.share, self.index, pictures)


@dataclass(frozen=True)
class StepBatch:
    """This process's part of the batch at `place`; the next one is at `after`."""

    micro: tuple[MicroBatch, ...]
    place: Place
    after: Place

    def pin_memory(self) -> "StepBatch":
        """Called by the DataLoader."""
        return StepBatch(tuple(m.pin_memory() for m in self.micro), self.place, self.after)


@dataclass(frozen=True)
class Division:
    """How a step's batch is divided: `micro_slots` (padding included) of a micro-batch at most,
    None: undivided; among `num_ranks` processes, of which this is `rank`."""

    micro_slots: int | None = None
    rank: int = 0
    num_ranks: int = 1


class BatchLoader:
    """Endless batches of a ClipSampler from its `place` on, which it moves; beside them the scenes
    of `pictures` from step `first_step` on."""

    def __init__(
        self,
        sampler: ClipSampler,
        division: Division,
        num_workers: int,
        pin_memory: bool,
        pictures: ScenePictureSampler | None = None,
        first_step: int = 0,
    ) -> None:
        self._sampler, self._division = sampler, division
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._pictures, self._first_step = pictures, first_step
        self._steps: Iterator[StepBatch] | None = None

    def next(self) -> StepBatch:
        """The batch at the sampler's place; moves the place on."""
        if self._steps is None:
            self._steps = iter(self._loader())
        step = next(self._steps)
        self._sampler.place = step.after
        return step

    @contextmanager
    def workers_may_die(self) -> Iterator[None]:
        """Raises ValueError with a sentence where a worker died, of which torch hears by a signal:
        at any moment."""
        try:
            try:
                yield
            except (EOFError, ConnectionError):
                self._await_an_end()
                raise
        except (RuntimeError, EOFError, ConnectionError) as error:
            workers = self._workers()
            if all(worker.is_alive() for worker in workers):
                raise
            raise ValueError(
                "a process that prepares training data ended (was it killed, or is memory "
                "short?); the same command goes on from the last saved step. Fewer --data-workers "
                "take less memory."
            ) from error

    def _workers(self) -> Sequence[BaseProcess]:
        return getattr(self._steps, "_workers", ())

    def _await_an_end(self) -> None:
        """A connection breaks before the worker at its other end has ended. Raises RuntimeError
        where torch's handler of signals hears of the end meanwhile."""
        workers = {worker.sentinel: worker for worker in self._workers()}
        for sentinel in multiprocessing.connection.wait(list(workers), _END_TIMEOUT_S):
            workers[sentinel].join()  # type: ignore[index]

    def _loader(self) -> DataLoader[StepBatch]:
        workers = {"prefetch_factor": 2, "worker_init_fn": _start_worker}
        return DataLoader(
            _Steps(self._sampler, self._division, self._pictures),
            sampler=_Places(self._sampler, self._first_step),
            batch_size=None,
            num_workers=self._num_workers,
            pin_memory=self._pin_memory,
            # Without one, torch's global generator would move.
            generator=torch.Generator(),
            **(workers if self._num_workers else {}),  # type: ignore[arg-type]
        )


def _start_worker(worker: int) -> None:
    # The trainer's own handler would leave a worker running.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Places:
    """Steps and the places of their batches in order, from where the sampler stands."""

    def __init__(self, sampler: ClipSampler, first_step: int) -> None:
        self._sampler, self._place, self._step = sampler, sampler.place, first_step

    def __iter__(self) -> Iterator[tuple[int, Place]]:
        place = self._place
        for step in itertools.count(self._step):
            yield step, place
            place = self._sampler.place_after(place)


class _Steps(Dataset[StepBatch]):
    def __init__(
        self, sampler: ClipSampler, division: Division, pictures: ScenePictureSampler | None
    ) -> None:
        self._sampler, self._division, self._pictures = sampler, division, pictures

    def __getitem__(self, step_and_place: tuple[int, Place]) -> StepBatch:
        step, place = step_and_place
        division = self._division
        parts = self._sampler.parts(place, division.micro_slots)
        slots = [sum(plan.num_slots for plan in part) for part in parts]
        chosen = list(range(division.rank, len(parts), division.num_ranks))
        micro = [
            MicroBatch(
                self._sampler.cut_part(place, parts, index).with_rows(),
                slots[index] / sum(slots),
                index,
                self._scenes(step) if index == 0 else None,
            )
            for index in chosen
        ]
        if len(micro) < -(-len(parts) // division.num_ranks):
            # Every process does the same number: the last part again, which counts nothing.
            last = self._sampler.cut_part(place, parts, len(parts) - 1).with_rows()
            micro.append(MicroBatch(last, 0.0, len(parts) - 1))
        return StepBatch(tuple(micro), place, self._sampler.place_after(place))

    def _scenes(self, step: int) -> TrainingBatch | None:
        return None if self._pictures is None else self._pictures.batch(step).with_rows()
