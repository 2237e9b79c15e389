# SPDX-License-Identifier: Apache-2.0
"""LeRobot data sets that someone else recorded, read through a small mapping file (YAML).

The file names the data set, its camera, and for each joint of ours the number of theirs that it is,
with its unit. What is read looks like our own recordings: joint targets in rad and m at 20 Hz,
square pictures, gripper last. Layouts v3.0, v2.1 and v2.0, videos only.
config/datasets/example.yaml is the example; every key is explained there.

Rates: frame k is the last of theirs at or before k / 20 s. Numbers are interpolated: the joints at
k / 20 s, and the targets where they are due, which is one step of their rate after they were sent,
as our target k is due at (k + 1) / 20 s. Times are the data set's own timestamps, which may jitter
and skip a step; without timestamps the rate is even.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from par_model.camera_fit import CameraFit
from par_model.interface import DEFAULT_VIEWS, FloatArray, ImageArray
from par_model.training.dataset_info import DatasetInfo, read_episode_rows, read_info, read_tasks
from par_model.training.packages import compute, pa, pq
from par_model.training.staged_episodes import Episode, chosen_views, stack_videos
from par_model.video_file import read_video

FPS = 20
# Stamps this close to an even rate are what LeRobot rounds to float32.
_ROUNDING_S = 1e-3
# Of the rate that info.json states, the stamps' mean rate may differ by this share.
_MAX_RATE_ERROR = 0.1
# Two stamps may lie this far apart, in our steps: what is between them is interpolated.
_MAX_GAP_STEPS = 2.0
_FACTORS = {"rad": 1.0, "deg": np.pi / 180.0, "m": 1.0, "mm": 0.001}
_MEANINGS = ("absolute", "delta")
EXAMPLE = "config/datasets/example.yaml"
_NEEDED = {"dataset", "arm", "camera", "image_size", "action", "joints"}
_OPTIONAL = {"state_key", "action_key", "instructions", "instruction"}
_JOINT_NEEDED = {"name", "state"}
_JOINT_OPTIONAL = {"action", "unit", "range", "becomes", "sign", "offset"}


@dataclass(frozen=True)
class JointMapping:
    """One of our joints: value = sign * scale * theirs + offset, in rad or m.

    Attributes:
        name: ours.
        state, action: names of theirs in the two features.
        scale, offset: to SI, the sign included.
    """

    name: str
    state: str
    action: str
    scale: float
    offset: float


@dataclass(frozen=True)
class DatasetMapping:
    """A mapping file, checked on its own; the data set is checked when it is opened.

    Attributes:
        dataset: the data set's folder.
        arm: the arm that the joints belong to.
        cameras: the video feature that gives each view's pictures.
        image_size: height and width of the pictures that are wanted.
        action_meaning: "absolute" targets, or "delta" to the measured joints of the same step.
        state_key, action_key: features with the measured joints and the actions.
        instructions: their sentence -> ours; others stay as they are.
        instruction: the sentence of all episodes; None where theirs are used.
        joints: in our order, gripper last.
        sha256: of the file.
    """

    dataset: Path
    arm: str
    cameras: dict[str, str]
    image_size: int
    action_meaning: str
    state_key: str
    action_key: str
    instructions: dict[str, str]
    instruction: str | None
    joints: tuple[JointMapping, ...]
    sha256: str


def read_mapping(path: Path) -> DatasetMapping:
    """Read a mapping file; a relative `dataset` is relative to the file.

    Raises:
        ValueError: it is no YAML mapping, or a key is missing, unknown, or has a wrong value.
    """
    try:
        text = path.read_bytes()
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"mapping file {path} cannot be read ({reason}).") from error
    where = f"mapping file {path}"
    require_keys(where, values, _NEEDED, _OPTIONAL, EXAMPLE)
    if values["action"] not in _MEANINGS:
        raise ValueError(
            f"{where}: action must be one of {', '.join(_MEANINGS)}, got {values['action']!r}; "
            "targets of the hand's pose are not supported."
        )
    if not isinstance(values["joints"], list) or not values["joints"]:
        raise ValueError(f"{where}: joints must be a list, one entry for each joint of the arm.")
    size = values["image_size"]
    if not isinstance(size, int) or size < 16:
        raise ValueError(f"{where}: image_size must be a whole number of pixels, got {size!r}.")
    joints = tuple(read_joint(where, entry, EXAMPLE) for entry in values["joints"])
    names = [joint.name for joint in joints]
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: each joint may appear once, got {names}.")
    return DatasetMapping(
        dataset=(path.parent / Path(values["dataset"]).expanduser()).resolve(),
        arm=str(values["arm"]),
        cameras=_cameras(where, values["camera"]),
        image_size=size,
        action_meaning=values["action"],
        state_key=str(values.get("state_key", "observation.state")),
        action_key=str(values.get("action_key", "action")),
        instructions=dict(values.get("instructions") or {}),
        instruction=values.get("instruction"),
        joints=joints,
        sha256=hashlib.sha256(text).hexdigest(),
    )


def require_keys(
    where: str, values: object, needed: set[str], optional: set[str], example: str
) -> None:
    """Raises ValueError where `values` is no mapping of these keys; `example` shows one."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold keys and values, got {type(values).__name__}.")
    missing, unknown = sorted(needed - set(values)), sorted(set(values) - needed - optional)
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}; see {example}.")


