# SPDX-License-Identifier: Apache-2.0
"""Jobs without a simulator, and what every engine of run_jobs promises of them."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator

import pytest

from par_model.simulation.worker_pool import run_jobs
from par_model.worker_options import WorkerOptions

# A job that nobody waits for.
LONG_S = 600.0


def threads_and_process(number: int) -> tuple[int, int, int]:
    """(number, torch's threads, process)."""
    import torch

    return number, torch.get_num_threads(), os.getpid()


def fail_at_three(number: int) -> int:
    if number == 3:
        raise KeyError("number 3")
    return number


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def die_once(marker: str) -> str:
    """Kills its process (-9) unless the file `marker` is there, which it makes."""
    try:
        open(marker, "x").close()
    except FileExistsError:
        return marker
    return die(marker)


def die(marker: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(f"still alive, {marker}")


def check_lost_workers(folder: str, workers: WorkerOptions) -> None:
    """Raises AssertionError for an engine that does not run a lost worker's job again."""
    markers = [f"{folder}/{number}" for number in range(4)]
    assert sorted(run_jobs(die_once, markers, workers)) == markers
    with pytest.raises(ValueError, match="a job lost its worker 6 times"):
        list(run_jobs(die, markers, workers))


def check_contract(workers: WorkerOptions) -> None:
    """Raises AssertionError for an engine that breaks it; `workers` has two at a time."""
    assert workers.num_workers == 2
    _a_job_is_taken_when_a_worker_is_free(workers)
    _a_jobs_error_is_raised_as_it_is(workers)
    _closing_waits_for_no_job(workers)
    assert list(run_jobs(sleep, [], workers)) == []


def _a_job_is_taken_when_a_worker_is_free(workers: WorkerOptions) -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    with contextlib.closing(run_jobs(threads_and_process, jobs(), workers)) as results:
        first = list(itertools.islice(results, 12))
    assert len(taken) <= len(first) + 2
    assert {threads for _, threads, _ in first} == {1}
    # A simulator is kept from job to job, by its process.
    processes = {process for _, _, process in first}
    assert len(processes) <= 2
    assert os.getpid() not in processes


def _a_jobs_error_is_raised_as_it_is(workers: WorkerOptions) -> None:
    with pytest.raises(KeyError) as caught:
        list(run_jobs(fail_at_three, range(1000), workers))
    assert caught.value.args == ("number 3",)


def _closing_waits_for_no_job(workers: WorkerOptions) -> None:
    results = run_jobs(sleep, [0.0, LONG_S, LONG_S], workers)
    assert next(results) == 0.0
    began_s = time.monotonic()
    results.close()
    assert time.monotonic() - began_s < 20.0
