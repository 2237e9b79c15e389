# SPDX-License-Identifier: Apache-2.0
"""Writes staged episodes as a data set in LeRobot's v3.0 layout (lerobot_dataset.py has it)."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from par_model.depth_view import DepthView, depth_view_of
from par_model.training.dataset_card import dataset_card
from par_model.training.lerobot_dataset import DEPTH_RANGE, Array, video_feature
from par_model.training.packages import pa, pq
from par_model.training.staged_episodes import (
    DATA_SET_ENTRIES,
    STAGING_FOLDER,
    Episode,
    StagedEpisodes,
    episode_folder,
)
from par_model.video_file import CODEC, LOSSLESS, concatenate_videos, read_keyframes

CODEBASE_VERSION = "v3.0"
_CHUNK_SIZE = 1000
_DATA_FILE_SIZE_MB = 100
_VIDEO_FILE_SIZE_MB = 200
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def assemble(path: Path, seeds: Sequence[int]) -> None:
    """Write the data set of the staged episodes `seeds` at `path`, in that order.

    Videos are joined without being encoded again. The data set is written beside and moved into
    place at the end; an interrupted call leaves the staged episodes as they were.
    """
    staged = StagedEpisodes(path)
    writing = path / STAGING_FOLDER / "writing_dataset"
    shutil.rmtree(writing, ignore_errors=True)
    episodes = [staged.read_seed(seed, with_frames=False) for seed in seeds]
    features = _features(staged.settings, staged.views, staged.depth_views)

    instructions = list(dict.fromkeys(episode.instruction for episode in episodes))
    columns = [_episode_columns(episode, staged.fps, instructions) for episode in episodes]
    stats = [_vector_stats(features, steps) for steps in columns]
    for seed, episode_stats in zip(seeds, stats, strict=True):
        for view in staged.views:
            video = episode_folder(path, seed) / f"{view}.mp4"
            episode_stats[video_feature(view)] = _image_stats(video)
    videos = {view: _write_videos(writing, path, seeds, view, staged.fps) for view in staged.views}
    _write_steps(writing, features, columns)
    _write_episodes(writing, episodes, stats, videos)
    _write_tasks(writing, instructions)
    info = _info(features, episodes, staged.fps, staged.arm, len(instructions))
    _write_json(writing / "meta/info.json", info)
    _write_json(writing / "meta/stats.json", _aggregate_stats(stats))
    recording = staged.settings | {"seeds": list(seeds), "failed_seeds": _failed(staged, seeds)}
    _write_json(writing / "meta/recording.json", recording)
    card = dataset_card(recording, [e.num_steps for e in episodes], [e.noisy for e in episodes])
    (writing / "README.md").write_text(card)
    _move_into_place(writing, path)


def _failed(staged: StagedEpisodes, seeds: Sequence[int]) -> dict[str, str]:
    return {str(seed): why for seed, why in staged.failures().items() if seed < max(seeds)}


def _move_into_place(writing: Path, path: Path) -> None:
    # `meta` goes first and comes last: without it there is no data set to read.
    for name in ("meta", "data", "videos"):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in DATA_SET_ENTRIES:
        (writing / name).replace(path / name)
    writing.rmdir()


def _features(
    settings: dict[str, Any], views: tuple[str, ...], depth_views: tuple[DepthView, ...]
) -> dict[str, Any]:
    joint_names, size = settings["joint_names"], settings["image_size"]
    environment_names = settings["environment_state_names"]

    def vector(names: list[str]) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(names)], "names": names}

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    video = {
        "dtype": "video",
        "shape": [size, size, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": size,
            "video.width": size,
            "video.codec": CODEC,
            "video.pix_fmt": LOSSLESS.pixel_format,
            "video.is_depth_map": False,
            "video.fps": settings["fps"],
            "video.channels": 3,
            "has_audio": False,
        },
    }
    corrections = settings.get("corrections", False)
    labelled = "policy" in settings or "acted_by" in settings
    on_policy = {"teaches": scalar("bool")} if labelled or corrections else {}
    if corrections:
        on_policy["policy_action"] = vector(joint_names)
    probes = {"observation.environment_state": vector(environment_names)}
    return {
        "observation.state": vector(joint_names),
        "action": vector(joint_names),
        "executed_action": vector(joint_names),
        **(probes if environment_names else {}),
        "next.success": scalar("bool"),
        "next.done": scalar("bool"),
        **on_policy,
        **{
            video_feature(view): _of_view(video, depth_view_of(depth_views, view)) for view in views
        },
        "timestamp": scalar("float32"),
        "frame_index": scalar("int64"),
        "episode_index": scalar("int64"),
        "index": scalar("int64"),
        "task_index": scalar("int64"),
    }


def _of_view(video: dict[str, Any], depth: DepthView | None) -> dict[str, Any]:
    """The feature of a view. A depth view's says how its grey levels are distances; for others they
    are pictures like all, so LeRobot's own mark of 16-bit depth stays unset."""
    if depth is None:
        return video
    return video | {"info": video["info"] | {DEPTH_RANGE: [depth.near_m, depth.far_m]}}


