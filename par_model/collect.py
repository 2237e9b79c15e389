# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations of ManiSkill's motion planners as a LeRobot data set.

    python -m par_model.collect --task PushCube --num-demos 1000 --out datasets/push_cube
    python -m par_model.collect --show datasets/push_cube

The same command continues a recording that was stopped or killed, and a larger --num-demos extends
one. Equal seeds give equal data sets, whatever the number of workers and interruptions.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from par_model.simulation.demonstrations import (
    FailedDemonstration,
    NoiseSettings,
    record_demonstration,
)
from par_model.simulation.maniskill_env import (
    CAMERA_EYE_M,
    CAMERA_FOV_RAD,
    CAMERA_NAME,
    CAMERA_TARGET_M,
    JOINT_NAMES,
    ManiSkillArm,
)
from par_model.simulation.tasks import CONTROL_STEP_S, NUM_DEMONSTRATION_SEEDS, TASKS, task
from par_model.training.lerobot_dataset import assemble
from par_model.training.staged_episodes import (
    STAGING_FOLDER,
    Episode,
    StagedEpisodes,
    stage_episode,
    stage_failure,
    start_staging,
)

FPS = round(1 / CONTROL_STEP_S)
# What a demonstration depends on: a recording is not continued with other versions.
_VERSIONED = ("mani-skill", "sapien", "mplib", "toppra", "numpy", "torch", "av")


@dataclass(frozen=True)
class CollectSettings:
    """What is recorded. Equal settings give equal data sets.

    Attributes:
        task: the task's name.
        num_demos: successful demonstrations wanted.
        first_seed: the first seed tried; then one after another.
        noise: how many demonstrations are disturbed, and how.
        num_hold_steps: steps at the end in which the last target is repeated.
        image_size: height and width of a frame in pixels.
    """

    task: str
    num_demos: int
    first_seed: int = 0
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    num_hold_steps: int = 16
    image_size: int = 128

    def validate(self) -> None:
        """Raise ValueError for settings that cannot be recorded."""
        task(self.task)
        if self.num_demos < 1:
            raise ValueError(
                f"the number of demonstrations must be at least 1, got {self.num_demos}."
            )
        if self.first_seed < 0 or self.first_seed + self.num_demos > NUM_DEMONSTRATION_SEEDS:
            raise ValueError(
                f"seeds {self.first_seed} to {self.first_seed + self.num_demos - 1} are not all "
                f"demonstration seeds (0 to {NUM_DEMONSTRATION_SEEDS - 1}); seeds from "
                f"{NUM_DEMONSTRATION_SEEDS} on are kept for model selection and measurement."
            )
        if not 0.0 <= self.noise.share <= 1.0:
            raise ValueError(f"the noise share must lie in 0 to 1, got {self.noise.share}.")


def collect(settings: CollectSettings, out: Path, num_workers: int) -> None:
    """Record what is missing under `out`, then write the data set. Blocks until done."""
    settings.validate()
    out.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        start_staging(out, staging_settings(settings))
        seeds = _record(settings, out, num_workers)
        assemble(out, seeds)


