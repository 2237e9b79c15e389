# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros to_dataset RECORDING... --out DIR`: recordings as a LeRobot v3.0 data set.

A RECORDING is a file of record:=true, or, with --mapping, a rosbag2 (its folder, or its MCAP or
sqlite3 file) of ordinary topics. Episodes are cut where recorder_node's services marked them;
without marks a simulator's are taken as they were, and any other recording is one episode. What
cannot be resampled is left out, and the reason is printed. docs/reference/recorded_data.md has the
rules. Exit code 0: the data set is written; 1: it is not.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from tqdm import tqdm
from tyro.conf import Positional, arg

from par_model.camera_fit import CameraFit
from par_model.command_line import default_is, output_folder, parse, run_command
from par_model.output_files import make_folder, written_to_disk
from par_model.training.lerobot_writer import assemble
from par_model.training.staged_episodes import (
    STAGING_FOLDER,
    Episode,
    stage_episode,
    start_staging,
)
from par_ros.dataset.bag_mapping import read_bag_mapping
from par_ros.dataset.bag_streams import BagStreams
from par_ros.dataset.own_streams import OwnStreams
from par_ros.dataset.recorded_files import Bag, OwnRecording, decoded
from par_ros.dataset.resampling import NANOSECONDS, Rules
from par_ros.dataset.streams import PlannedEpisode, Streams, plan_episode
from par_ros.recorded_views import RecordedViews
from par_ros.recording import RecordedMessage
from par_ros.view_reader import ViewReader

PROGRAM = "python -m par_ros to_dataset"


@dataclass(frozen=True)
class ToDatasetOptions:
    """Recordings as a LeRobot v3.0 data set."""

    # files of record:=true; with --mapping rosbag2 folders or files
    recordings: Annotated[Positional[tuple[Path, ...]], arg(metavar="RECORDING ...")]
    # folder of the data set, which must not exist
    out: Annotated[Path, output_folder()]
    # which topics of a rosbag2 are which, as config/datasets/rosbag2.yaml
    mapping: Annotated[Path | None, arg(metavar="FILE"), default_is("recordings of ours")] = None
    # height and width of the pictures; the mapping file's with --mapping
    image_size: int = 128
    # the sentence that names the task
    instruction: Annotated[str | None, default_is("as recorded")] = None
    # pictures and joint states may be missing for this long [s]
    max_gap: float = 0.2

    def __post_init__(self) -> None:
        if not self.recordings:
            raise ValueError("give at least one RECORDING.")
        if not 0.0 < self.max_gap <= 10.0:
            raise ValueError(f"--max-gap must be above 0 and at most 10 s, got {self.max_gap:g}.")
        if not 16 <= self.image_size <= 4096:
            raise ValueError(f"--image-size must be 16 to 4096, got {self.image_size}.")


@dataclass(frozen=True)
class _Source:
    """A recording that was looked through; num_actions: of a chunk."""

    reader: OwnStreams | BagStreams
    streams: Streams
    instruction: str
    num_actions: int


@dataclass(frozen=True)
class _Planned:
    """An episode that will be written as number `seed`."""

    seed: int
    source: _Source
    episode: PlannedEpisode

    @property
    def name(self) -> str:
        since_s = (
            self.episode.begin_ns - int(self.source.streams.joints.times_ns[0])
        ) / NANOSECONDS
        return f"{self.source.streams.name}, the episode {since_s:.1f} s after its beginning"


@dataclass(frozen=True)
class _Arm:
    """What all recordings of a data set have in common."""

    name: str
    joint_names: tuple[str, ...]
    rate_hz: int
    image_size: int
    views: RecordedViews

    @property
    def stacked_shape(self) -> tuple[int, int, int]:
        """Of the pictures of a step, one above the other."""
        return len(self.views.names) * self.image_size, self.image_size, 3

    @property
    def reader(self) -> ViewReader:
        """What makes pictures of the cameras' messages."""
        return ViewReader(self.views.depth, CameraFit(), self.image_size, self.image_size)


def main(words: list[str] | None = None) -> int:
    """Entry point; gives the exit code."""
    options = parse(ToDatasetOptions, PROGRAM, __doc__, words)
    return run_command(
        lambda: _convert(options), "par_ros to_dataset", "stopped; nothing was written."
    )


