# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations as a LeRobot data set: those of ManiSkill's motion planners, or others.

    python -m par_model.collect --task PushCube --num-demos 1000 --out datasets/push_cube
    python -m par_model.collect --task PickCube --on-policy CHECKPOINT --first-seed 6000 \\
        --num-demos 200 --out datasets/PickCube_round1
    python -m par_model.collect --task PickCube --expert --first-seed 1000 --out datasets/expert
    python -m par_model.collect --show datasets/push_cube

--on-policy: the policy acts and the task's expert labels. `action` is the expert's target,
`executed_action` the policy's; `teaches` marks the chunks whose labels are to be learnt: after a
missed grasp, with a knocked cube, near the goal. Episodes without any are left out.

The same command continues a recording that was stopped or killed, and a larger --num-demos extends
one. Equal seeds give equal data sets, whatever the number of workers, their
machines (--engine ray) and interruptions.
"""

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from tqdm import tqdm
from tyro.conf import arg

from par_model.command_line import default_is, output_folder, parse, run_command
from par_model.interface import DEFAULT_VIEWS
from par_model.simulation.demonstrations import NoiseSettings
from par_model.simulation.tasks import NUM_DEMONSTRATION_SEEDS, TASKS
from par_model.simulation.worker_pool import run_jobs
from par_model.training.dataset_inspector import contact_sheet, describe
from par_model.training.lerobot_dataset import open_episodes
from par_model.training.lerobot_writer import assemble
from par_model.training.on_policy_recording import OnPolicySettings
from par_model.training.seed_recording import (
    CollectSettings,
    RecordedSeed,
    SeedToRecord,
    record_seed,
    staging_settings,
)
from par_model.training.staged_episodes import (
    STAGING_FOLDER,
    StagedEpisodes,
    stage_failure,
    stage_files,
    start_staging,
)
from par_model.worker_options import WorkerOptions


@dataclass(frozen=True)
class CollectOptions(WorkerOptions):
    """The command line."""

    # the task; needed to record
    task: Annotated[str | None, arg(metavar="|".join(TASKS))] = None
    # successful demonstrations; with --on-policy: episodes with labels that teach
    num_demos: int = 1000
    # folder of the data set; needed to record
    out: Annotated[Path | None, output_folder()] = None
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
    # the task's expert acts and labels: no path is planned, and one picture a chunk of 8 steps is
    # drawn, so an episode takes a quarter of the time
    expert: bool = False
    # with --on-policy: length of an episode at most [control steps]
    max_steps: int = 200
    # with --on-policy: part of the seeds whose episode starts somewhere on the way [0 to 1]
    disturbed_starts: float = 0.0
    # look at a data set instead, or at one of someone else by its mapping file
    show: Annotated[Path | None, arg(metavar="DIR")] = None
    # with --show: where its frames go
    sheet: Annotated[Path | None, arg(metavar="PNG"), default_is("beside it")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.show is None and (self.task is None or self.out is None):
            raise ValueError("--task and --out are needed to record (or --show DIR to look).")


def collect(settings: CollectSettings, out: Path, workers: WorkerOptions) -> None:
    """Record what is missing under `out`, then write the data set. Blocks until done."""
    settings.validate()
    out.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        start_staging(out, staging_settings(settings))
        seeds = _record(settings, out, workers)
        assemble(out, seeds)


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


def _record(settings: CollectSettings, out: Path, workers: WorkerOptions) -> list[int]:
    outcomes = _known_outcomes(out)
    seeds = wanted_seeds(settings, outcomes)
    if seeds is not None:
        return seeds
    jobs = (
        SeedToRecord(settings, seed)
        for seed in range(settings.first_seed, NUM_DEMONSTRATION_SEEDS)
        if seed not in outcomes
    )
    num_successes = min(sum(outcomes.values()), settings.num_demos)
    with (
        contextlib.closing(run_jobs(record_seed, jobs, workers)) as results,
        tqdm(
            total=settings.num_demos, initial=num_successes, desc=settings.task, unit="demo"
        ) as progress,
    ):
        for recorded in results:
            outcomes[recorded.seed] = _stage(out, recorded)
            progress.update(int(outcomes[recorded.seed]))
            progress.set_postfix(failed=len(outcomes) - sum(outcomes.values()))
            seeds = wanted_seeds(settings, outcomes)
            if seeds is not None:
                return seeds
    raise ValueError(
        f"the demonstration seeds {settings.first_seed} to {NUM_DEMONSTRATION_SEEDS - 1} gave only "
        f"{sum(outcomes.values())} demonstrations of the {settings.num_demos} asked for; ask for "
        "fewer."
    )


def _stage(out: Path, recorded: RecordedSeed) -> bool:
    """Whether the seed gave a demonstration."""
    if recorded.files is None:
        stage_failure(out, recorded.seed, recorded.failure)
        return False
    stage_files(out, recorded.seed, recorded.files)
    return True


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
        expert=options.expert,
    )
    collect(settings, options.out, options)


if __name__ == "__main__":
    sys.exit(main())