def staging_settings(settings: CollectSettings) -> dict[str, Any]:
    """All that decides what a seed's demonstration looks like."""
    the_task = task(settings.task)
    return {
        "task": the_task.name,
        "instruction": the_task.instruction,
        "environment_state_names": [
            f"{name}_{axis}" for name in the_task.position_names for axis in "xyz"
        ],
        "joint_names": list(JOINT_NAMES),
        "fps": FPS,
        "camera": CAMERA_NAME,
        "image_size": settings.image_size,
        "camera_eye_m": list(CAMERA_EYE_M),
        "camera_target_m": list(CAMERA_TARGET_M),
        "camera_fov_rad": CAMERA_FOV_RAD,
        "first_seed": settings.first_seed,
        "num_hold_steps": settings.num_hold_steps,
        "noise_share": settings.noise.share,
        "noise_sigma_rad": settings.noise.sigma_rad,
        "noise_probability": settings.noise.probability,
        "noise_block_steps": settings.noise.block_steps,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def wanted_seeds(settings: CollectSettings, outcomes: dict[int, bool]) -> list[int] | None:
    """The seeds of the first num_demos successes, or None while a seed before them is unknown.

    outcomes: seed -> whether it gave a demonstration.
    """
    seeds: list[int] = []
    for seed in range(settings.first_seed, NUM_DEMONSTRATION_SEEDS):
        if seed not in outcomes:
            return None
        if outcomes[seed]:
            seeds.append(seed)
        if len(seeds) == settings.num_demos:
            return seeds
    raise ValueError(
        f"the demonstration seeds {settings.first_seed} to {NUM_DEMONSTRATION_SEEDS - 1} gave only "
        f"{len(seeds)} demonstrations of the {settings.num_demos} asked for; ask for fewer."
    )


def _known_outcomes(out: Path) -> dict[int, bool]:
    staged = StagedEpisodes(out)
    return dict.fromkeys(staged.seeds, True) | dict.fromkeys(staged.failures(), False)


def _record(settings: CollectSettings, out: Path, num_workers: int) -> list[int]:
    outcomes = _known_outcomes(out)
    seeds = wanted_seeds(settings, outcomes)
    if seeds is not None:
        return seeds
    unknown = (s for s in range(settings.first_seed, NUM_DEMONSTRATION_SEEDS) if s not in outcomes)
    progress = tqdm(
        total=settings.num_demos,
        initial=min(sum(outcomes.values()), settings.num_demos),
        desc=settings.task,
        unit="demo",
    )
    # torch and SAPIEN do not survive a fork.
    pool = ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    running: set[Future[tuple[int, bool]]] = set()
    try:
        while seeds is None:
            # Few in flight: what runs beyond the last wanted seed is wasted.
            while len(running) < num_workers:
                running.add(pool.submit(_record_seed, settings, out, next(unknown)))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                seed, succeeded = future.result()
                outcomes[seed] = succeeded
                progress.update(int(succeeded))
            progress.set_postfix(failed=len(outcomes) - sum(outcomes.values()))
            seeds = wanted_seeds(settings, outcomes)
    except BrokenProcessPool as error:
        raise ValueError(
            "a recording process died (out of memory, or killed); run the same command again to "
            "go on from the demonstrations that are finished."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()
    return seeds


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


_worker_arms: dict[tuple[str, int], ManiSkillArm] = {}


def _record_seed(settings: CollectSettings, out: Path, seed: int) -> tuple[int, bool]:
    """(seed, whether it gave a demonstration); runs in a worker, which keeps its environment."""
    key = (settings.task, settings.image_size)
    if key not in _worker_arms:
        _worker_arms[key] = ManiSkillArm(settings.task, image_size=settings.image_size)
    arm = _worker_arms[key]
    try:
        demonstration = record_demonstration(arm, seed, settings.noise, settings.num_hold_steps)
    except FailedDemonstration as failure:
        stage_failure(out, seed, str(failure))
        return seed, False
    episode = Episode(
        instruction=arm.task.instruction,
        frames=demonstration.frames,
        measured_joint_positions=demonstration.measured_joint_positions,
        actions=demonstration.actions,
        executed_actions=demonstration.executed_actions,
        environment_state=demonstration.environment_state,
        success=demonstration.success,
        seed=seed,
        noisy=demonstration.noisy,
    )
    stage_episode(out, episode, FPS)
    return seed, True


@contextlib.contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    lock = out / STAGING_FOLDER / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another collect is writing to {out}; wait for it or choose another --out."
            ) from error
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m par_model.collect", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--task", choices=list(TASKS))
    parser.add_argument("--num-demos", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--noise-share", type=float, default=0.35)
    parser.add_argument("--num-workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    settings = CollectSettings(
        task=options.task,
        num_demos=options.num_demos,
        first_seed=options.first_seed,
        noise=NoiseSettings(share=options.noise_share),
    )
    collect(settings, options.out, options.num_workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