def _cameras(where: str, value: object) -> dict[str, str]:
    """Feature by view."""
    if isinstance(value, dict) and value:
        return {str(view): str(feature) for view, feature in value.items()}
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: camera must be the name of a video feature, or a mapping of the policy's "
            f"views to such names, got {value!r}."
        )
    return {DEFAULT_VIEWS[0]: value}


def read_joint(where: str, entry: object, example: str) -> JointMapping:
    """One entry of a mapping's joints. Raises ValueError, as require_keys, for a wrong one."""
    require_keys(f"{where}, joints", entry, _JOINT_NEEDED, _JOINT_OPTIONAL, example)
    assert isinstance(entry, dict)
    place = f"{where}, joint {entry['name']}"
    if ("unit" in entry) == ("range" in entry):
        raise ValueError(
            f"{place}: give either unit ({', '.join(_FACTORS)}) or range with becomes, for example "
            "range: [0, 100] and becomes: [-0.01, 0.04] of a gripper in metres."
        )
    sign, offset = float(entry.get("sign", 1)), float(entry.get("offset", 0.0))
    if sign not in (1.0, -1.0):
        raise ValueError(f"{place}: sign must be 1 or -1, got {entry['sign']!r}.")
    if "unit" in entry:
        if entry["unit"] not in _FACTORS:
            raise ValueError(
                f"{place}: unit must be one of {', '.join(_FACTORS)}, got {entry['unit']!r}."
            )
        scale = sign * _FACTORS[entry["unit"]]
    else:
        scale, shift = _line(place, entry)
        scale, offset = sign * scale, sign * shift + offset
    state = str(entry["state"])
    return JointMapping(str(entry["name"]), state, str(entry.get("action", state)), scale, offset)


