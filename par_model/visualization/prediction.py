# SPDX-License-Identifier: Apache-2.0
"""The video that the policy predicts beside the one that its actions lead to (paper, Fig. 4).

Closed loop: before each chunk is executed the policy draws the picture that it expects at the
chunk's end; that picture stands beside the one that the camera then takes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from par_model.evaluation.direct_loop import run_episode
from par_model.interface import ImageArray
from par_model.policy import PARPolicy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.video_file import FIGURE, write_video
from par_model.visualization.pictures import PictureRow, draw_sheet, enlarge, spread

# A pixel whose brightest change from one observation to the next is above this has changed.
_CHANGED_GREY_LEVELS = 24
_NUM_COLUMNS = 8
_ENLARGED = 2


@dataclass(frozen=True)
class PredictionRecord:
    """N chunks of one episode.

    Attributes:
        task, seed, success, num_steps: of the episode.
        chunk_s: time from one observation to the next.
        first: uint8 [H, W, 3], the first observation.
        predicted: uint8 [N, H, W, 3], expected at the end of each chunk.
        executed: uint8 [N, H, W, 3], what the camera took there.
    """

    task: str
    seed: int
    success: bool
    num_steps: int
    chunk_s: float
    first: ImageArray
    predicted: ImageArray
    executed: ImageArray

    def errors(self) -> dict[str, float]:
        """Mean absolute error, in grey levels of 255, on the pixels that changed since the
        observation before: of the prediction, and of repeating that observation."""
        before = np.concatenate((self.first[None], self.executed[:-1])).astype(np.int16)
        after = self.executed.astype(np.int16)
        changed = np.abs(after - before).max(axis=-1) > _CHANGED_GREY_LEVELS
        return {
            "share_of_pixels_changed": round(float(changed.mean()), 4),
            "predicted": _mean_error(self.predicted.astype(np.int16), after, changed),
            "repeated": _mean_error(before, after, changed),
        }


def _mean_error(
    first: npt.NDArray[np.int16], second: npt.NDArray[np.int16], chosen: npt.NDArray[np.bool_]
) -> float:
    return round(float(np.abs(first - second)[chosen].mean()), 2) if chosen.any() else 0.0


class _PredictionWatcher:
    """See direct_loop.EpisodeWatcher."""

    def __init__(self, arm: ManiSkillArm, policy: PARPolicy) -> None:
        self._arm, self._policy = arm, policy
        self._num_actions = policy.spec.num_actions
        self._num_steps = 0
        self.predicted: list[ImageArray] = []
        self.observed: list[ImageArray] = []

    def started(self) -> None:
        self.observed.append(self._arm.capture())

    def chunk_chosen(self) -> None:
        self.predicted.append(self._policy.predict_frame())

    def stepped(self) -> None:
        self._num_steps += 1
        if self._num_steps % self._num_actions == 0:
            self.observed.append(self._arm.capture())


def record_prediction(
    arm: ManiSkillArm, policy: PARPolicy, seed: int, max_steps: int, policy_seed: int = 0
) -> PredictionRecord:
    """Run one episode. Blocks for it: on a CPU about a second a chunk, mostly for the pictures.

    A last chunk that success cuts short has no picture at its end and is left out.
    """
    watcher = _PredictionWatcher(arm, policy)
    result = run_episode(arm, policy, seed, max_steps, policy_seed=policy_seed, watchers=(watcher,))
    executed = watcher.observed[1:]
    if not executed:
        raise ValueError(
            f"the episode of seed {seed} ended within its first chunk; choose another seed."
        )
    return PredictionRecord(
        task=arm.task.name,
        seed=seed,
        success=result.success,
        num_steps=result.num_steps,
        chunk_s=policy.spec.num_actions * policy.spec.step_s,
        first=watcher.observed[0],
        predicted=np.stack(watcher.predicted[: len(executed)]),
        executed=np.stack(executed),
    )


def write_prediction(record: PredictionRecord, folder: Path) -> list[Path]:
    """Write the strip (PNG) and the film (mp4, real time); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"prediction_{record.task}_{record.seed}"
    sheet, film = stem.with_suffix(".png"), stem.with_suffix(".mp4")
    prediction_strip(record).save(sheet, optimize=True)
    gap = np.full((record.first.shape[0] * _ENLARGED, 8, 3), 255, np.uint8)
    pairs = [
        np.concatenate((enlarge(left, _ENLARGED), gap, enlarge(right, _ENLARGED)), axis=1)
        for left, right in zip(record.predicted, record.executed, strict=True)
    ]
    write_video(film, pairs, 1.0 / record.chunk_s, FIGURE)
    return [sheet, film]


def prediction_strip(record: PredictionRecord) -> Image.Image:
    """Two rows: predicted and executed at the same times."""
    chosen = spread(len(record.predicted), _NUM_COLUMNS)
    times = [f"{(index + 1) * record.chunk_s:.1f} s" for index in chosen]
    errors = record.errors()
    outcome = f"success after {record.num_steps} steps" if record.success else "no success"
    return draw_sheet(
        [
            PictureRow(
                f"{record.task}, seed {record.seed}\n{outcome}\n\npredicted\n\nerror on changed\n"
                f"pixels: {errors['predicted']:.1f} of 255\n"
                f"(last picture repeated: {errors['repeated']:.1f})",
                [record.predicted[index] for index in chosen],
            ),
            PictureRow("executed", [record.executed[index] for index in chosen], times),
        ]
    )
