# SPDX-License-Identifier: Apache-2.0
"""Figures by command.

    python -m par_model.visualize prediction --checkpoint C --task PushCube --out docs/figures
    python -m par_model.visualize positions --evaluation paper.json --out docs/figures
    python -m par_model.visualize failures --evaluation paper.json --out docs/figures
    python -m par_model.visualize tasks --checkpoint C --out docs/figures
    python -m par_model.visualize all --checkpoint C --evaluation paper.json --out reports/figures

prediction: what the policy expects to see beside what its actions lead to (paper, Fig. 4).
positions: success by where the cube lay. failures: failed rollouts by kind, filmed again.
tasks: one successful episode of each task, side by side, as an animated WebP.
all: the first three, with a page figures.html. Results are those of `python -m par_model.evaluate`.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from par_model.evaluation.result_file import checkpoint_hash, weights_hash
from par_model.evaluation.rollouts import load_rollout_policy
from par_model.evaluation.stored_rollouts import StoredRollouts, read_rollouts
from par_model.load_policy import BACKENDS, load_policy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, TASKS, task
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


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.command = shlex.join(
        ["python", "-m", "par_model.visualize", *(arguments or sys.argv[1:])]
    )
    try:
        for shown in options.run(options):
            print(f"{shown.title}: {shown.caption}")
            print("".join(f"  {file}\n" for file in shown.files), end="", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show_predictions(options: argparse.Namespace) -> Iterator[Shown]:
    """Predicted beside executed video, one episode a task: a strip (PNG) and a film (mp4)."""
    names = list(TASKS) if options.task is None else [task(options.task).name]
    policy = load_policy(
        options.checkpoint, backend=options.backend, context_slots=options.context_slots
    )
    for name in names:
        with ManiSkillArm(name, image_size=policy.spec.image_height) as arm:
            record = record_prediction(
                arm, policy, options.seed, options.max_steps, options.policy_seed
            )
        errors = record.errors()
        outcome = "success" if record.success else "no success"
        yield Shown(
            f"Predicted and executed video, {name}",
            f"seed {record.seed}, {outcome} after {record.num_steps} steps. Mean error on the "
            f"{100 * errors['share_of_pixels_changed']:.1f}% of pixels that changed since the "
            f"observation before: {errors['predicted']:.1f} of 255; that observation repeated: "
            f"{errors['repeated']:.1f}.",
            tuple(write_prediction(record, options.out)),
        )


def show_positions(options: argparse.Namespace) -> Iterator[Shown]:
    """Success by initial positions, one PNG a task."""
    for stored, name in _tasks_of(options):
        results = stored.of_task(name)
        num_successes = sum(result.success for result in results)
        yield Shown(
            f"Success by initial position, {name}",
            f"{num_successes} of {len(results)} rollouts of {stored.path.name}; bars are thirds of "
            "the rollouts with Wilson 95% intervals.",
            (write_positions(results, options.out),),
        )


def show_failures(options: argparse.Namespace) -> Iterator[Shown]:
    """Failed rollouts sorted by kind, one PNG a task."""
    for stored, name in _tasks_of(options):
        results = stored.of_task(name)
        kinds = by_kind(results)
        if not kinds:
            print(f"{name}: none of {len(results)} rollouts fails; no sheet is drawn.", flush=True)
            continue
        filmed = []
        checkpoint = _checkpoint_of(stored, options.checkpoint)
        chosen = chosen_failures(results, options.most_per_kind)
        policy = load_rollout_policy(stored.rollout(chosen[0], checkpoint))
        with ManiSkillArm(name, image_size=policy.spec.image_height) as arm:
            for result in chosen:
                filmed.append(film(arm, policy, result, stored.settings["max_steps"]))
        counts = ", ".join(f"{kind} {len(entries)}" for kind, entries in kinds.items())
        others = sum(not entry.same_outcome for entry in filmed)
        yield Shown(
            f"Failures, {name}",
            f"{sum(map(len, kinds.values()))} of {len(results)} rollouts: {counts}."
            + (f" {others} of {len(filmed)} ended otherwise when filmed." if others else ""),
            (write_failures(results, filmed, options.out),),
        )


def show_tasks(options: argparse.Namespace) -> Iterator[Shown]:
    """One successful episode of each task, side by side: an animated WebP."""
    names = list(TASKS) if options.task is None else [options.task]
    policy = load_policy(
        options.checkpoint, backend=options.backend, context_slots=options.context_slots
    )
    seeds = range(options.seed, options.seed + options.most_seeds)
    episodes = [
        film_success(
            name, policy, seeds, max_steps=options.max_steps, picture_size=options.picture_size
        )
        for name in names
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


def show_all(options: argparse.Namespace) -> Iterator[Shown]:
    """Predictions, positions, failures and a page figures.html."""
    figures = []
    for show in (show_predictions, show_positions, show_failures):
        for shown in show(options):
            figures.append(shown)
            yield shown
    title = f"Figures of {options.checkpoint.resolve().name}"
    page = write_page(options.out, title, options.command, figures)
    yield Shown("Page", f"{len(figures)} figures", (page,))


def _tasks_of(options: argparse.Namespace) -> Iterator[tuple[StoredRollouts, str]]:
    for path in options.evaluation:
        stored = read_rollouts(path)
        for name in TASKS:
            if stored.of_task(name) and options.task in (None, name):
                yield stored, name


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m par_model.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figures = parser.add_subparsers(
        required=True, metavar="prediction|positions|failures|tasks|all"
    )
    for name, run in (
        ("prediction", show_predictions),
        ("positions", show_positions),
        ("failures", show_failures),
        ("tasks", show_tasks),
        ("all", show_all),
    ):
        figure = figures.add_parser(name, help=run.__doc__, description=run.__doc__)
        figure.set_defaults(run=run)
        _add_options(figure, name)
    return parser


def _add_options(figure: argparse.ArgumentParser, name: str) -> None:
    figure.add_argument("--out", type=Path, required=True, metavar="DIR", help="where files go")
    figure.add_argument("--task", choices=list(TASKS), help="one task; default: all there are")
    figure.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    if name != "positions":
        figure.add_argument(
            "--checkpoint",
            type=Path,
            required=name in ("prediction", "tasks", "all"),
            help="folder of the checkpoint"
            + (" (default: the one that was measured)" if name == "failures" else ""),
        )
    if name not in ("prediction", "tasks"):
        figure.add_argument(
            "--evaluation", type=Path, nargs="+", required=True, metavar="JSON", help="results"
        )
    if name in ("prediction", "tasks", "all"):
        figure.add_argument("--seed", type=int, default=FIRST_MEASUREMENT_SEED, help="reset seed")
        figure.add_argument("--backend", choices=BACKENDS, default="auto")
        figure.add_argument("--max-steps", type=int, default=200)
        figure.add_argument(
            "--context-slots", type=int, help="observations remembered (default: checkpoint's)"
        )
    if name in ("prediction", "all"):
        figure.add_argument("--policy-seed", type=int, default=0)
    if name == "tasks":
        figure.add_argument(
            "--most-seeds", type=int, default=10, help="seeds tried for a success (default 10)"
        )
        figure.add_argument(
            "--picture-size", type=int, default=256, metavar="PX", help="height and width of a task"
        )
    if name in ("failures", "all"):
        figure.add_argument(
            "--most-per-kind", type=int, default=4, help="rollouts shown of a kind (default 4)"
        )


if __name__ == "__main__":
    sys.exit(main())