def _line(place: str, entry: dict[str, Any]) -> tuple[float, float]:
    """(scale, offset) of the line through range[0] -> becomes[0] and range[1] -> becomes[1]."""
    try:
        low, high = map(float, entry["range"])
        to_low, to_high = map(float, entry["becomes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place}: range and becomes must each hold two numbers ({error})."
        ) from error
    if low == high:
        raise ValueError(f"{place}: the two ends of range must differ, got {low} twice.")
    scale = (to_high - to_low) / (high - low)
    return scale, to_low - scale * low


@dataclass(frozen=True)
class _EpisodeFiles:
    """Where an episode lies."""

    index: int
    tasks: tuple[str, ...]
    length: int
    data: Path
    videos: dict[str, "_Video"]


@dataclass(frozen=True)
class _Video:
    """Where an episode begins in a file."""

    file: Path
    start_s: float


class ForeignDataset:
    """A mapped data set as an EpisodeSource; opening reads its descriptions, no steps, no video.

    Raises ValueError, one sentence, for what the mapping names and the data set lacks, and for
    layouts that are not supported.
    """

    def __init__(self, mapping_file: Path) -> None:
        mapping = read_mapping(mapping_file)
        self.mapping = mapping
        self.path = mapping.dataset
        self.name = f"{mapping_file.stem}_{mapping.sha256[:8]}"
        self.arm = mapping.arm
        self.fps = FPS
        self.joint_names = tuple(joint.name for joint in mapping.joints)
        self._info = read_info(
            self.path,
            ("v3", "v2.1", "v2.0"),
            if_missing="check `dataset` in the mapping file",
            if_other_layout="v3.0, v2.1 and v2.0 are read; convert it with lerobot's own scripts",
        )
        self._fps = float(self._info.fps)
        self.views = tuple(mapping.cameras)
        for camera in mapping.cameras.values():
            self._require_camera(camera)
        self._state_columns = self._columns(mapping.state_key, [j.state for j in mapping.joints])
        self._action_columns = self._columns(mapping.action_key, [j.action for j in mapping.joints])
        self._tasks = read_tasks(self._info)
        self._episodes = _episode_files(self._info, mapping.cameras)
        self._scale = np.array([joint.scale for joint in mapping.joints])
        self._offset = np.array([joint.offset for joint in mapping.joints])

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def instructions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._instruction(text) for text in self._tasks.values()))

    def read(
        self, index: int, *, with_frames: bool = True, views: tuple[str, ...] | None = None
    ) -> Episode:
        """Episode `index` at 20 Hz, with the frames of these views (None: of all); decoding a video
        takes as long as it is large."""
        files = self._episodes[index]
        table = _episode_table(self.path, files)
        sent_s = self._times(files, table)
        state, targets = self._state_and_targets(files, table)
        num_steps = int((sent_s[-1] + 1 / self._fps) * FPS + 1e-6)
        if num_steps < 1:
            raise ValueError(f"data set {self.path}: episode {files.index} is shorter than a step.")
        ours_s = np.arange(num_steps) / FPS
        measured = _interpolated(ours_s, sent_s, state)
        actions_TJ = _interpolated(ours_s + 1 / FPS, sent_s + 1 / self._fps, targets)
        frames = None
        if with_frames:
            chosen = chosen_views(self.path, self.views, views)
            frames = stack_videos(
                [self._frames(files.videos[view], sent_s, ours_s) for view in chosen]
            )
        task = self._tasks.get(int(table.column("task_index")[0].as_py()), files.tasks[0])
        return Episode(
            instruction=self._instruction(task),
            frames=frames,
            measured_joint_positions=measured,
            actions=actions_TJ,
            executed_actions=actions_TJ,
            environment_state=np.zeros((num_steps, 0), np.float32),
            success=np.zeros(num_steps, np.bool_),
            seed=None,
            noisy=False,
        )

    def state_and_targets(self, index: int) -> tuple[FloatArray, FloatArray]:
        """Measured joints and targets of episode `index`, [theirs, J], at their own rate."""
        files = self._episodes[index]
        return self._state_and_targets(files, _episode_table(self.path, files))

    def _state_and_targets(
        self, files: _EpisodeFiles, table: pa.Table
    ) -> tuple[FloatArray, FloatArray]:
        state = self._si(_numbers(table, self.mapping.state_key), self._state_columns)
        actions = _numbers(table, self.mapping.action_key)
        if self.mapping.action_meaning == "delta":
            targets = state + actions[:, self._action_columns] * self._scale
        else:
            targets = self._si(actions, self._action_columns)
        if not (np.isfinite(state).all() and np.isfinite(targets).all()):
            raise ValueError(
                f"data set {self.path}: joints or actions of episode {files.index} hold NaN or Inf."
            )
        return state, targets

    def _instruction(self, theirs: str) -> str:
        return self.mapping.instruction or self.mapping.instructions.get(theirs, theirs)

    def _si(self, values: FloatArray, columns: list[int]) -> FloatArray:
        return values[:, columns] * self._scale + self._offset

    def _frames(self, video: _Video, sent_s: FloatArray, ours_s: FloatArray) -> ImageArray:
        if not video.file.is_file():
            raise ValueError(
                f"data set {self.path}: {video.file.relative_to(self.path)} is missing; check "
                "that the data set was copied whole."
            )
        rule, size = CameraFit(), self.mapping.image_size
        pictures = read_video(
            video.file,
            round(video.start_s * self._fps),
            len(sent_s),
            self._fps,
            lambda picture: rule.fit(picture, size, size),
        )
        shown = np.searchsorted(sent_s, ours_s + 1e-6 / self._fps, side="right") - 1
        return pictures[shown]

    def _require_camera(self, camera: str) -> None:
        feature = self._info.features.get(camera)
        if feature is None or feature["dtype"] != "video":
            videos = self._info.video_keys()
            stored = "" if feature is None else f" (it is stored as {feature['dtype']!r})"
            raise ValueError(
                f"data set {self.path} has no video {camera!r}{stored}; its videos "
                f"are {videos or 'none'}. Correct `camera` in the mapping file."
            )

    def _columns(self, key: str, names: Sequence[str]) -> list[int]:
        """Places of `names` in feature `key`."""
        feature = self._info.features.get(key)
        if feature is None:
            raise ValueError(
                f"data set {self.path} has no feature {key!r}; it has "
                f"{sorted(self._info.features)}. Correct state_key or action_key in the mapping "
                "file."
            )
        known = self._info.names(key)
        if known is None:
            raise ValueError(
                f"data set {self.path} does not name the numbers of {key!r}; add `names` to that "
                "feature in its meta/info.json."
            )
        if missing := [name for name in names if name not in known]:
            raise ValueError(
                f"data set {self.path}: {key!r} has no {missing}; its names are {list(known)}. "
                "Correct the joints in the mapping file."
            )
        return [known.index(name) for name in names]

    def _times(self, files: _EpisodeFiles, table: pa.Table) -> FloatArray:
        """When each of their steps was, s from the first: as stamped, even where they are even."""
        even_s = np.arange(table.num_rows) / self._fps
        if "timestamp" not in table.column_names:
            return even_s
        stamped = np.asarray(table.column("timestamp").to_numpy(), dtype=np.float64)
        times_s = stamped - stamped[0]
        if np.abs(times_s - even_s).max() <= _ROUNDING_S:
            return even_s
        if problem := self._why_not_resampled(times_s):
            raise ValueError(
                f"data set {self.path}: the timestamps of episode {files.index} {problem}; leave "
                f"the episode out (--leave-out {files.index}), or correct them."
            )
        return times_s

    def _why_not_resampled(self, times_s: FloatArray) -> str:
        if not np.isfinite(times_s).all() or (np.diff(times_s) <= 0.0).any():
            return "do not increase"
        gaps_s = np.diff(times_s)
        limit_s = max(_MAX_GAP_STEPS / FPS, 2.0 / self._fps)
        if gaps_s.max() > limit_s + _ROUNDING_S:
            at = int(gaps_s.argmax())
            return (
                f"leave a gap of {gaps_s[at]:.3f} s after step {at}, at most {limit_s:.3f} s can "
                "be interpolated"
            )
        rate_hz = 1.0 / gaps_s.mean()
        if abs(rate_hz / self._fps - 1.0) > _MAX_RATE_ERROR:
            return f"have a mean rate of {rate_hz:.1f} Hz and meta/info.json says {self._fps:g} Hz"
        return ""


