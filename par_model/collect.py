# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations of ManiSkill's motion planners as a LeRobot data set.

    python -m par_model.collect --task PushCube --num-demos 1000 --out datasets/push_cube
    python -m par_model.collect --task PickCube --on-policy CHECKPOINT --first-seed 6000 \\
        --num-demos 200 --out datasets/PickCube_round1
    python -m par_model.collect --show datasets/push_cube

--on-policy: the policy acts and the task's expert labels. `action` is the expert's target,
`executed_action` the policy's; `teaches` marks the chunks whose labels are to be learnt: after a
missed grasp, with a knocked cube, near the goal. Episodes without any are left out.

The same command continues a recording that was stopped or killed, and a larger --num-demos extends
one. Equal seeds give equal data sets, whatever the number of workers and interruptions.
"""

import contextlib
import fcntl
import gc
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tqdm import tqdm
from tyro.conf import arg

from par_model.command_line import default_is, parse, run_command
from par_model.interface import DEFAULT_VIEWS
from par_model.simulation.camera_view import CameraView
from par_model.simulation.demonstrations import (
    FailedDemonstration,
    NoiseSettings,
    record_demonstration,
)
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import CONTROL_STEP_S, NUM_DEMONSTRATION_SEEDS, TASKS, task
from par_model.simulation.worker_pool import run_jobs
from par_model.training.dataset_inspector import contact_sheet, describe
from par_model.training.lerobot_dataset import open_episodes
from par_model.training.lerobot_writer import assemble
from par_model.training.on_policy_recording import OnPolicySettings, record_on_policy
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
        image_size: height and width of a view's frame in pixels.
        views: names of the cameras; the first is the data set's main one.
        on_policy: a policy that acts; then `noise` and `num_hold_steps` are not read.
    """

    task: str
    num_demos: int
    first_seed: int = 0
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    num_hold_steps: int = 16
    image_size: int = 128
    on_policy: OnPolicySettings | None = None
    views: tuple[str, ...] = DEFAULT_VIEWS

    def validate(self) -> None:
        """Raise ValueError for settings that cannot be recorded."""
        robot = task(self.task).robot
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
        if self.image_size < 16 or self.image_size % 16:
            raise ValueError(
                f"the image size must be a multiple of 16 pixels, got {self.image_size}."
            )
        robot.named_views(self.views, self.image_size)
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"views must be names, each once, got {list(self.views)}.")
        if not 0.0 <= self.noise.share <= 1.0:
            raise ValueError(f"the noise share must lie in 0 to 1, got {self.noise.share}.")
        if self.on_policy is not None:
            self.on_policy.validate(self.task)


