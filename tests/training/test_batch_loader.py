# SPDX-License-Identifier: Apache-2.0
"""Batches in micro-batches, by workers and for several processes: always the same samples."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from par_model.model import TrainingBatch
from par_model.training.batch_loader import BatchLoader, Division, StepBatch
from par_model.training.clips import ClipSampler
from tests.training.fixtures import LONG_CLIPS, make_sampler

CLIPS = dataclasses.replace(LONG_CLIPS, slots_per_batch=24, batches_per_round=3, context_noise=0.1)
MICRO = 8


@pytest.fixture
def sampler(tmp_path: Path) -> ClipSampler:
    return make_sampler(tmp_path, [21, 40, 33], CLIPS)


def tensors(batch: TrainingBatch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if value is not None}


def same(one: TrainingBatch, other: TrainingBatch) -> bool:
    mine, others = tensors(one), tensors(other)
    return mine.keys() == others.keys() and all(
        torch.equal(v.nan_to_num(), others[n].nan_to_num()) for n, v in mine.items()
    )


def steps(
    sampler: ClipSampler, division: Division, count: int, num_workers: int = 0
) -> list[StepBatch]:
    loader = BatchLoader(sampler, division, num_workers, False)
    return [loader.next() for _ in range(count)]


def test_an_undivided_step_is_the_samplers_batch(sampler: ClipSampler) -> None:
    loaded = steps(sampler, Division(), 7)
    sampler.place = (0, 0)
    for step in loaded:
        (micro,) = step.micro
        assert micro.share == 1.0
        assert same(micro.batch, sampler.next_batch().with_rows())
    assert sampler.place == loaded[-1].after


def test_workers_bring_the_same_batches_in_order_and_after_a_resume(sampler: ClipSampler) -> None:
    plain = steps(sampler, Division(MICRO), 9)
    sampler.place = (0, 0)
    by_workers = steps(sampler, Division(MICRO), 5, num_workers=2)
    # What was cut ahead is cut again: the place is that of what was used.
    by_workers += steps(sampler, Division(MICRO), 4, num_workers=2)
    assert [step.place for step in by_workers] == [step.place for step in plain]
    for one, other in zip(plain, by_workers, strict=True):
        assert all(same(a.batch, b.batch) for a, b in zip(one.micro, other.micro, strict=True))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_processes_share_the_micro_batches_of_one(sampler: ClipSampler, num_ranks: int) -> None:
    whole = steps(sampler, Division(MICRO), 6)
    assert max(len(step.micro) for step in whole) > 1
    parts = []
    for rank in range(num_ranks):
        sampler.place = (0, 0)
        parts.append(steps(sampler, Division(MICRO, rank, num_ranks), 6))
    for index, step in enumerate(whole):
        assert sum(micro.share for micro in step.micro) == pytest.approx(1.0)
        assert all(micro.batch.latents_BNchw.shape[:2].numel() for micro in step.micro)
        numbers = {len(part[index].micro) for part in parts}
        assert len(numbers) == 1, "every process does the same number of micro-batches"
        found = [m for part in parts for m in part[index].micro if m.share]
        assert sorted(m.index for m in found) == [m.index for m in step.micro]
        for micro in found:
            assert micro.share == step.micro[micro.index].share
            assert same(micro.batch, step.micro[micro.index].batch)


def test_micro_batches_keep_to_their_size(sampler: ClipSampler) -> None:
    for step in steps(sampler, Division(MICRO), 6):
        for micro in step.micro:
            clips, slots = micro.batch.actions_BNLD.shape[:2]
            assert clips * slots <= MICRO or clips == 1


_DEAD_WORKER = """
import dataclasses, os, signal, sys
from pathlib import Path
from par_model.training.batch_loader import BatchLoader, Division
from tests.training.test_batch_loader import CLIPS
from tests.training.fixtures import make_sampler

loader = BatchLoader(make_sampler(Path(sys.argv[1]), [21, 40, 33], CLIPS), Division(), 1, False)
try:
    with loader.workers_may_die():
        loader.next()
        os.kill(loader._steps._workers[0].pid, signal.SIGKILL)
        for _ in range(100):
            loader.next()
except ValueError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_a_dead_worker_is_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: torch's handler of SIGCHLD raises wherever Python happens to be."""
    done = subprocess.run(
        [sys.executable, "-c", _DEAD_WORKER, str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert re.fullmatch(r".*data ended \(was it killed.*--data-workers.*\n", done.stdout), done
