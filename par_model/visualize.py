# SPDX-License-Identifier: Apache-2.0
"""Figures by command.

    python -m par_model.visualize prediction --checkpoint C --task PushCube --out docs/figures
    python -m par_model.visualize positions --evaluation paper.json --out docs/figures
    python -m par_model.visualize failures --evaluation paper.json --out docs/figures
    python -m par_model.visualize tasks --checkpoint C --out docs/figures
    python -m par_model.visualize attention --checkpoint C --out docs/figures
    python -m par_model.visualize all --checkpoint C --evaluation paper.json --out reports/figures

prediction: what the policy expects to see beside what its actions lead to (paper, Fig. 4).
positions: success by where the cube lay. failures: failed rollouts by kind, filmed again. Where
several results have a task, its files are named after both: positions_TASK_RESULT.png.
tasks: one successful episode of each task, side by side, as an animated WebP.
attention: what the predicted actions look at, by token and over the picture (paper, Fig. 5).
all: the first three, with a page figures.html. Results are those of `python -m par_model.evaluate`.
"""

import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg, subcommand

from par_model.command_line import (
    default_is,
    one_of,
    output_folder,
    parse,
    require_counts,
    require_some,
)
from par_model.evaluation.direct_loop import arm_for
from par_model.evaluation.result_file import checkpoint_hash
from par_model.evaluation.rollouts import load_rollout_policy
from par_model.evaluation.stored_rollouts import StoredRollouts, read_rollouts
from par_model.interface import Policy
from par_model.load_policy import BACKENDS, load_policy
from par_model.policy import PARPolicy
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, TASKS, task, tasks_of_policy
from par_model.visualization.attention import described, record_attention, write_attention
from par_model.visualization.failures import (
    by_kind,
    chosen_failures,
    film,
    write_failures,
)
from par_model.visualization.moving_picture import film_success, write_moving_picture
from par_model.visualization.page import Shown, write_page
from par_model.visualization.positions import write_positions
from par_model.visualization.prediction import record_prediction, write_prediction
from par_model.weights_hash import weights_hash

PROGRAM = "python -m par_model.visualize"


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """What every figure takes."""

    # where files go
    out: Annotated[Path, output_folder()]
    # one task
    task: Annotated[
        str | None, one_of(TASKS), default_is("all that the policy knows or the results have")
    ] = None
    # CPU threads of torch
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class ResultOptions(FigureOptions):
    """Of a figure that shows results."""

    # results of `python -m par_model.evaluate`
    evaluation: Annotated[tuple[Path, ...], arg(metavar="JSON ...")]

    def __post_init__(self) -> None:
        require_some("--evaluation", self.evaluation)


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions(FigureOptions):
    """Of a figure that runs episodes in the simulator."""

    # folder of the checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # reset seed
    seed: int = FIRST_MEASUREMENT_SEED
    # what runs the network
    backend: Annotated[str, one_of(BACKENDS)] = "auto"
    # length of the episode at most [control steps]
    max_steps: int = 200
    # observations remembered
    context_slots: Annotated[int | None, default_is("the checkpoint's")] = None


@dataclass(frozen=True, kw_only=True)
class PredictionOptions(EpisodeOptions):
    """Predicted beside executed video, one episode a task: a strip (PNG) and a film (mp4)."""

    # seed of the policy's sampling
    policy_seed: int = 0
    # how many observations ahead; beyond 1 the policy goes on from its own pictures (eager only)
    slots: Annotated[tuple[int, ...], arg(metavar="INT ...")] = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class PositionsOptions(ResultOptions):
    """Success by initial positions, one PNG a task and result."""


@dataclass(frozen=True, kw_only=True)
class FailuresOptions(ResultOptions):
    """Failed rollouts sorted by kind, one PNG a task and result."""

    # folder of the checkpoint
    checkpoint: Annotated[Path | None, arg(metavar="DIR"), default_is("the measured one")] = None
    # rollouts shown of a kind
    most_per_kind: int = 4


