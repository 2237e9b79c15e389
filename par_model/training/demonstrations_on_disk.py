# SPDX-License-Identifier: Apache-2.0
"""One way to read demonstrations: a finished LeRobot data set, or a recording under way.

Shapes: T steps of an episode; J joints; H, W pixels.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from par_model.depth_view import DepthView, depth_view_of
from par_model.interface import FloatArray, ImageArray
from par_model.training.lerobot_dataset import EpisodeSource, open_episodes


@dataclass(frozen=True)
class DemonstrationSteps:
    """An episode without its pictures; float64, rad and m.

    Attributes:
        key: names the episode inside its set: the simulator's seed, or the episode's index.
        instruction: the sentence that names the task.
        actions: [T, J], the joint targets to learn.
        executed_actions: [T, J], the joint targets that were sent.
        measured_joints: [T, J], before each action.
        scene: [T, P], positions in metres before each action; P is 0 where unknown.
        digest: names what was recorded, as 8 hexadecimal digits: the measured joints of the whole
            episode and the settings of its recording.
        teaches: bool [T], of episodes with labels: whether a chunk begins at this step whose label
            is to be learnt; None: demonstrations, every step's is.
    """

    key: int
    instruction: str
    actions: FloatArray
    executed_actions: FloatArray
    measured_joints: FloatArray
    scene: FloatArray
    digest: str
    teaches: npt.NDArray[np.bool_] | None = None

    @property
    def num_steps(self) -> int:
        return len(self.actions)


class DemonstrationSet:
    """The episodes in one folder, or of one mapping file, in the order of their keys.

    leave_out: keys of episodes that are not read. Raises ValueError for a path that holds neither a
    data set nor a recording, and for keys that it does not have.
    """

    def __init__(self, path: Path, leave_out: Collection[int] = ()) -> None:
        self.path = path
        self._source = open_episodes(path)
        # A mapping's name holds what it says, so that latents made under another are not taken.
        self.name: str = getattr(self._source, "name", path.name)
        self.arm: str = self._source.arm
        self._index_by_key = {key: index for index, key in enumerate(_keys(self._source))}
        if unknown := sorted(set(leave_out) - set(self._index_by_key)):
            raise ValueError(
                f"{path} has no episode {unknown[0]} to leave out; its {len(self._index_by_key)} "
                f"episodes are {min(self._index_by_key)} to {max(self._index_by_key)}."
            )
        self.keys = sorted(set(self._index_by_key) - set(leave_out))
        self.joint_names = self._source.joint_names
        self.instructions = self._source.instructions
        self.fps = self._source.fps
        self.views = self._source.views
        # A set of someone else does not say how it was recorded.
        settings = getattr(self._source, "settings", {})
        self._settings = json.dumps(settings, sort_keys=True).encode()
        # Of a set of someone else no video is known to be depth.
        self.depth_views: tuple[DepthView, ...] = getattr(self._source, "depth_views", ())

    def __len__(self) -> int:
        return len(self.keys)

    def read_steps(self, key: int, steps_after_success: int | None = None) -> DemonstrationSteps:
        """One episode, cut `steps_after_success` steps after its first success (None: whole)."""
        episode = self._source.read(self._index_by_key[key], with_frames=False)
        end = episode.num_steps
        if steps_after_success is not None and episode.success.any():
            end = min(end, int(np.argmax(episode.success)) + 1 + steps_after_success)
        return DemonstrationSteps(
            key=key,
            instruction=episode.instruction,
            actions=np.asarray(episode.actions[:end], dtype=np.float64),
            executed_actions=np.asarray(episode.executed_actions[:end], dtype=np.float64),
            measured_joints=np.asarray(episode.measured_joint_positions[:end], dtype=np.float64),
            scene=np.asarray(episode.environment_state[:end], dtype=np.float64),
            digest=self._digest(episode.measured_joint_positions),
            teaches=None if episode.teaches is None else episode.teaches[:end],
        )

    def _digest(self, measured_joints: FloatArray) -> str:
        joints = np.ascontiguousarray(measured_joints, dtype=np.float32)
        return hashlib.sha256(self._settings + joints.tobytes()).hexdigest()[:8]

    def read_frames(self, key: int, views: tuple[str, ...]) -> ImageArray:
        """uint8 [T, V H, W, 3], of these views. Raises ValueError naming those that it lacks."""
        frames = self._source.read(self._index_by_key[key], views=views).frames
        assert frames is not None
        return frames

    def depth_of(self, views: tuple[str, ...]) -> tuple[DepthView, ...]:
        """Those of the named views that are depth, in the order of the names."""
        found = (depth_view_of(self.depth_views, view) for view in views)
        return tuple(view for view in found if view is not None)

    def action_is_state(self, num_episodes: int = 3) -> bool:
        """Whether each action of the first episodes equals the measured joints of its step."""
        compared = [self._state_and_targets(key) for key in self.keys[:num_episodes]]
        return bool(compared) and all(
            np.allclose(state, targets, rtol=0.0, atol=1e-6) for state, targets in compared
        )

    def _state_and_targets(self, key: int) -> tuple[FloatArray, FloatArray]:
        """At the set's own rate: resampled ones differ by the time in which a target is due."""
        if hasattr(self._source, "state_and_targets"):
            found: tuple[FloatArray, FloatArray] = self._source.state_and_targets(
                self._index_by_key[key]
            )
            return found
        steps = self.read_steps(key)
        return steps.measured_joints, steps.actions


def _keys(source: EpisodeSource) -> list[int]:
    """Seeds where all episodes have one of their own, else indices."""
    seeds = list(getattr(source, "seeds", []))
    if len(seeds) == len(source) and None not in seeds and len(set(seeds)) == len(seeds):
        return [int(seed) for seed in seeds]
    return list(range(len(source)))


def is_held_out(key: int, every: int = 25) -> bool:
    """Whether an episode is kept for the validation loss; a fixed choice by its key."""
    return key % every == every - 1
