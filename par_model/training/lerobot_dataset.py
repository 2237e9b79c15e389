# SPDX-License-Identifier: Apache-2.0
"""Reads data sets in LeRobot's v3.0 layout with pyarrow and PyAV alone; lerobot_writer.py writes.

    meta/info.json                                       features, fps, path templates
    meta/stats.json                                      min, max, mean, std, count per feature
    meta/tasks.parquet                                   instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet             where each episode lies, its seed and noise
    meta/recording.json                                  ours: how the episodes were recorded
    data/chunk-000/file-000.parquet                      one row a step
    videos/observation.images.front/chunk-000/file-000.mp4   all episodes one after another; each
                                                         view has a folder

The layout is that of huggingface/lerobot 0.4 (docs/source/lerobot-dataset-v3.mdx); lerobot itself
is not needed. Equal episodes give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from par_model.depth_view import DepthView
from par_model.json_file import read_object
from par_model.training.dataset_info import (
    DatasetInfo,
    read_episode_rows,
    read_info,
    read_table,
    read_tasks,
)
from par_model.training.packages import pa
from par_model.training.staged_episodes import (
    STAGING_FOLDER,
    Episode,
    StagedEpisodes,
    chosen_views,
    stack_videos,
)
from par_model.video_file import read_video

_IMAGES = "observation.images."
# In a video feature's info: the distances [m] of a depth view's grey levels 255 and 1.
DEPTH_RANGE = "par.depth_range_m"
# What of meta/recording.json is not a setting: it grows with the set.
SEEDS_OF_A_SET = ("seeds", "failed_seeds")
# Where an episode lies.
_EPISODE_COLUMNS = (
    "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index",
)  # fmt: skip

Array = npt.NDArray[Any]


class EpisodeSource(Protocol):
    """Episodes that can be read one at a time: a finished data set or one being recorded."""

    @property
    def arm(self) -> str: ...

    @property
    def joint_names(self) -> tuple[str, ...]: ...

    @property
    def fps(self) -> int: ...

    @property
    def instructions(self) -> tuple[str, ...]: ...

    @property
    def views(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def read(
        self, index: int, *, with_frames: bool = True, views: tuple[str, ...] | None = None
    ) -> Episode: ...


def open_episodes(path: Path) -> EpisodeSource:
    """The data set at `path`, finished or still being recorded; or the one that a mapping file
    (.yaml) describes.

    Raises ValueError, naming what is missing, for anything else.
    """
    if path.suffix in (".yaml", ".yml"):
        # That module needs what this one does not: YAML and the camera's rule.
        from par_model.training.foreign_dataset import ForeignDataset

        return ForeignDataset(path)
    if (path / "meta" / "info.json").is_file():
        return LeRobotDataset(path)
    if (path / STAGING_FOLDER).is_dir():
        return StagedEpisodes(path)
    raise ValueError(
        f"{path} holds no data set (meta/info.json is missing); check the path, or record one with "
        "`python -m par_model.collect`. What someone else recorded needs a mapping file (.yaml)."
    )


class LeRobotDataset:
    """A finished data set; opening reads all numbers and no video.

    A view is a feature that is stored as video: `front` is observation.images.front. Raises
    ValueError, one sentence, for a missing file, feature or column, and for what this reader does
    not support.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info = read_info(
            path,
            ("v3",),
            if_missing="check the path",
            if_other_layout="expected v3.0; describe it in a mapping file "
            "(config/datasets/example.yaml), or convert it",
        )
        self.fps = int(self.info.fps)
        self.arm = self.info.robot_type
        self.views = _views(self.info)
        self.depth_views = _depth_views(self.info, self.views)
        _require_features(self.info, ("observation.state", "action"))
        self.joint_names = _joint_names(self.info)
        self._tasks = read_tasks(self.info)
        self._episodes = read_episode_rows(self.info, _EPISODE_COLUMNS)
        self._steps = _StepTable(self.info, self._episodes)

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def instructions(self) -> tuple[str, ...]:
        return tuple(self._tasks[index] for index in sorted(self._tasks))

    @property
    def settings(self) -> dict[str, Any]:
        """How `python -m par_model.collect` or `./par to_dataset` recorded it; empty for a set of
        someone else."""
        file = self.path / "meta" / "recording.json"
        if not file.is_file():
            return {}
        recording = read_object(file, "record the set anew")
        return {name: recording[name] for name in recording if name not in SEEDS_OF_A_SET}

    @property
    def seeds(self) -> list[int | None]:
        return [row.get("seed") for row in self._episodes]

    def read(
        self, index: int, *, with_frames: bool = True, views: tuple[str, ...] | None = None
    ) -> Episode:
        """Episode `index`, as numpy arrays, with the frames of these views (None: of all); decodes
        its part of their videos (0.1 s each)."""
        row = self._episodes[index]
        steps = self._steps.rows(row["dataset_from_index"], row["dataset_to_index"])
        actions = steps("action")
        num_steps = len(actions)
        return Episode(
            instruction=self._tasks[int(steps("task_index")[0])],
            frames=self._frames(row, num_steps, views) if with_frames else None,
            measured_joint_positions=steps("observation.state"),
            actions=actions,
            executed_actions=steps("executed_action", default=actions),
            environment_state=steps(
                "observation.environment_state", default=np.zeros((num_steps, 0), np.float32)
            ),
            success=steps("next.success", default=np.zeros(num_steps, np.bool_)),
            seed=row.get("seed"),
            noisy=bool(row.get("noisy", False)),
            teaches=self._optional(steps, "teaches"),
            policy_actions=self._optional(steps, "policy_action"),
        )

    def _optional(self, steps: "_Steps", name: str) -> Array | None:
        return steps(name) if self._steps.column(name) is not None else None

    def _frames(
        self, row: dict[str, Any], num_steps: int, views: tuple[str, ...] | None
    ) -> npt.NDArray[np.uint8]:
        chosen = chosen_views(self.path, self.views, views)
        return stack_videos([self._video(row, video_feature(view), num_steps) for view in chosen])

    def _video(self, row: dict[str, Any], key: str, num_steps: int) -> npt.NDArray[np.uint8]:
        file = self.path / self.info.video_file(row, key)
        if not file.is_file():
            raise ValueError(f"data set {self.path}: {file.relative_to(self.path)} is missing.")
        first_frame = round(row[f"videos/{key}/from_timestamp"] * self.fps)
        return read_video(file, first_frame, num_steps, self.fps)


