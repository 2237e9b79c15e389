# SPDX-License-Identifier: Apache-2.0
"""What meta/ of a LeRobot data set says: info.json, its tasks and its episodes.

The layouts are those of huggingface/lerobot: v3.0 (docs/source/lerobot-dataset-v3.mdx) in parquet,
v2.1 and v2.0 in JSON lines. Every fault raises ValueError with one sentence that names the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from par_model.training.packages import pa, pq

_NEEDED = ("codebase_version", "features", "fps", "data_path", "video_path")


@dataclass(frozen=True)
class DatasetInfo:
    """meta/info.json of the data set in the folder `path`.

    Attributes:
        layout: LeRobot's version, such as v3.0.
        features: by name; each has at least a dtype.
        fps: steps and frames a second, as info.json has it.
        data_path, video_path: templates of file names.
        chunks_size: episodes a chunk; layouts before v3.0 must have it.
        robot_type: the arm; "unknown" where it is not stated.
    """

    path: Path
    layout: str
    features: dict[str, Any]
    fps: int | float
    data_path: str
    video_path: str
    chunks_size: int | None
    robot_type: str

    @property
    def is_v3(self) -> bool:
        """Whether its descriptions are parquet files."""
        return self.layout.startswith("v3")

    def video_keys(self) -> list[str]:
        """Names of the features that are stored as video."""
        return sorted(name for name, kind in self.features.items() if kind["dtype"] == "video")

    def names(self, key: str) -> tuple[str, ...] | None:
        """Names of the elements of feature `key`; None if the data set gives no names.

        LeRobot writes a list, or a dict such as {"motors": [...]} or {"x": 0, "y": 1}.
        """
        names = self.features[key].get("names")
        if isinstance(names, dict):
            values = list(names.values())
            if len(values) == 1 and isinstance(values[0], list):
                names = values[0]
            elif all(isinstance(value, int) for value in values):
                names = sorted(names, key=names.get)
        return tuple(str(name) for name in names) if isinstance(names, list) else None

    def data_file(self, row: dict[str, Any]) -> str:
        """The data file, in the folder, of an episode's row of a v3.0 data set."""
        return self.data_path.format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )

    def video_file(self, row: dict[str, Any], key: str) -> str:
        """The file, in the folder, of video feature `key` of an episode's row, v3.0."""
        return self.video_path.format(
            video_key=key,
            chunk_index=row[f"videos/{key}/chunk_index"],
            file_index=row[f"videos/{key}/file_index"],
        )


def read_info(
    path: Path, layouts: Sequence[str], *, if_missing: str, if_other_layout: str
) -> DatasetInfo:
    """Read meta/info.json of the data set in `path`.

    Args:
        layouts: beginnings of the versions that are read.
        if_missing, if_other_layout: advice that ends the error sentence.
    """
    file = path / "meta" / "info.json"
    if not file.is_file():
        raise ValueError(f"data set {path}: meta/info.json is missing; {if_missing}.")
    try:
        info: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"data set {path}: meta/info.json is not JSON ({error}).") from error
    layout = str(info.get("codebase_version"))
    for key in _NEEDED if layout.startswith("v3") else (*_NEEDED, "chunks_size"):
        if info.get(key) is None:
            raise ValueError(f"data set {path}: meta/info.json has no {key!r}.")
    if not layout.startswith(tuple(layouts)):
        raise ValueError(f"data set {path} has LeRobot layout {layout}, {if_other_layout}.")
    return DatasetInfo(
        path, layout, info["features"], info["fps"], info["data_path"], info["video_path"],
        info.get("chunks_size"), str(info.get("robot_type") or "unknown"),
    )  # fmt: skip


def read_tasks(info: DatasetInfo) -> dict[int, str]:
    """Instructions by task_index."""
    if not info.is_v3:
        return {row["task_index"]: row["task"] for row in _json_lines(info, "meta/tasks.jsonl")}
    table = read_table(info.path, "meta/tasks.parquet").to_pydict()
    texts = table.get("__index_level_0__", table.get("task"))
    if texts is None or "task_index" not in table:
        raise ValueError(
            f"data set {info.path}: meta/tasks.parquet must have task_index and the task's text as "
            f"its index, got columns {sorted(table)}."
        )
    return dict(zip(table["task_index"], texts, strict=True))


def read_episode_rows(info: DatasetInfo, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row an episode, as the layout stores it, without its statistics; at least one.

    needed: columns that a v3.0 data set must have.
    """
    rows: list[dict[str, Any]] = []
    if info.is_v3:
        for file in _episode_files(info.path):
            table = read_table(info.path, file)
            for name in needed:
                if name not in table.column_names:
                    raise ValueError(f"data set {info.path}: {file} has no column {name!r}.")
            kept = [name for name in table.column_names if not name.startswith("stats/")]
            rows += table.select(kept).to_pylist()
    else:
        rows = _json_lines(info, "meta/episodes.jsonl")
    if not rows:
        raise ValueError(f"data set {info.path} has no episodes.")
    return rows


def _episode_files(path: Path) -> list[str]:
    files = sorted((path / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise ValueError(f"data set {path}: meta/episodes holds no parquet file.")
    return [str(file.relative_to(path)) for file in files]


def read_table(path: Path, name: str) -> pa.Table:
    """The parquet file `name` of the data set in `path`."""
    if not (path / name).is_file():
        raise ValueError(
            f"data set {path}: {name} is missing; check that the data set was copied whole."
        )
    try:
        return pq.read_table(path / name)
    except pa.ArrowException as error:
        raise ValueError(f"data set {path}: {name} cannot be read ({error}).") from error


def _json_lines(info: DatasetInfo, name: str) -> list[dict[str, Any]]:
    try:
        lines = (info.path / name).read_text().splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"data set {info.path}: {name} cannot be read ({error}); check that the data set was "
            "copied whole."
        ) from error
