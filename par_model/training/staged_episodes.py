# SPDX-License-Identifier: Apache-2.0
"""Episodes on disk while they are being recorded: one folder an episode, complete or absent.

    DIR/.staging/settings.json            what is being recorded; a resumed run must agree
    DIR/.staging/seed_000012/             an episode: front.mp4 (VIEW.mp4), steps.npz, episode.json
    DIR/.staging/seed_000013.failed.json  a seed that gave no demonstration, and why

A folder appears by one rename after all its files are written, so that a process killed at any
moment leaves no half episode. `lerobot_dataset.assemble` turns the folders into a data set.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from par_model.depth_view import DepthView
from par_model.interface import DEFAULT_VIEWS, split_views
from par_model.simulation.robots import PANDA
from par_model.video_file import LOSSLESS, Frames, read_video, write_video

STAGING_FOLDER = ".staging"
# What a finished data set consists of.
DATA_SET_ENTRIES = ("README.md", "videos", "data", "meta")

FloatArray32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """T steps; frame t and state t are what was seen before action t.

    Attributes:
        instruction: the sentence that names the task.
        frames: uint8 [T, V H, W, 3], the views' pictures one above the other, or None where they
            were not asked for.
        measured_joint_positions: float32 [T, J], rad and m.
        actions: float32 [T, J], the joint targets to learn.
        executed_actions: float32 [T, J], the joint targets that were really sent; equal to
            `actions` in episodes without noise.
        environment_state: float32 [T, P] positions in metres for probes; P is 0 where unknown.
        success: bool [T], the task's condition after action t.
        seed: the simulator's reset seed; None for episodes from elsewhere.
        noisy: whether executed actions were disturbed on purpose; of on-policy episodes, whether
            they start somewhere on the way.
        teaches: bool [T], of episodes with labels (on-policy, an expert's): whether a chunk begins
            at this step whose label is to be learnt; None: every step's is.
        policy_actions: float32 [T, J], of episodes with an operator's corrections: the joint
            targets that the policy wanted.
    """

    instruction: str
    frames: Frames | None
    measured_joint_positions: FloatArray32
    actions: FloatArray32
    executed_actions: FloatArray32
    environment_state: FloatArray32
    success: npt.NDArray[np.bool_]
    seed: int | None
    noisy: bool
    teaches: npt.NDArray[np.bool_] | None = None
    policy_actions: FloatArray32 | None = None

    @property
    def num_steps(self) -> int:
        return len(self.actions)


class StagedEpisodes:
    """The finished episodes of a recording, in the order of their seeds.

    What is there when the object is made; episodes that finish later are seen by a new object.
    Raises ValueError for a folder that holds no recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staging = path / STAGING_FOLDER
        settings_file = self._staging / "settings.json"
        if not settings_file.is_file():
            raise ValueError(
                f"{path} holds no recording ({settings_file.relative_to(path)} is missing); "
                "make one with `python -m par_model.collect`."
            )
        self.settings: dict[str, Any] = json.loads(settings_file.read_text())
        self.joint_names: tuple[str, ...] = tuple(self.settings["joint_names"])
        self.fps: int = self.settings["fps"]
        self.views = recorded_views(self.settings)
        self.depth_views = recorded_depth_views(self.settings)
        # Recordings of the Panda do not name it.
        self.arm: str = self.settings.get("arm", PANDA.name)
        self.seeds = sorted(int(folder.name[5:]) for folder in self._staging.glob("seed_??????"))

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def instructions(self) -> tuple[str, ...]:
        return (self.settings["instruction"],)

    def read(
        self, index: int, *, with_frames: bool = True, views: tuple[str, ...] | None = None
    ) -> Episode:
        """Episode `index` of this object's list, with the frames of these views (None: of all)."""
        return self.read_seed(self.seeds[index], with_frames=with_frames, views=views)

    def read_seed(
        self, seed: int, *, with_frames: bool = True, views: tuple[str, ...] | None = None
    ) -> Episode:
        folder = episode_folder(self.path, seed)
        about = json.loads((folder / "episode.json").read_text())
        with np.load(folder / "steps.npz", allow_pickle=False) as steps:
            arrays = {name: steps[name] for name in steps.files}
        num_steps = len(arrays["actions"])
        frames = None
        if with_frames:
            frames = stack_videos(
                [
                    read_video(folder / f"{view}.mp4", 0, num_steps, self.fps)
                    for view in chosen_views(self.path, self.views, views)
                ]
            )
        return Episode(
            instruction=about.get("instruction", self.settings["instruction"]),
            frames=frames,
            seed=about["seed"],
            noisy=about["noisy"],
            **arrays,
        )

    def failures(self) -> dict[int, str]:
        """seed -> why it gave no demonstration."""
        files = sorted(self._staging.glob("seed_??????.failed.json"))
        entries = (json.loads(file.read_text()) for file in files)
        return {entry["seed"]: entry["reason"] for entry in entries}


def recorded_views(settings: dict[str, Any]) -> tuple[str, ...]:
    """Names of a recording's views, in the order in which its frames are stacked."""
    first = settings.get("camera", DEFAULT_VIEWS[0])
    return (first, *(view["name"] for view in settings.get("further_cameras", ())))


def recorded_depth_views(settings: dict[str, Any]) -> tuple[DepthView, ...]:
    """Those of them that are depth."""
    first = {
        "name": settings.get("camera", DEFAULT_VIEWS[0]),
        "depth_range_m": settings.get("camera_depth_range_m"),
    }
    return tuple(
        DepthView(view["name"], *view["depth_range_m"])
        for view in (first, *settings.get("further_cameras", ()))
        if view.get("depth_range_m") is not None
    )


def chosen_views(
    path: Path, recorded: tuple[str, ...], wanted: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The recorded views that are wanted; all where None. The only view of a data set is also that
    of a policy with one view, whatever their names.

    Raises ValueError naming the views that the data set lacks.
    """
    if wanted is None or len(recorded) == len(wanted) == 1:
        return recorded
    if missing := [view for view in wanted if view not in recorded]:
        raise ValueError(
            f"data set {path} has no view {', '.join(map(repr, missing))}; its views are "
            f"{', '.join(map(repr, recorded)) or 'none'}. Record with `collect --views "
            f"{' '.join(wanted)}`, or name the cameras in a mapping file."
        )
    return wanted


def stack_videos(frames: Sequence[Frames]) -> Frames:
    """uint8 [T, V H, W, 3] of V videos [T, H, W, 3].

    Raises ValueError where their pictures have several sizes.
    """
    if len({video.shape[1:] for video in frames}) > 1:
        sizes = ", ".join(f"{video.shape[2]} x {video.shape[1]}" for video in frames)
        raise ValueError(f"the views of a data set must have one picture size, got {sizes}.")
    return frames[0] if len(frames) == 1 else np.concatenate(frames, axis=1)


def episode_folder(path: Path, seed: int) -> Path:
    return path / STAGING_FOLDER / f"seed_{seed:06d}"


def start_staging(path: Path, settings: dict[str, Any]) -> None:
    """Begin or resume a recording.

    Raises ValueError if `path` holds one with other settings, or files that are no recording's and
    that the data set would replace.
    """
    staging = path / STAGING_FOLDER
    settings_file = staging / "settings.json"
    if settings_file.exists():
        before = json.loads(settings_file.read_text())
        keys = settings.keys() | before.keys()
        differing = sorted(key for key in keys if settings.get(key) != before.get(key))
        if differing:
            detail = ", ".join(f"{key} {before.get(key)!r}" for key in differing)
            raise ValueError(
                f"{path} holds a recording with other settings ({detail}; asked for now: "
                f"{', '.join(repr(settings.get(key)) for key in differing)}); choose another "
                "--out or the same settings."
            )
    else:
        if found := [name for name in DATA_SET_ENTRIES if (path / name).exists()]:
            raise ValueError(
                f"{path} holds {', '.join(found)}, which this command did not record and would "
                "replace; choose a new folder."
            )
        staging.mkdir(parents=True, exist_ok=True)
        _write_atomically(settings_file, json.dumps(settings, indent=2) + "\n")
    for unfinished in staging.glob("writing_*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def stage_episode(
    path: Path, episode: Episode, fps: int, views: tuple[str, ...] = DEFAULT_VIEWS
) -> None:
    """Write one episode, whose frames are of these views; it is there whole or not at all."""
    assert episode.seed is not None
    stage_files(path, episode.seed, episode_files(episode, fps, views))


def episode_files(
    episode: Episode, fps: int, views: tuple[str, ...] = DEFAULT_VIEWS
) -> dict[str, bytes]:
    """The files of an episode's folder by name; its frames are of these views."""
    assert episode.frames is not None
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for view, frames in split_views(episode.frames, views).items():
            video = Path(folder) / f"{view}.mp4"
            write_video(video, frames, fps, LOSSLESS)
            files[video.name] = video.read_bytes()
    optional = {"teaches": episode.teaches, "policy_actions": episode.policy_actions}
    steps = io.BytesIO()
    np.savez(
        steps,
        measured_joint_positions=episode.measured_joint_positions,
        actions=episode.actions,
        executed_actions=episode.executed_actions,
        environment_state=episode.environment_state,
        success=episode.success,
        **{name: values for name, values in optional.items() if values is not None},
    )
    about = {
        "seed": episode.seed,
        "noisy": episode.noisy,
        "num_steps": episode.num_steps,
        "instruction": episode.instruction,
    }
    files["steps.npz"] = steps.getvalue()
    files["episode.json"] = f"{json.dumps(about)}\n".encode()
    return files


def stage_files(path: Path, seed: int, files: dict[str, bytes]) -> None:
    """Write what `episode_files` made; it is there whole or not at all."""
    folder = episode_folder(path, seed)
    writing = Path(tempfile.mkdtemp(dir=folder.parent, prefix="writing_"))
    for name, content in files.items():
        (writing / name).write_bytes(content)
    # mkdtemp makes folders that only the owner can read.
    writing.chmod(0o755)
    writing.rename(folder)


def stage_failure(path: Path, seed: int, reason: str) -> None:
    """Remember that this seed gives no demonstration."""
    file = path / STAGING_FOLDER / f"seed_{seed:06d}.failed.json"
    _write_atomically(file, json.dumps({"seed": seed, "reason": reason}) + "\n")


def _write_atomically(file: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix="writing_")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    os.chmod(name, 0o644)
    os.replace(name, file)