@dataclass(frozen=True, kw_only=True)
class TasksOptions(EpisodeOptions):
    """One successful episode of each task, side by side: an animated WebP."""

    # seeds tried for a success
    most_seeds: int = 10
    # height and width of a task [pixels]
    picture_size: int = 256


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(EpisodeOptions):
    """What the predicted actions look at, for each layer and head, one PNG a task."""

    # seed of the policy's sampling
    policy_seed: int = 0
    # the chunk before which the map is drawn, from 0
    chunk: Annotated[int | None, default_is("the middle of the episode")] = None


@dataclass(frozen=True, kw_only=True)
class AllOptions(PredictionOptions, PositionsOptions, FailuresOptions):
    """Predictions, positions, failures and a page figures.html."""

    # folder of the checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")] = field()


Figure = (
    Annotated[PredictionOptions, subcommand("prediction")]
    | Annotated[PositionsOptions, subcommand("positions")]
    | Annotated[FailuresOptions, subcommand("failures")]
    | Annotated[TasksOptions, subcommand("tasks")]
    | Annotated[AttentionOptions, subcommand("attention")]
    | Annotated[AllOptions, subcommand("all")]
)


def main(arguments: list[str] | None = None) -> int:
    options = parse(Figure, PROGRAM, __doc__, arguments)
    torch.set_num_threads(options.threads)
    command = f"{PROGRAM} {shlex.join(arguments or sys.argv[1:])}"
    try:
        for shown in _figures(options, command):
            print(f"{shown.title}: {shown.caption}")
            print("".join(f"  {file}\n" for file in shown.files), end="", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show_predictions(options: PredictionOptions) -> Iterator[Shown]:
    """Predicted beside executed video, one episode a task: a strip (PNG) and a film (mp4)."""
    require_counts("--slots", options.slots)
    if options.backend == "auto" and max(options.slots) > 1:
        options = dataclasses.replace(options, backend="eager")
    policy = _policy(options)
    for name in _tasks_of_policy(options, policy):
        with arm_for(name, policy.spec) as arm:
            record = record_prediction(
                arm, policy, options.seed, options.max_steps, options.policy_seed, options.slots
            )
        nearest = min(record.predicted)
        errors = record.errors(nearest)
        outcome = "success" if record.success else "no success"
        yield Shown(
            f"Predicted and executed video, {name}",
            f"seed {record.seed}, {outcome} after {record.num_steps} steps. Mean error on the "
            f"{100 * errors['share_of_pixels_changed']:.1f}% of pixels that changed within the "
            f"{nearest * record.chunk_s:.1f} s: {errors['predicted']:.1f} of 255; the observation "
            f"before them repeated: {errors['repeated']:.1f}.",
            tuple(write_prediction(record, options.out)),
        )


def show_positions(options: PositionsOptions) -> Iterator[Shown]:
    """Success by initial positions, one PNG a task and result."""
    for stored, name, file_name in _tasks_of(options):
        results = stored.of_task(name)
        num_successes = sum(result.success for result in results)
        yield Shown(
            f"Success by initial position, {name}",
            f"{num_successes} of {len(results)} rollouts of {stored.path.name}; bars are thirds of "
            "the rollouts with Wilson 95% intervals.",
            (write_positions(results, options.out, file_name),),
        )


def show_failures(options: FailuresOptions) -> Iterator[Shown]:
    """Failed rollouts sorted by kind, one PNG a task and result."""
    for stored, name, file_name in _tasks_of(options):
        results = stored.of_task(name)
        kinds = by_kind(results)
        if not kinds:
            print(f"{name}: none of {len(results)} rollouts fails; no sheet is drawn.", flush=True)
            continue
        filmed = []
        checkpoint = _checkpoint_of(stored, options.checkpoint)
        chosen = chosen_failures(results, options.most_per_kind)
        policy = load_rollout_policy(stored.rollout(chosen[0], checkpoint))
        with arm_for(name, policy.spec) as arm:
            for result in chosen:
                filmed.append(film(arm, policy, result, stored.settings["max_steps"]))
        counts = ", ".join(f"{kind} {len(entries)}" for kind, entries in kinds.items())
        others = sum(not entry.same_outcome for entry in filmed)
        yield Shown(
            f"Failures, {name}",
            f"{sum(map(len, kinds.values()))} of {len(results)} rollouts of {stored.path.name}: "
            f"{counts}."
            + (f" {others} of {len(filmed)} ended otherwise when filmed." if others else ""),
            (write_failures(results, filmed, options.out, file_name),),
        )


def show_tasks(options: TasksOptions) -> Iterator[Shown]:
    """One successful episode of each task, side by side: an animated WebP."""
    policy = _policy(options)
    seeds = range(options.seed, options.seed + options.most_seeds)
    episodes = [
        film_success(
            name, policy, seeds, max_steps=options.max_steps, picture_size=options.picture_size
        )
        for name in _tasks_of_policy(options, policy)
    ]
    yield Shown(
        "One success a task",
        ". ".join(
            f"{episode.task}: seed {episode.seed}, {episode.num_steps} steps; seeds that failed "
            f"before it: {', '.join(map(str, episode.failed_seeds)) or 'none'}"
            for episode in episodes
        )
        + ".",
        (write_moving_picture(episodes, options.out / "tasks.webp"),),
    )


def show_attention(options: AttentionOptions) -> Iterator[Shown]:
    """What the predicted actions look at, for each layer and head, one PNG a task."""
    policy = _policy(options)
    for name in _tasks_of_policy(options, policy):
        with arm_for(name, policy.spec) as arm:
            record = record_attention(
                arm, policy, options.seed, options.max_steps, options.chunk,
                options.policy_seed,
            )  # fmt: skip
        yield Shown(
            f"Attention, {name}",
            described(record),
            (write_attention(record, policy.config, options.out),),
        )


def show_all(options: AllOptions, command: str) -> Iterator[Shown]:
    """Predictions, positions, failures and a page figures.html."""
    figures = []
    for show in (show_predictions, show_positions, show_failures):
        for shown in show(options):
            figures.append(shown)
            yield shown
    title = f"Figures of {options.checkpoint.resolve().name}"
    page = write_page(options.out, title, command, figures)
    yield Shown("Page", f"{len(figures)} figures", (page,))


_FIGURES: dict[type[FigureOptions], Callable[[Any], Iterator[Shown]]] = {
    PredictionOptions: show_predictions,
    PositionsOptions: show_positions,
    FailuresOptions: show_failures,
    TasksOptions: show_tasks,
    AttentionOptions: show_attention,
}


def _figures(options: FigureOptions, command: str) -> Iterator[Shown]:
    if isinstance(options, AllOptions):
        return show_all(options, command)
    return _FIGURES[type(options)](options)


def _policy(options: EpisodeOptions) -> PARPolicy:
    return load_policy(
        options.checkpoint, backend=options.backend, context_slots=options.context_slots
    )


def _tasks_of_policy(options: FigureOptions, policy: Policy) -> list[str]:
    """What is asked for, or the tasks that the policy knows."""
    return tasks_of_policy(policy.spec) if options.task is None else [task(options.task).name]


def _tasks_of(options: ResultOptions) -> list[tuple[StoredRollouts, str, str]]:
    """Each result, a task of it, and what its file is named after: the task, and the result too
    where several have the task. Raises ValueError for results of one name."""
    found = [
        (stored, name)
        for stored in map(read_rollouts, options.evaluation)
        for name in TASKS
        if stored.of_task(name) and options.task in (None, name)
    ]
    count = Counter(name for _, name in found)
    named = [
        (stored, name, name if count[name] == 1 else f"{name}_{stored.path.stem}")
        for stored, name in found
    ]
    seen: dict[str, StoredRollouts] = {}
    for stored, _, file_name in named:
        if (other := seen.setdefault(file_name, stored)) is not stored:
            raise ValueError(
                f"{other.path} and {stored.path} would be drawn into one file, *_{file_name}.png; "
                "give each result once, and two of one name with an --out of their own."
            )
    return named


def _checkpoint_of(stored: StoredRollouts, asked: Path | None) -> Path:
    """The checkpoint of a result. Raises ValueError if it is missing or has other weights."""
    checkpoint = asked or Path(stored.settings["checkpoint"])
    checkpoint_hash(checkpoint)
    expected = stored.settings.get("weights_sha256")
    if expected is not None and expected != weights_hash(checkpoint):
        raise ValueError(
            f"{stored.path} was measured on other weights than {checkpoint} has; give the "
            "checkpoint it was measured on, or measure again."
        )
    return checkpoint


if __name__ == "__main__":
    sys.exit(main())
