# SPDX-License-Identifier: Apache-2.0
"""What the policy can see: scenes with known positions, camera places, the policy's own context.

    python -m par_model.perception scenes --num-scenes 20000 --out datasets/scenes
    python -m par_model.perception show --scenes datasets/scenes/PickCube
    python -m par_model.perception cameras --episodes 50 --json cameras.json
    python -m par_model.perception readout --checkpoint C --scenes datasets/scenes/* --json r.json
    python -m par_model.perception history --checkpoint C --data datasets/PickCube --json h.json
    python -m par_model.perception imagine --checkpoint C --scenes datasets/scenes/* --json i.json

scenes: pictures of random arm poses and cubes, with the positions of what they show. Resumable.
show: what is in a folder of scenes, and a sheet of its pictures.
cameras: from which camera how much is hidden during the planners' episodes, and how well places can
be told from what is seen.
readout: which positions can be read from a policy's context, its frame tokens and its latents.
history: the chunk's error with the policy's own history, none, a disturbed and another episode's.
imagine: how good the pictures are that a policy draws of what it will see.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from tyro.conf import arg, subcommand

from par_model.checkpoint import Checkpoint, load_checkpoint
from par_model.command_line import (
    default_is,
    output_file,
    output_folder,
    parse,
    require_counts,
    require_some,
    run_command,
    some_of,
)
from par_model.drawing import Drawing
from par_model.evaluation.camera_study import HEADER, study, table_row
from par_model.evaluation.context_readout import HEADER as READOUT_HEADER
from par_model.evaluation.context_readout import judge, read_features
from par_model.evaluation.context_readout import table_row as readout_row
from par_model.evaluation.direct_loop import arm_for
from par_model.evaluation.episode_features import read_episode_features
from par_model.evaluation.history_reading import DISTURBANCE, history_errors
from par_model.evaluation.history_reading import HEADER as HISTORY_HEADER
from par_model.evaluation.history_reading import table_row as history_row
from par_model.evaluation.imagined_pictures import HEADER as PICTURE_HEADER
from par_model.evaluation.imagined_pictures import (
    PictureRow,
    drawing_policy,
    imagined_episode,
    picture_rows,
)
from par_model.evaluation.imagined_pictures import table_row as picture_row
from par_model.evaluation.picture_reader import fit_picture_reader
from par_model.evaluation.result_file import provenance, write_result
from par_model.evaluation.text_table import plain_table
from par_model.evaluation.watched_episodes import EpisodeToWatch, watch_episodes
from par_model.forward_model import read_forward_model
from par_model.policy import PARPolicy
from par_model.simulation.camera_view import SHIPPED_VIEW, VIEWS, read_view
from par_model.simulation.tasks import FIRST_SELECTION_SEED, PAPER_TASKS
from par_model.surprise import forward_hash
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.scene_rendering import SceneRendering, render_scenes
from par_model.training.scene_set import (
    SCENES_PER_SHARD,
    VISIBLE_PIXELS,
    SceneSet,
    SceneTable,
)
from par_model.weights_hash import weights_hash
from par_model.worker_options import WorkerOptions

PROGRAM = "python -m par_model.perception"
_SHEET_COLUMNS, _SHEET_ROWS = 12, 6


@dataclass(frozen=True, kw_only=True)
class ScenesOptions(WorkerOptions):
    """Render random scenes with positions. The same command continues a rendering that was stopped
    or killed, and a larger --num-scenes extends one."""

    # folder that is written; each task gets a folder of its name in it
    out: Annotated[Path, output_folder()]
    # scenes per task, rounded up to whole files
    num_scenes: int = 20000
    # tasks
    tasks: Annotated[tuple[str, ...], some_of(PAPER_TASKS)] = PAPER_TASKS
    # each scene is seen from every one of these cameras; a name, or
    # NAME=EX,EY,EZ:TX,TY,TZ:FOV:WIDTHxHEIGHT (metres in the world, rad, pixels)
    cameras: Annotated[tuple[str, ...], arg(metavar="CAMERA ...")] = (SHIPPED_VIEW.name,)
    # scenes per file
    scenes_per_shard: int = SCENES_PER_SHARD

    def __post_init__(self) -> None:
        super().__post_init__()
        require_some("--tasks", self.tasks)
        require_some("--cameras", self.cameras)


@dataclass(frozen=True, kw_only=True)
class CamerasOptions(WorkerOptions):
    """Measure how much each camera misses during the planners' episodes, and how well places can
    be told from what it sees; with pairs of the first camera and each other one."""

    # results; a table goes to the terminal
    json: Annotated[Path, output_file("JSON")]
    # cameras; a name, or NAME=EX,EY,EZ:TX,TY,TZ:FOV:WIDTHxHEIGHT
    cameras: Annotated[tuple[str, ...], arg(metavar="CAMERA ...")] = tuple(VIEWS)
    # tasks
    tasks: Annotated[tuple[str, ...], some_of(PAPER_TASKS)] = PAPER_TASKS
    # episodes per task
    episodes: int = 100
    # the first reset seed; by default the first one of model selection
    first_seed: int = FIRST_SELECTION_SEED

    def __post_init__(self) -> None:
        super().__post_init__()
        require_some("--tasks", self.tasks)
        require_some("--cameras", self.cameras)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Say what is in a folder of scenes, and draw a sheet of its pictures."""

    # folder of one task's scenes
    scenes: Annotated[Path, arg(metavar="DIR")]
    # where the pictures go
    sheet: Annotated[Path | None, arg(metavar="PNG"), default_is("scenes.png in the folder")] = None