def _convert(options: ToDatasetOptions) -> None:
    if options.out.exists():
        raise ValueError(f"--out {options.out} exists already; nothing is overwritten.")
    arm, sources = _open(options)
    rules = Rules(arm.rate_hz, options.max_gap)
    planned = list(_planned(sources, rules))
    corrected = any(one.episode.is_labelled is not None for one in planned)
    if corrected:
        planned = list(_with_corrections(planned))
    if not planned:
        raise ValueError("no episode can be written; the reasons are above.")
    make_folder("the data set's folder", options.out)
    try:
        with written_to_disk("data set", options.out):
            start_staging(options.out, _settings(arm, planned, options, corrected=corrected))
            written = [
                seed
                for source in sources
                for seed in _stage(source, planned, arm, options, corrected)
            ]
            if not written:
                raise ValueError("no episode can be written; the reasons are above.")
            assemble(options.out, sorted(written))
            shutil.rmtree(options.out / STAGING_FOLDER)
    except BaseException:
        shutil.rmtree(options.out, ignore_errors=True)
        raise
    num_steps = sum(len(one.episode.actions) for one in planned if one.seed in written)
    print(f"{options.out}: {len(written)} episodes, {num_steps} steps at {arm.rate_hz} Hz")


def _open(options: ToDatasetOptions) -> tuple[_Arm, list[_Source]]:
    """Raises ValueError for recordings that cannot be read, or are of different arms."""
    sources, arms = [], []
    for path in options.recordings:
        arm, source = _open_bag(path, options) if options.mapping else _open_own(path, options)
        if not source.instruction:
            raise ValueError(f"{path} names no instruction; give --instruction.")
        arms.append(arm)
        sources.append(source)
        if arm.views != arms[0].views:
            raise ValueError(
                f"{path} has the views {arm.views}, {options.recordings[0]} has {arms[0].views}; "
                "write two data sets."
            )
        if arm != arms[0]:
            raise ValueError(
                f"{path} has the arm {arm.name!r} with joints {list(arm.joint_names)} at "
                f"{arm.rate_hz} Hz, {options.recordings[0]} has {arms[0].name!r} with "
                f"{list(arms[0].joint_names)} at {arms[0].rate_hz} Hz; write two data sets."
            )
        if source.streams.unmatched:
            _report(f"{source.streams.name}: {source.streams.unmatched}.")
    return arms[0], sources


def _open_own(path: Path, options: ToDatasetOptions) -> tuple[_Arm, _Source]:
    reader = OwnStreams(OwnRecording(path))
    arm = _Arm(reader.arm, reader.joint_names, reader.rate_hz, options.image_size, reader.views)
    instruction = options.instruction or reader.instruction
    return arm, _Source(reader, reader.streams(), instruction, reader.num_actions)


def _open_bag(path: Path, options: ToDatasetOptions) -> tuple[_Arm, _Source]:
    assert options.mapping is not None
    mapping = read_bag_mapping(options.mapping)
    reader = BagStreams(Bag(path), mapping)
    names = tuple(joint.name for joint in mapping.joints)
    arm = _Arm(mapping.arm, names, mapping.rate_hz, mapping.image_size, mapping.views)
    return arm, _Source(reader, reader.streams(), options.instruction or mapping.instruction, 1)


def _planned(sources: list[_Source], rules: Rules) -> Iterator[_Planned]:
    """The episodes that can be resampled, numbered; the others are reported."""
    seed = 0
    for source in sources:
        begin_ns = int(source.streams.joints.times_ns[0])
        if not source.streams.spans:
            _report(f"{source.streams.name} has no marked episode; nothing of it is used.")
        for span in source.streams.spans:
            name = f"{source.streams.name}, the episode marked "
            name += f"{(span.begin_ns - begin_ns) / NANOSECONDS:.1f} s after its beginning"
            if span.is_open:
                _report(
                    f"{name}, has no end mark; it ends at the next start or with its data, without "
                    "success."
                )
            try:
                episode = plan_episode(source.streams, span, rules)
            except ValueError as error:
                _report(f"{name}, is left out: {error}.")
                continue
            yield _Planned(seed, source, episode)
            seed += 1


def _with_corrections(planned: list[_Planned]) -> Iterator[_Planned]:
    for one in planned:
        if one.episode.teaches(one.source.num_actions).any():
            yield one
        else:
            _report(
                f"{one.name}, is left out: no operator corrected a policy in it; write "
                "demonstrations into a data set of their own."
            )


