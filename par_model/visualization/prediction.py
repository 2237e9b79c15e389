# SPDX-License-Identifier: Apache-2.0
"""The video that the policy predicts beside the one that its actions lead to (paper, Fig. 4).

Closed loop: before each chunk is executed the policy draws the pictures that it expects at the end
of this and of the next chunks; they stand beside those that the camera then takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from par_model.evaluation.imagined_pictures import CHANGED_GREY_LEVELS, imagined_episode
from par_model.interface import ImageArray
from par_model.policy import PARPolicy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.video_file import FIGURE, write_video
from par_model.visualization.pictures import PictureRow, draw_sheet, enlarge, spread

_NUM_COLUMNS = 8
_ENLARGED = 2


@dataclass(frozen=True)
class PredictionRecord:
    """N chunks of one episode.

    Attributes:
        task, seed, success, num_steps: of the episode.
        chunk_s: time from one observation to the next.
        first: uint8 [H, W, 3], the first observation.
        executed: uint8 [N, H, W, 3], what the camera took at the end of each chunk.
        predicted: by how many chunks ahead, S: uint8 [N - S + 1, H, W, 3], what was expected of
            the last N - S + 1 of them.
    """

    task: str
    seed: int
    success: bool
    num_steps: int
    chunk_s: float
    first: ImageArray
    executed: ImageArray
    predicted: Mapping[int, ImageArray]

    def errors(self, ahead: int = 1) -> dict[str, float]:
        """Mean absolute error, in grey levels of 255, on the pixels that changed since the
        prediction was made: of the prediction, and of repeating what was observed then."""
        observed = np.concatenate((self.first[None], self.executed)).astype(np.int16)
        before, after = observed[:-ahead], observed[ahead:]
        changed = np.abs(after - before).max(axis=-1) > CHANGED_GREY_LEVELS
        return {
            "share_of_pixels_changed": round(float(changed.mean()), 4),
            "predicted": _mean_error(self.predicted[ahead].astype(np.int16), after, changed),
            "repeated": _mean_error(before, after, changed),
        }


def _mean_error(
    first: npt.NDArray[np.int16], second: npt.NDArray[np.int16], chosen: npt.NDArray[np.bool_]
) -> float:
    return round(float(np.abs(first - second)[chosen].mean()), 2) if chosen.any() else 0.0


def record_prediction(
    arm: ManiSkillArm,
    policy: PARPolicy,
    seed: int,
    max_steps: int,
    policy_seed: int = 0,
    slots: Sequence[int] = (1,),
) -> PredictionRecord:
    """Run one episode; blocks as imagined_episode, and raises what it raises.

    slots: how many chunks ahead; what the episode is too short for is left out.
    """
    episode = imagined_episode(arm, policy, (), seed, max(slots), max_steps, policy_seed)
    executed = episode.seen[1:]
    return PredictionRecord(
        task=arm.task.name,
        seed=seed,
        success=episode.success,
        num_steps=episode.num_steps,
        chunk_s=policy.spec.num_actions * policy.spec.step_s,
        first=episode.seen[0],
        executed=executed,
        predicted={
            ahead: episode.imagined[: len(executed) - ahead + 1, ahead - 1]
            for ahead in sorted(slots)
            if ahead <= len(executed)
        },
    )


def write_prediction(record: PredictionRecord, folder: Path) -> list[Path]:
    """Write the strip (PNG) and the film (mp4, real time); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"prediction_{record.task}_{record.seed}"
    sheet, film = stem.with_suffix(".png"), stem.with_suffix(".mp4")
    prediction_strip(record).save(sheet, optimize=True)
    gap = np.full((record.first.shape[0] * _ENLARGED, 8, 3), 255, np.uint8)
    nearest = min(record.predicted)
    pairs = [
        np.concatenate((enlarge(left, _ENLARGED), gap, enlarge(right, _ENLARGED)), axis=1)
        for left, right in zip(
            record.predicted[nearest], record.executed[nearest - 1 :], strict=True
        )
    ]
    write_video(film, pairs, 1.0 / record.chunk_s, FIGURE)
    return [sheet, film]


def prediction_strip(record: PredictionRecord) -> Image.Image:
    """Rows of the same times: predicted, from the furthest ahead to the nearest, then executed."""
    chosen = spread(len(record.executed), _NUM_COLUMNS)
    times = [f"{(index + 1) * record.chunk_s:.1f} s" for index in chosen]
    outcome = f"success after {record.num_steps} steps" if record.success else "no success"
    title = PictureRow(f"{record.task}, seed {record.seed}: {outcome}")
    rows = [_predicted_row(record, ahead, chosen) for ahead in sorted(record.predicted)[::-1]]
    executed = PictureRow("executed", [record.executed[index] for index in chosen], times)
    return draw_sheet([title, *rows, executed])


def _predicted_row(record: PredictionRecord, ahead: int, chosen: Sequence[int]) -> PictureRow:
    """White where nothing was predicted yet."""
    errors = record.errors(ahead)
    white = np.full_like(record.first, 255)
    shown = [
        record.predicted[ahead][index - ahead + 1] if index >= ahead - 1 else white
        for index in chosen
    ]
    return PictureRow(
        f"predicted {ahead * record.chunk_s:.1f} s ahead\n\nerror on changed\n"
        f"pixels: {errors['predicted']:.1f} of 255\n"
        f"(last picture repeated: {errors['repeated']:.1f})",
        shown,
    )
