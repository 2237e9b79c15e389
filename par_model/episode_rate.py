# SPDX-License-Identifier: Apache-2.0
"""Measure how many episodes a second workers make, and what each costs the command they are for.

    python -m par_model.episode_rate --task PushCube --num-workers 2
    python -m par_model.episode_rate --task PushCube --checkpoint C --engine ray

Demonstrations as `par_model.collect` records them (all files staged, in a temporary folder); with
--checkpoint, a policy's episodes as `par_model.evaluate` runs them. The first results, with the
start of the simulators, are left out. A seed that gives no demonstration takes time and is not
counted.

The last line is a model and no measurement: n workers make n times one worker's episodes, until the
one process that takes and writes the results has no time left.
"""

import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from par_model.command_line import default_is, parse, run_command
from par_model.evaluation.rollouts import Rollout, RolloutResult, run_rollout
from par_model.simulation.tasks import (
    FIRST_MEASUREMENT_SEED,
    NUM_DEMONSTRATION_SEEDS,
    TASKS,
    task,
)
from par_model.simulation.worker_pool import run_jobs
from par_model.training.seed_recording import (
    CollectSettings,
    RecordedSeed,
    SeedToRecord,
    record_seed,
    staging_settings,
)
from par_model.training.staged_episodes import stage_files, start_staging
from par_model.worker_options import WorkerOptions

PROGRAM = "python -m par_model.episode_rate"
MAX_STEPS = 200


@dataclass(frozen=True)
class EpisodeRateOptions(WorkerOptions):
    """The command line."""

    # the task
    task: Annotated[str, arg(metavar="|".join(TASKS))]
    # the policy whose episodes are run
    checkpoint: Annotated[Path | None, arg(metavar="DIR"), default_is("demonstrations")] = None
    # what runs its network, as load_policy
    backend: str = "eager"
    # episodes that are measured
    episodes: int = 40
    # episodes left out before
    warm_up: int = 4
    # workers that the model is asked about
    model_workers: int = 64


@dataclass(frozen=True)
class EpisodeRate:
    """What was measured.

    Attributes:
        episodes_per_s: results a second of wall time.
        driver_ms: CPU time of the command's process for a result, its threads included.
        result_bytes: of a result, mean.
        num_without: jobs that gave no result meanwhile; their time counts.
    """

    episodes_per_s: float
    driver_ms: float
    result_bytes: float
    num_without: int = 0

    def modelled(self, num_measured: int, num_workers: int) -> tuple[float, str]:
        """(episodes a second, what limits them); num_measured: the workers of this rate."""
        by_workers = self.episodes_per_s * num_workers / num_measured
        by_driver = 1e3 / self.driver_ms
        if by_workers < by_driver:
            return by_workers, "the workers"
        return by_driver, "the command's process"


def measure(results: Iterator[int | None], warm_up: int, num_episodes: int) -> EpisodeRate:
    """results: the size of each in bytes as it comes, None of a job without a result; what is done
    with it counts as work.

    Raises ValueError where `results` ends before `num_episodes` sizes.
    """
    for _ in itertools.islice(results, warm_up):
        pass
    began_s, cpu_s = time.perf_counter(), time.process_time()
    sizes: list[int] = []
    num_without = 0
    while len(sizes) < num_episodes:
        try:
            size = next(results)
        except StopIteration:
            raise ValueError(
                f"the jobs gave only {len(sizes)} results of the {num_episodes} asked for; give "
                "fewer --episodes."
            ) from None
        if size is None:
            num_without += 1
        else:
            sizes.append(size)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return EpisodeRate(
        num_episodes / wall_s, 1e3 * cpu_s / num_episodes, sum(sizes) / num_episodes, num_without
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse(EpisodeRateOptions, PROGRAM, __doc__, arguments)
    return run_command(lambda: _run(options), "error", "stopped.")


def _run(options: EpisodeRateOptions) -> None:
    if options.episodes < 1 or options.warm_up < 1:
        raise ValueError("--episodes and --warm-up must be at least 1.")
    demonstrates = options.checkpoint is None
    with tempfile.TemporaryDirectory() as folder:
        sizes = _demonstrations(options, Path(folder)) if demonstrates else _rollouts(options)
        with contextlib.closing(sizes):
            rate = measure(sizes, options.warm_up, options.episodes)
    what = "demonstrations" if demonstrates else "episodes of the policy"
    without = f", {rate.num_without} seeds gave none" if rate.num_without else ""
    print(
        f"{task(options.task).name}: {rate.episodes_per_s:.3f} {what} a second, "
        f"{rate.result_bytes / 1e3:.1f} kB and {rate.driver_ms:.2f} ms of the command's CPU time a "
        f"result ({options.episodes} measured{without}, engine {options.engine})"
    )
    if options.num_workers is not None:
        modelled, limit = rate.modelled(options.num_workers, options.model_workers)
        print(
            f"model, not measured: {options.model_workers} workers {modelled:.1f} a second, "
            f"limited by {limit} (which ends at {1e3 / rate.driver_ms:.0f} a second)"
        )


def _demonstrations(options: EpisodeRateOptions, folder: Path) -> Iterator[int | None]:
    settings = CollectSettings(task=options.task, num_demos=1)
    settings.validate()
    start_staging(folder, staging_settings(settings))
    jobs = (SeedToRecord(settings, seed) for seed in range(NUM_DEMONSTRATION_SEEDS))

    def staged(recorded: RecordedSeed) -> int | None:
        if recorded.files is None:
            return None
        stage_files(folder, recorded.seed, recorded.files)
        return sum(map(len, recorded.files.values()))

    return _sizes(record_seed, jobs, options, staged)


def _rollouts(options: EpisodeRateOptions) -> Iterator[int | None]:
    checkpoint, name = str(options.checkpoint), task(options.task).name
    jobs = (
        Rollout(checkpoint, name, seed, 0, MAX_STEPS, None, None, False, backend=options.backend)
        for seed in itertools.count(FIRST_MEASUREMENT_SEED)
    )

    def logged(result: RolloutResult) -> int:
        return len(json.dumps(result.to_json()))

    return _sizes(run_rollout, jobs, options, logged)


def _sizes(
    function: Callable[[Any], Any],
    jobs: Iterator[Any],
    workers: WorkerOptions,
    take: Callable[[Any], int | None],
) -> Iterator[int | None]:
    with contextlib.closing(run_jobs(function, jobs, workers)) as results:
        for result in results:
            yield take(result)


if __name__ == "__main__":
    sys.exit(main())