def _episode_columns(episode: Episode, fps: int, instructions: list[str]) -> dict[str, Array]:
    frame_index = np.arange(episode.num_steps)
    optional = {
        "teaches": episode.teaches,
        "policy_action": episode.policy_actions,
        "observation.environment_state": episode.environment_state,
    }
    present = {name: v for name, v in optional.items() if v is not None and v[:1].size}
    task_index = instructions.index(episode.instruction)
    return present | {
        "observation.state": episode.measured_joint_positions,
        "action": episode.actions,
        "executed_action": episode.executed_actions,
        "next.success": episode.success,
        "next.done": frame_index == episode.num_steps - 1,
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "task_index": np.full(episode.num_steps, task_index, np.int64),
    }


def _write_steps(
    writing: Path, features: dict[str, Any], columns: Sequence[dict[str, Array]]
) -> None:
    """All steps in one file: 100 MB hold about 3,000 episodes."""
    lengths = [len(steps["action"]) for steps in columns]
    joined = {name: np.concatenate([steps[name] for steps in columns]) for name in columns[0]}
    joined["episode_index"] = np.repeat(np.arange(len(lengths)), lengths)
    joined["index"] = np.arange(sum(lengths))
    arrays = {
        name: _arrow_array(joined[name]) for name in features if features[name]["dtype"] != "video"
    }
    _write_table(writing / _DATA_PATH.format(chunk_index=0, file_index=0), pa.table(arrays))


def _arrow_array(values: Array) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@dataclass(frozen=True)
class _VideoPlace:
    """Where an episode lies in the videos."""

    file_index: int
    from_timestamp: float
    to_timestamp: float


def _write_videos(
    writing: Path, path: Path, seeds: Sequence[int], view: str, fps: int
) -> list[_VideoPlace]:
    places: list[_VideoPlace] = []
    parts = [episode_folder(path, seed) / f"{view}.mp4" for seed in seeds]
    for file_index, group in enumerate(_groups(parts, _VIDEO_FILE_SIZE_MB * 1024**2)):
        key = video_feature(view)
        name = _VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=file_index)
        (writing / name).parent.mkdir(parents=True, exist_ok=True)
        end = 0
        for num_frames in concatenate_videos(writing / name, group, fps):
            start, end = end, end + num_frames
            places.append(_VideoPlace(file_index, start / fps, end / fps))
    return places


def _groups(parts: Sequence[Path], max_bytes: int) -> list[list[Path]]:
    groups: list[list[Path]] = [[]]
    total = 0
    for part in parts:
        size = part.stat().st_size
        if groups[-1] and total + size > max_bytes:
            groups.append([])
            total = 0
        groups[-1].append(part)
        total += size
    return groups