def _interpolated(
    at_s: FloatArray, known_s: FloatArray, values_TJ: FloatArray
) -> npt.NDArray[np.float32]:
    columns = [np.interp(at_s, known_s, column) for column in values_TJ.T]
    return np.stack(columns, axis=1).astype(np.float32)


def _numbers(table: pa.Table, key: str) -> FloatArray:
    column = table.column(key).combine_chunks()
    return np.array(column.to_pylist(), dtype=np.float64).reshape(len(column), -1)


def _episode_files(info: DatasetInfo, cameras: dict[str, str]) -> list[_EpisodeFiles]:
    data, video = (_data_v3, _video_v3) if info.is_v3 else (_data_v2, _video_v2)
    try:
        return [
            _EpisodeFiles(
                row["episode_index"],
                tuple(row["tasks"]),
                row["length"],
                data(info, row),
                {view: video(info, row, camera) for view, camera in cameras.items()},
            )
            for row in read_episode_rows(info)
        ]
    except KeyError as error:
        raise ValueError(
            f"data set {info.path}: its episodes in meta/ have no {error}; check that it was "
            "copied whole."
        ) from error


def _data_v3(info: DatasetInfo, row: dict[str, Any]) -> Path:
    return info.path / info.data_file(row)


def _video_v3(info: DatasetInfo, row: dict[str, Any], camera: str) -> _Video:
    file = info.path / info.video_file(row, camera)
    return _Video(file, row[f"videos/{camera}/from_timestamp"])


def _data_v2(info: DatasetInfo, row: dict[str, Any]) -> Path:
    return info.path / info.data_path.format(**_place_v2(info, row))


def _video_v2(info: DatasetInfo, row: dict[str, Any], camera: str) -> _Video:
    """Each episode has files of its own."""
    place = _place_v2(info, row)
    return _Video(info.path / info.video_path.format(video_key=camera, **place), 0.0)


def _place_v2(info: DatasetInfo, row: dict[str, Any]) -> dict[str, int]:
    assert info.chunks_size is not None
    index = row["episode_index"]
    return {"episode_index": index, "episode_chunk": index // info.chunks_size}


def _episode_table(path: Path, files: _EpisodeFiles) -> pa.Table:
    if not files.data.is_file():
        raise ValueError(
            f"data set {path}: {files.data.relative_to(path)} is missing; check that the data set "
            "was copied whole."
        )
    table = _data_file(files.data)
    rows = table.filter(compute.equal(table.column("episode_index"), files.index))
    if rows.num_rows != files.length:
        raise ValueError(
            f"data set {path}: episode {files.index} has {rows.num_rows} steps in "
            f"{files.data.relative_to(path)} and {files.length} in meta/; copy it again."
        )
    return rows


@lru_cache(maxsize=2)
def _data_file(file: Path) -> pa.Table:
    return pq.read_table(file)