@dataclass(frozen=True)
class CollectOptions:
    """The command line."""

    # the task; needed to record
    task: Annotated[str | None, arg(metavar="|".join(TASKS))] = None
    # successful demonstrations; with --on-policy: episodes with labels that teach
    num_demos: int = 1000
    # folder of the data set; needed to record
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    first_seed: Annotated[
        int, arg(help=f"seeds are tried from here on; below {NUM_DEMONSTRATION_SEEDS}")
    ] = 0
    # part of the seeds with noise on the executed action [0 to 1]
    noise_share: float = NoiseSettings().share
    # steps at the end in which the last target is repeated [control steps of 0.05 s]
    hold_steps: int = 16
    # height and width of a frame [pixels]
    image_size: int = 128
    # cameras, by the names that `par_model.perception cameras` knows; each becomes a video
    views: Annotated[tuple[str, ...], arg(metavar="VIEW ...")] = DEFAULT_VIEWS
    # a checkpoint that acts while the task's expert labels
    on_policy: Annotated[Path | None, arg(metavar="CHECKPOINT"), default_is("the planner acts")] = (
        None
    )
    # with --on-policy: length of an episode at most [control steps]
    max_steps: int = 200
    # with --on-policy: part of the seeds whose episode starts somewhere on the way [0 to 1]
    disturbed_starts: float = 0.0
    # processes; the default is one per core
    num_workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    # look at a data set instead, or at one of someone else by its mapping file
    show: Annotated[Path | None, arg(metavar="DIR")] = None
    # with --show: where its frames go
    sheet: Annotated[Path | None, arg(metavar="PNG"), default_is("beside it")] = None

    def __post_init__(self) -> None:
        if self.show is None and (self.task is None or self.out is None):
            raise ValueError("--task and --out are needed to record (or --show DIR to look).")


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
    robot = the_task.robot
    first, *others = robot.named_views(settings.views, settings.image_size)
    return {
        # Recordings of the Panda, which has no entry, are continued as before.
        **({} if robot == PANDA else {"arm": robot.name}),
        "task": the_task.name,
        "instruction": the_task.instruction,
        "environment_state_names": [
            f"{name}_{axis}" for name in the_task.position_names for axis in "xyz"
        ],
        "joint_names": list(robot.joint_names),
        "fps": FPS,
        "camera": first.name,
        "image_size": settings.image_size,
        "camera_eye_m": list(first.eye_m),
        "camera_target_m": list(first.target_m),
        "camera_fov_rad": first.fov_rad,
        **({"further_cameras": [_described(view) for view in others]} if others else {}),
        "first_seed": settings.first_seed,
        **(_noise(settings) if settings.on_policy is None else settings.on_policy.described()),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def _described(view: CameraView) -> dict[str, Any]:
    return {
        "name": view.name,
        "eye_m": list(view.eye_m),
        "target_m": list(view.target_m),
        "fov_rad": view.fov_rad,
    }


def _noise(settings: CollectSettings) -> dict[str, Any]:
    return {
        "num_hold_steps": settings.num_hold_steps,
        "noise_share": settings.noise.share,
        "noise_sigma_rad": settings.noise.sigma_rad,
        "noise_probability": settings.noise.probability,
        "noise_block_steps": settings.noise.block_steps,
    }


def wanted_seeds(settings: CollectSettings, outcomes: dict[int, bool]) -> list[int] | None:
    """The seeds of the first num_demos successes, or None where they are not known yet.

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
    return None


def _known_outcomes(out: Path) -> dict[int, bool]:
    staged = StagedEpisodes(out)
    return dict.fromkeys(staged.seeds, True) | dict.fromkeys(staged.failures(), False)


def _record(settings: CollectSettings, out: Path, num_workers: int) -> list[int]:
    outcomes = _known_outcomes(out)
    seeds = wanted_seeds(settings, outcomes)
    if seeds is not None:
        return seeds
    jobs = (
        _Job(settings, out, seed)
        for seed in range(settings.first_seed, NUM_DEMONSTRATION_SEEDS)
        if seed not in outcomes
    )
    num_successes = min(sum(outcomes.values()), settings.num_demos)
    with (
        tqdm(
            total=settings.num_demos, initial=num_successes, desc=settings.task, unit="demo"
        ) as progress,
        contextlib.closing(run_jobs(_record_seed, jobs, num_workers)) as results,
    ):
        for seed, succeeded in results:
            outcomes[seed] = succeeded
            progress.update(int(succeeded))
            progress.set_postfix(failed=len(outcomes) - sum(outcomes.values()))
            seeds = wanted_seeds(settings, outcomes)
            if seeds is not None:
                return seeds
    raise ValueError(
        f"the demonstration seeds {settings.first_seed} to {NUM_DEMONSTRATION_SEEDS - 1} gave only "
        f"{sum(outcomes.values())} demonstrations of the {settings.num_demos} asked for; ask for "
        "fewer."
    )


@dataclass(frozen=True)
class _Job:
    """One seed for a worker."""

    settings: CollectSettings
    out: Path
    seed: int


# A worker keeps its environment.
_worker_arms: dict[tuple[str, int, tuple[str, ...]], ManiSkillArm] = {}


def _record_seed(job: _Job) -> tuple[int, bool]:
    """(seed, whether it gave a demonstration); runs in a worker."""
    settings, out, seed = job.settings, job.out, job.seed
    key = (settings.task, settings.image_size, settings.views)
    if key not in _worker_arms:
        _worker_arms[key] = ManiSkillArm(
            settings.task, image_size=settings.image_size, views=settings.views
        )
        # ManiSkill collects garbage at each reset: 0.25 s that go through torch's and its own
        # modules, which stay.
        gc.freeze()
    arm = _worker_arms[key]
    try:
        episode = _recorded(arm, seed, settings)
    except FailedDemonstration as failure:
        stage_failure(out, seed, str(failure))
        return seed, False
    stage_episode(out, episode, FPS, settings.views)
    return seed, True


def _recorded(arm: ManiSkillArm, seed: int, settings: CollectSettings) -> Episode:
    if settings.on_policy is not None:
        return record_on_policy(arm, seed, settings.on_policy)
    demonstration = record_demonstration(arm, seed, settings.noise, settings.num_hold_steps)
    return Episode(
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


def show(path: Path, sheet: Path | None) -> None:
    """Print what is in the data set and write a sheet of its frames, beside it if not told.

    Raises ValueError for a path without data set, or where the sheet cannot be written.
    """
    source = open_episodes(path)
    print(describe(source))
    beside = path / "contact_sheet.png" if path.is_dir() else path.with_suffix(".png")
    sheet = sheet or beside
    try:
        Image.fromarray(contact_sheet(source)).save(sheet)
    except OSError as error:
        raise ValueError(f"{sheet} cannot be written ({error}); name another --sheet.") from error
    print(f"\nframes of episodes spread over the data set: {sheet}")


def main(arguments: list[str] | None = None) -> int:
    options = parse(CollectOptions, "python -m par_model.collect", __doc__, arguments)
    return run_command(
        lambda: _run(options),
        "error",
        "stopped; the same command continues from the finished episodes.",
    )


def _run(options: CollectOptions) -> None:
    if options.show is not None:
        show(options.show, options.sheet)
        return
    settings = CollectSettings(
        task=options.task,
        num_demos=options.num_demos,
        first_seed=options.first_seed,
        noise=NoiseSettings(share=options.noise_share),
        num_hold_steps=options.hold_steps,
        image_size=options.image_size,
        views=options.views,
        on_policy=None
        if options.on_policy is None
        else OnPolicySettings(options.on_policy, options.max_steps, options.disturbed_starts),
    )
    collect(settings, options.out, options.num_workers)


if __name__ == "__main__":
    sys.exit(main())