def _write_episodes(
    writing: Path,
    episodes: Sequence[Episode],
    stats: Sequence[dict[str, dict[str, Any]]],
    videos: dict[str, list[_VideoPlace]],
) -> None:
    rows = []
    end = 0
    for index, (episode, episode_stats) in enumerate(zip(episodes, stats, strict=True)):
        start, end = end, end + episode.num_steps
        row = {
            "episode_index": index,
            "tasks": [episode.instruction],
            "length": episode.num_steps,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": start,
            "dataset_to_index": end,
            **_video_columns(videos, index),
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "seed": episode.seed,
            "noisy": episode.noisy,
        }
        row |= {
            f"stats/{feature}/{kind}": value
            for feature, kinds in episode_stats.items()
            for kind, value in kinds.items()
        }
        rows.append(row)
    file = writing / _EPISODES_PATH.format(chunk_index=0, file_index=0)
    _write_table(file, pa.Table.from_pylist(rows))


def _video_columns(videos: dict[str, list[_VideoPlace]], index: int) -> dict[str, Any]:
    """Where episode `index` lies in each view's videos."""
    return {
        f"videos/{video_feature(view)}/{name}": value
        for view, places in videos.items()
        for name, value in ({"chunk_index": 0} | vars(places[index])).items()
    }


def _write_tasks(writing: Path, instructions: Sequence[str]) -> None:
    """As pandas writes a frame whose index is the instruction: lerobot looks tasks up so."""
    table = pa.table(
        {"task_index": np.arange(len(instructions)), "__index_level_0__": list(instructions)}
    )
    pandas_metadata = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [
            _pandas_column("task_index", "task_index", "int64", "int64"),
            _pandas_column(None, "__index_level_0__", "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = table.replace_schema_metadata({"pandas": json.dumps(pandas_metadata)})
    _write_table(writing / "meta/tasks.parquet", table)


def _pandas_column(
    name: str | None, field: str, pandas_type: str, numpy_type: str
) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": field,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }


def _info(
    features: dict[str, Any], episodes: Sequence[Episode], fps: int, arm: str, num_tasks: int
) -> dict[str, Any]:
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": arm,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.num_steps for episode in episodes),
        "total_tasks": num_tasks,
        "chunks_size": _CHUNK_SIZE,
        "data_files_size_in_mb": _DATA_FILE_SIZE_MB,
        "video_files_size_in_mb": _VIDEO_FILE_SIZE_MB,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": _DATA_PATH,
        "video_path": _VIDEO_PATH,
        "features": features,
    }


def _vector_stats(features: dict[str, Any], steps: dict[str, Array]) -> dict[str, dict[str, Any]]:
    return {
        name: _stats(values.astype(np.float64).reshape(len(values), -1))
        for name, values in steps.items()
        if features[name]["dtype"] != "bool"
    }


def _stats(values_ND: Array) -> dict[str, Any]:
    return {
        "min": values_ND.min(0).tolist(),
        "max": values_ND.max(0).tolist(),
        "mean": values_ND.mean(0).tolist(),
        "std": values_ND.std(0).tolist(),
        "count": [len(values_ND)],
    }


def _image_stats(video: Path) -> dict[str, Any]:
    """Per channel, of the key frames, in 0 to 1; lerobot stores them as [3, 1, 1]."""
    frames_THWC = read_keyframes(video)
    stats = _stats(frames_THWC.reshape(-1, 3) / 255.0)
    shaped: dict[str, Any] = {
        kind: [[[value]] for value in stats[kind]] for kind in ("min", "max", "mean", "std")
    }
    return shaped | {"count": [len(frames_THWC)]}


def _aggregate_stats(stats: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    aggregated = {}
    for name in stats[0]:
        kinds = {kind: np.array([entry[name][kind] for entry in stats]) for kind in stats[0][name]}
        counts = kinds["count"].reshape(-1, *[1] * (kinds["mean"].ndim - 1)).astype(np.float64)
        weights = counts / counts.sum()
        mean = (weights * kinds["mean"]).sum(0)
        variance = (weights * (kinds["std"] ** 2 + (kinds["mean"] - mean) ** 2)).sum(0)
        aggregated[name] = {
            "min": kinds["min"].min(0).tolist(),
            "max": kinds["max"].max(0).tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt(variance).tolist(),
            "count": [int(kinds["count"].sum())],
        }
    return aggregated


def _write_table(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, compression="snappy")


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")