@dataclass(frozen=True, kw_only=True)
class ReadoutOptions:
    """Fit small readers of gripper, cubes and visible goal to what a policy makes of scenes, and
    judge them on scenes and episodes that no training reads."""

    # folder of the checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # results; a table goes to the terminal
    json: Annotated[Path, output_file("JSON")]
    # folders of scenes, one per task: single observations
    scenes: Annotated[tuple[Path, ...], arg(metavar="DIR ..."), default_is("none")] = ()
    # demonstrations, one set per task: observations with their history, judged on those that no
    # training reads
    data: Annotated[tuple[Path, ...], arg(metavar="DIR ..."), default_is("none")] = ()
    # pictures per folder of scenes at most
    max_pictures: int = 5000
    # episodes per data set at most
    max_episodes: int = 500
    # steps of the reader that is a network
    mlp_steps: int = 1500
    # of the readers' random choices
    seed: int = 0
    # CPU threads of torch
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.scenes and not self.data:
            raise ValueError("--scenes or --data is needed: what is read.")


@dataclass(frozen=True, kw_only=True)
class HistoryOptions:
    """Tell whether a policy reads its history or copies it: the error of its chunk on held-out
    demonstrations with its own history, none, a disturbed one and another episode's."""

    # folder of the checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # results; a table goes to the terminal
    json: Annotated[Path, output_file("JSON")]
    # demonstrations, one set a task
    data: Annotated[tuple[Path, ...], arg(metavar="DIR ...")]
    # held-out episodes a data set at most
    max_episodes: int = 24
    # of the sampling and the disturbance
    seed: int = 0
    # CPU threads of torch
    threads: int = 1

    def __post_init__(self) -> None:
        require_some("--data", self.data)


@dataclass(frozen=True, kw_only=True)
class ImagineOptions:
    """Measure the pictures that a policy draws of its next observations, in episodes in the
    simulator: likeness to what was seen, the places that can be read from them, and their time."""

    # folder of the checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # results; a table goes to the terminal
    json: Annotated[Path, output_file("JSON")]
    # folders of scenes, one a task that is measured: to these a reader of places is fitted
    scenes: Annotated[tuple[Path, ...], arg(metavar="DIR ...")]
    # how many observations ahead
    slots: Annotated[tuple[int, ...], arg(metavar="INT ...")] = (1, 2, 4)
    # sets in which a picture's tokens are drawn, and sampling steps of each
    drawings: Annotated[
        tuple[str, ...],
        arg(metavar="SETSxSTEPS ..."),
        default_is("the forward model draws, where there is one; else the checkpoint's"),
    ] = ()
    # episodes a task
    episodes: int = 10
    # the first reset seed; by default the first one of model selection
    first_seed: int = FIRST_SELECTION_SEED
    # length of an episode at most [control steps]
    max_steps: int = 200
    # pictures per folder of scenes at most, for the reader
    max_pictures: int = 10000
    # steps of the reader's training
    reader_steps: int = 4000
    # of the reader's random choices
    seed: int = 0
    # CPU threads of torch
    threads: int = 1

    def __post_init__(self) -> None:
        require_some("--scenes", self.scenes)
        require_counts("--slots", self.slots)
        for text in self.drawings:
            Drawing.of(text)


Command = (
    Annotated[ScenesOptions, subcommand("scenes")]
    | Annotated[ShowOptions, subcommand("show")]
    | Annotated[CamerasOptions, subcommand("cameras")]
    | Annotated[ReadoutOptions, subcommand("readout")]
    | Annotated[HistoryOptions, subcommand("history")]
    | Annotated[ImagineOptions, subcommand("imagine")]
)


def main(arguments: list[str] | None = None) -> int:
    options = parse(Command, PROGRAM, __doc__, arguments)
    return run_command(
        lambda: _COMMANDS[type(options)](options),
        "par_model.perception",
        "stopped; the same command continues from the finished files.",
    )