class _StepTable:
    """The rows of all data files, by their place in the whole data set."""

    def __init__(self, info: DatasetInfo, episodes: Sequence[dict[str, Any]]) -> None:
        path = info.path
        names = {info.data_file(row) for row in episodes}
        self._table = pa.concat_tables([read_table(path, name) for name in sorted(names)])
        for name in ("observation.state", "action", "task_index"):
            if name not in self._table.column_names:
                raise ValueError(
                    f"data set {path}: the data files have no column {name!r}; they have "
                    f"{self._table.column_names}."
                )
        self._columns: dict[str, Array] = {}
        num_rows = episodes[-1]["dataset_to_index"]
        if self._table.num_rows != num_rows:
            raise ValueError(
                f"data set {path}: the data files hold {self._table.num_rows} rows, "
                f"meta/episodes says {num_rows}; check that it was copied whole."
            )

    def rows(self, start: int, end: int) -> "_Steps":
        return _Steps(self, start, end)

    def column(self, name: str) -> Array | None:
        if name not in self._table.column_names:
            return None
        if name not in self._columns:
            self._columns[name] = _numpy_column(self._table.column(name).combine_chunks())
        return self._columns[name]


@dataclass(frozen=True)
class _Steps:
    """The rows of one episode."""

    table: _StepTable
    start: int
    end: int

    def __call__(self, name: str, default: Array | None = None) -> Array:
        column = self.table.column(name)
        if column is None:
            assert default is not None, name
            return default
        return column[self.start : self.end].copy()


def _numpy_column(column: pa.Array) -> Array:
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), -1).astype(np.float32)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _require_features(info: DatasetInfo, names: Sequence[str]) -> None:
    for name in names:
        if name not in info.features:
            raise ValueError(
                f"data set {info.path} has no feature {name!r}; it has {sorted(info.features)}."
            )


def video_feature(view: str) -> str:
    """The feature that holds a view's video."""
    return f"{_IMAGES}{view}"


def _views(info: DatasetInfo) -> tuple[str, ...]:
    """In the order of the features."""
    keys = set(info.video_keys())
    views = tuple(key.removeprefix(_IMAGES) for key in info.features if key in keys)
    if not views or any(video_feature(view) not in keys for view in views):
        raise ValueError(
            f"data set {info.path}: expected cameras stored as video under {_IMAGES}NAME, got "
            f"{sorted(keys) or 'none'}; describe it in a mapping file "
            "(config/datasets/example.yaml)."
        )
    return views


def _depth_views(info: DatasetInfo, views: tuple[str, ...]) -> tuple[DepthView, ...]:
    """Those that state the distances of their grey levels."""
    abouts = {view: info.features[video_feature(view)].get("info") or {} for view in views}
    found = {view: about[DEPTH_RANGE] for view, about in abouts.items() if DEPTH_RANGE in about}
    for view, limits_m in found.items():
        is_range = isinstance(limits_m, list) and len(limits_m) == 2
        if not is_range or not all(isinstance(limit_m, int | float) for limit_m in limits_m):
            raise ValueError(
                f"data set {info.path}: {DEPTH_RANGE} of {video_feature(view)} must be two "
                f"distances in m, got {limits_m!r}; copy meta/info.json again."
            )
    return tuple(DepthView(view, *limits_m) for view, limits_m in found.items())


def _joint_names(info: DatasetInfo) -> tuple[str, ...]:
    state_names, action_names = info.names("observation.state"), info.names("action")
    if state_names is None or action_names is None or state_names != action_names:
        raise ValueError(
            f"data set {info.path}: observation.state and action must name the same joints, got "
            f"{state_names} and {action_names}; a data set of someone else needs a mapping file "
            "(config/datasets/example.yaml)."
        )
    return state_names