def _stage(
    source: _Source, planned: list[_Planned], arm: _Arm, options: ToDatasetOptions, corrected: bool
) -> Iterator[int]:
    """Write a recording's episodes one by one as their pictures come; gives their numbers."""
    waiting = {one.seed: one for one in planned if one.source is source}
    frames: dict[int, npt.NDArray[np.uint8]] = {}
    left = {seed: one.episode.pictures.size for seed, one in waiting.items()}
    steps = _steps_of_pictures(waiting, arm.views.names)
    for picture, message in tqdm(_pictures(source), desc=source.streams.name, disable=None):
        wanted = [(seed, step) for seed, step in steps.get(picture, []) if seed in waiting]
        if not wanted:
            continue
        try:
            shown = arm.reader.fit(
                arm.reader.read(decoded(message, Image, CompressedImage), picture.view),
                picture.view,
            )
        except ValueError as error:
            of_view = f" of view {picture.view!r}" if len(arm.views.names) > 1 else ""
            for seed in {seed for seed, _ in wanted}:
                name = waiting.pop(seed).name
                _report(f"{name}, is left out: a picture{of_view} cannot be used: {error}")
                frames.pop(seed, None)
            continue
        top = arm.views.names.index(picture.view) * arm.image_size
        for seed, step in wanted:
            shape = (len(waiting[seed].episode.pictures), *arm.stacked_shape)
            whole = frames.setdefault(seed, np.zeros(shape, np.uint8))
            whole[step, top : top + arm.image_size] = shown
            left[seed] -= 1
        for seed in {seed for seed, _ in wanted if left[seed] == 0}:
            one = waiting.pop(seed)
            episode = _episode(one, frames.pop(seed), corrected)
            stage_episode(options.out, episode, arm.rate_hz, arm.views.names)
            yield seed


@dataclass(frozen=True)
class _Picture:
    """The picture of this number among those of its view."""

    view: str
    number: int


def _steps_of_pictures(
    planned: Mapping[int, _Planned], views: tuple[str, ...]
) -> dict[_Picture, list[tuple[int, int]]]:
    """The episodes and steps that each picture is shown at."""
    found: dict[_Picture, list[tuple[int, int]]] = {}
    for seed, one in planned.items():
        for step, numbers in enumerate(one.episode.pictures.tolist()):
            for view, number in zip(views, numbers, strict=True):
                found.setdefault(_Picture(view, number), []).append((seed, step))
    return found


def _pictures(source: _Source) -> Iterator[tuple[_Picture, RecordedMessage]]:
    """Numbered as MomentFinder does."""
    views, numbers = source.reader.picture_topics, Counter[str]()
    for message in source.reader.recording.messages(set(views)):
        view = views[message.topic]
        yield _Picture(view, numbers[view]), message
        numbers[view] += 1


def _episode(one: _Planned, frames: npt.NDArray[np.uint8], corrected: bool) -> Episode:
    planned = one.episode
    success = np.zeros(len(planned.actions), np.bool_)
    success[-1] = planned.success
    wanted = planned.executed if planned.wanted is None else planned.wanted
    return Episode(
        instruction=one.source.instruction,
        frames=frames,
        measured_joint_positions=planned.measured.astype(np.float32),
        actions=planned.actions.astype(np.float32),
        executed_actions=planned.executed.astype(np.float32),
        environment_state=np.zeros((len(success), 0), np.float32),
        success=success,
        seed=one.seed,
        noisy=False,
        teaches=planned.teaches(one.source.num_actions) if corrected else None,
        policy_actions=wanted.astype(np.float32) if corrected else None,
    )


def _settings(
    arm: _Arm, planned: list[_Planned], options: ToDatasetOptions, *, corrected: bool
) -> dict[str, Any]:
    return {
        "source": "recordings",
        "recordings": [path.name for path in options.recordings],
        "corrections": corrected,
        "task": planned[0].source.instruction,
        "instruction": planned[0].source.instruction,
        "arm": arm.name,
        "joint_names": list(arm.joint_names),
        "fps": arm.rate_hz,
        **arm.views.data_set_settings(),
        "image_size": arm.image_size,
        "max_gap_s": options.max_gap,
        "environment_state_names": [],
        "versions": {"par_ros": version("par_ros")},
    }


def _report(sentence: str) -> None:
    print(sentence, file=sys.stderr)
