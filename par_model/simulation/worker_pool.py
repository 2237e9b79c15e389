# SPDX-License-Identifier: Apache-2.0
"""Processes that each keep one simulator, for jobs that are independent of each other: on this
machine, or on those of a Ray cluster (ray_engine.py)."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from par_model.worker_options import WorkerOptions

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: WorkerOptions
) -> Iterator[Result]:
    """Results in the order in which jobs finish; closing the iterator stops the workers.

    A job is taken from `jobs` only when a worker is free. An error in a job is raised here.
    Workers end with this process, also when it is killed.

    Args:
        function: of an importable module, not of the program that was started: a worker imports
            it.
        jobs, and what `function` returns: whatever pickle takes.

    Raises:
        ValueError: a worker died (local), no machine is left or reached, or Ray is not installed.
    """
    if workers.num_workers is not None and workers.num_workers < 1:
        raise ValueError(f"the number of workers must be at least 1, got {workers.num_workers}.")
    if workers.engine == "ray":
        # Imports Ray, which is an extra.
        from par_model.simulation.ray_engine import run_on_ray

        return run_on_ray(function, jobs, workers.num_workers, workers.cluster)
    return _run_here(function, jobs, workers.num_processes)


def _run_here(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int
) -> Iterator[Result]:
    # torch and SAPIEN do not survive a fork.
    pool = ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    remaining = iter(jobs)
    try:
        running = {pool.submit(function, job) for job in islice(remaining, num_workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
                running |= {pool.submit(function, job) for job in islice(remaining, 1)}
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died (out of memory, or killed); run the same command again to go "
            "on from what is finished."
        ) from error
    finally:
        _stop(pool)


def _stop(pool: ProcessPoolExecutor) -> None:
    """Without waiting for jobs under way: nothing that they would finish is wanted."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the parent answers it and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