def run_scenes(options: ScenesOptions) -> None:
    """Render what is missing, task after task."""
    views = tuple(read_view(text) for text in options.cameras)
    renderings = [
        SceneRendering(name, options.num_scenes, views, options.scenes_per_shard)
        for name in options.tasks
    ]
    for rendering in renderings:
        rendering.validate()
    for rendering in renderings:
        total = rendering.num_shards * rendering.scenes_per_shard * len(views)
        with tqdm(total=total, desc=rendering.task, unit="picture") as bar:

            def report(num_pictures: int, picture_s: float, bar: Any = bar) -> None:
                bar.set_postfix(ms_a_picture_and_worker=f"{1000 * picture_s:.1f}", refresh=False)
                bar.update(num_pictures)

            bar.update(total - _num_missing(rendering, options.out))
            render_scenes(rendering, options.out, options, report)


def _num_missing(rendering: SceneRendering, out: Path) -> int:
    """Pictures that `render_scenes` will draw."""
    return len(rendering.missing_shards(out)) * rendering.scenes_per_shard * len(rendering.views)


def run_cameras(options: CamerasOptions) -> None:
    """Watch the episodes, print the table and write the results."""
    views = tuple(read_view(text) for text in options.cameras)
    jobs = [
        EpisodeToWatch(name, seed, views)
        for name in options.tasks
        for seed in range(options.first_seed, options.first_seed + options.episodes)
    ]
    episodes = []
    with (
        contextlib.closing(watch_episodes(jobs, options)) as watched,
        tqdm(total=len(jobs), desc="cameras", unit="episode") as bar,
    ):
        for episode in watched:
            bar.update()
            if episode is not None:
                episodes.append(episode)
    if not episodes:
        raise ValueError("the planners solved none of the seeds; give more --episodes.")
    episodes.sort(key=lambda episode: (episode.task, episode.seed))
    seen = [row for index in range(len(views)) for row in study(episodes, views, index)]
    for index in range(1, len(views)):
        seen += study(episodes, views, 0, index)
    print(plain_table([HEADER, *(table_row(row) for row in seen)]))
    content = {
        "cameras": [str(view) for view in views],
        "first_seed": options.first_seed,
        "num_episodes": {name: sum(e.task == name for e in episodes) for name in options.tasks},
        "visible_pixels": VISIBLE_PIXELS,
        "rows": [asdict(row) for row in seen],
    }
    command = [*PROGRAM.split(), *sys.argv[1:]]
    write_result(options.json, content | provenance(command))


def run_readout(options: ReadoutOptions) -> None:
    """Fit and judge the readers, task by task; print the table and write the results."""
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    errors = []
    for folder in options.scenes:
        scenes = SceneSet(folder)
        views = checkpoint.config.views
        max_pictures = options.max_pictures // len(views) * len(views)
        table = scenes.read_table(max_pictures).by_scene(views, folder)
        parts = tqdm(scenes.pictures(max_pictures), desc=table.task, unit="50 pictures")
        features = read_features(checkpoint, table, parts)
        judged = table.is_held_out()
        errors += judge(features, table, judged, "scenes", options.seed, options.mlp_steps)
    for folder in options.data:
        episodes = read_episode_features(checkpoint, DemonstrationSet(folder), options.max_episodes)
        errors += judge(
            episodes.features,
            episodes.table,
            episodes.judged,
            "episodes",
            options.seed,
            options.mlp_steps,
        )
    print(plain_table([READOUT_HEADER, *(readout_row(e) for e in errors if e.where == "all")]))
    content = {
        "checkpoint": options.checkpoint.name,
        "weights_sha256": weights_hash(options.checkpoint),
        "scenes": [SceneSet(folder).settings for folder in options.scenes],
        "max_pictures": options.max_pictures,
        "data": [folder.name for folder in options.data],
        "max_episodes": options.max_episodes,
        "errors": [asdict(error) for error in errors],
    }
    command = [*PROGRAM.split(), *sys.argv[1:]]
    write_result(options.json, content | provenance(command))


def run_history(options: HistoryOptions) -> None:
    """Print the table and write the results."""
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    errors = [
        error
        for folder in options.data
        for error in history_errors(
            checkpoint, DemonstrationSet(folder), options.max_episodes, options.seed
        )
    ]
    print(plain_table([HISTORY_HEADER, *(history_row(error) for error in errors)]))
    content = {
        "checkpoint": options.checkpoint.name,
        "weights_sha256": weights_hash(options.checkpoint),
        "max_episodes": options.max_episodes,
        "disturbance": DISTURBANCE,
        "errors": [asdict(error) for error in errors],
    }
    command = ["python", "-m", "par_model.perception", *sys.argv[1:]]
    write_result(options.json, content | provenance(command))


def run_imagine(options: ImagineOptions) -> None:
    """Task by task and drawing by drawing; print the table and write the results."""
    torch.set_num_threads(options.threads)
    checkpoint, weights = load_checkpoint(options.checkpoint), weights_hash(options.checkpoint)
    policies = _drawing_policies(options, checkpoint)
    rows: list[PictureRow] = []
    picture_ms, reader_mm = {}, {}
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    for folder in options.scenes:
        scenes = SceneSet(folder)
        reader, reader_mm[scenes.task] = fit_picture_reader(
            checkpoint, scenes, options.max_pictures, options.reader_steps, options.seed
        )
        for drawing, policy in policies.items():
            with arm_for(scenes.task, policy.spec) as arm:
                episodes = [
                    imagined_episode(
                        arm, policy, reader.things, seed, max(options.slots), options.max_steps
                    )
                    for seed in tqdm(seeds, desc=f"{scenes.task} {drawing}", unit="episode")
                ]
            rows += picture_rows(checkpoint, scenes.task, drawing, episodes, options.slots, reader)
            times_ms = 1000.0 * np.concatenate([episode.picture_s for episode in episodes])
            picture_ms[f"{scenes.task} {drawing}"] = round(float(np.median(times_ms)), 1)
    print(plain_table([PICTURE_HEADER, *map(picture_row, rows)]))
    print(f"a picture takes (median, ms): {picture_ms}\nthe reader on scenes (mm): {reader_mm}")
    content = {
        "checkpoint": options.checkpoint.name,
        "weights_sha256": weights,
        "forward_sha256": None if options.drawings else forward_hash(options.checkpoint),
        "episodes": options.episodes,
        "first_seed": options.first_seed,
        "reader_error_mm": reader_mm,
        "threads": options.threads,
        "picture_ms": picture_ms,
        "rows": [asdict(row) for row in rows],
    }
    command = [*PROGRAM.split(), *sys.argv[1:]]
    write_result(options.json, content | provenance(command))


def _drawing_policies(options: ImagineOptions, checkpoint: Checkpoint) -> dict[str, PARPolicy]:
    """Those to measure, by how they draw."""
    if options.drawings:
        return {text: drawing_policy(checkpoint, Drawing.of(text)) for text in options.drawings}
    drawing = Drawing.of_config(checkpoint.config)
    stored = read_forward_model(options.checkpoint, checkpoint)
    if stored is None:
        return {str(drawing): drawing_policy(checkpoint, drawing)}
    return {"forward": drawing_policy(checkpoint, drawing, stored.model)}


def run_show(options: ShowOptions) -> None:
    """Print the counts and write the sheet."""
    scenes = SceneSet(options.scenes)
    print(describe_scenes(scenes.read_table()))
    pictures = np.concatenate(list(scenes.pictures(_SHEET_COLUMNS * _SHEET_ROWS)))
    sheet = options.sheet or options.scenes / "scenes.png"
    Image.fromarray(tiled(pictures)).save(sheet)
    print(f"first pictures: {sheet}")


def describe_scenes(table: SceneTable) -> str:
    """Counts of pictures by camera, hand and cube, and how often each thing is hidden."""
    lines = [f"{table.task}: {len(table.scenes)} pictures"]
    for what, values in (
        ("camera", table.cameras),
        ("hand", table.hands),
        ("cube", table.cube_states),
    ):
        names, counts = np.unique(values, return_counts=True)
        shares = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True))
        lines.append(f"  {what}: {shares}")
    for name, pixels in table.pixels.items():
        known = ~np.isnan(table.positions_m[name][:, 0])
        if known.any():
            hidden = 1.0 - table.is_visible(name)[known].mean()
            lines.append(
                f"  {name}: {np.median(pixels[known]):.0f} pixels in the median, hidden in "
                f"{hidden:.1%}"
            )
    return "\n".join(lines)


def tiled(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] side by side, row by row; the last row is filled with black."""
    num, height, width, _ = pictures.shape
    rows = -(-num // _SHEET_COLUMNS)
    canvas = np.zeros((rows * _SHEET_COLUMNS, height, width, 3), dtype=np.uint8)
    canvas[:num] = pictures
    grid = canvas.reshape(rows, _SHEET_COLUMNS, height, width, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, _SHEET_COLUMNS * width, 3)


_COMMANDS: dict[type, Callable[[Any], None]] = {
    ScenesOptions: run_scenes,
    ShowOptions: run_show,
    CamerasOptions: run_cameras,
    ReadoutOptions: run_readout,
    HistoryOptions: run_history,
    ImagineOptions: run_imagine,
}

if __name__ == "__main__":
    sys.exit(main())
