# SPDX-License-Identifier: Apache-2.0
"""How unlikely an observation was, and above which value that is said: numpy only.

The thresholds are conformal: of n + 1 exchangeable episodes, the largest surprise of the last is
above the k-th smallest of the n others, k = ceil((n + 1) (1 - rate)), with a probability of at most
`rate` (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005).

Shape letters: N image tokens.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from par_model.interface import ImageArray
from par_model.json_file import read_object
from par_model.misfit import Misfit
from par_model.output_files import write_text
from par_model.weights_hash import weights_hash

FILE_NAME = "surprise.json"
FORWARD_FILE = "forward_model.safetensors"
FORMAT_VERSION = 3
# False alarms an undisturbed episode of the first and of the second threshold.
RATES = (0.10, 0.05)
# How many of the worst tokens of the frame head, and of the worst latent pixels of the forward
# model, count: as few as a cube covers.
_NUM_TOKENS, _NUM_PIXELS = 4, 16
# What counts as 1: of the frame head's errors that is a frame of which nothing was foretold, of the
# forward model's so many times the expected squared error; of joints so many standard deviations
# (docs/lab_notebook/surprise.md).
_FORWARD_ERROR, _JOINTS_OFF, _STILL_MOTION = 40.0, 1.0, 0.3
_AGAIN = "calibrate it again with `python -m par_model.calibrate`"


def surprise(misfit: Misfit) -> float:
    """The largest of three, each in a unit of its own: the mean of the largest few errors of the
    picture, so that a thing as small as a cube counts; joints off; motion in a still picture. NaN
    where one of them is."""
    parts = (
        _picture_error(misfit),
        misfit.joints_off / _JOINTS_OFF,
        misfit.still_motion / _STILL_MOTION,
    )
    return float(np.max(parts))


def cause(misfit: Misfit) -> str:
    """Which of the three is the largest, and where, in words."""
    joints, still = misfit.joints_off / _JOINTS_OFF, misfit.still_motion / _STILL_MOTION
    picture = _picture_error(misfit)
    if still >= max(picture, joints):
        return "the picture stays the same while the arm moves"
    if joints >= picture:
        return f"{misfit.joint} is neither where it was nor where it was sent"
    errors = misfit.forward_errors
    if errors is None:
        return "the picture is another"
    row, column = np.unravel_index(int(errors.argmax()), errors.shape)
    across, down = (column + 0.5) / errors.shape[1], (row + 0.5) / errors.shape[0]
    return f"the picture is another, most at {across:.0%} of its width and {down:.0%} of its height"


def _picture_error(misfit: Misfit) -> float:
    if misfit.forward_errors is not None:
        worst = np.sort(misfit.forward_errors, axis=None)[-_NUM_PIXELS:]
        return float(worst.mean()) / _FORWARD_ERROR
    assert misfit.frame_errors is not None
    return float(np.sort(misfit.frame_errors)[-_NUM_TOKENS:].mean())


def picture_change(before: ImageArray, after: ImageArray) -> float:
    """The rule without a model: mean absolute difference, in grey levels."""
    return float(np.abs(before.astype(np.int16) - after.astype(np.int16)).mean())


def conformal_threshold(maxima: Sequence[float], rate: float) -> float:
    """The value that the largest surprise of a new undisturbed episode exceeds with a probability
    of at most `rate`, given those of n episodes.

    Raises:
        ValueError: n is below 1 / rate - 1.
    """
    rank = math.ceil((len(maxima) + 1) * (1.0 - rate))
    if rank > len(maxima):
        raise ValueError(
            f"{len(maxima)} undisturbed episodes are too few for {100 * rate:g}% false alarms; "
            f"at least {math.ceil(1.0 / rate) - 1} are needed."
        )
    return float(sorted(maxima)[rank - 1])


def forward_hash(checkpoint: Path) -> str | None:
    """sha256 of the forward model beside a checkpoint's files; None where there is none."""
    path = checkpoint / FORWARD_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@dataclass(frozen=True)
class SurpriseThresholds:
    """Of one instruction.

    Attributes:
        first: above it a warning is given.
        second: above it the arm is stopped.
        picture_change: of the rule without a model, at the same false alarms as `second`.
        num_episodes: undisturbed successes behind them.
    """

    first: float
    second: float
    picture_change: float
    num_episodes: int

    def __post_init__(self) -> None:
        """Raise ValueError for thresholds that are not finite, or the second below the first."""
        if not (
            math.isfinite(self.first + self.picture_change) and self.first <= self.second < math.inf
        ):
            raise ValueError(f"thresholds must be finite and rising, got {self}")


@dataclass(frozen=True)
class SurpriseCalibration:
    """The content of surprise.json, beside a checkpoint's files.

    Attributes:
        weights_sha256: of the weights that it belongs to (`weights_hash`).
        forward_sha256: of the file of the forward model beside them; None: there is none.
        thresholds: by instruction.
        about: how it was made.
    """

    weights_sha256: str
    forward_sha256: str | None
    thresholds: Mapping[str, SurpriseThresholds]
    about: Mapping[str, object]

    def write(self, path: Path) -> None:
        content = {"format_version": FORMAT_VERSION} | asdict(self)
        write_text("the thresholds", path, json.dumps(content, indent=2) + "\n")

    @staticmethod
    def read(checkpoint: Path) -> "SurpriseCalibration":
        """That of a checkpoint's folder. Raises ValueError for a file that is missing, damaged, or
        of other weights."""
        path = checkpoint / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{path} is missing, and with it the thresholds; {_AGAIN}.")
        values: Any = read_object(path, _AGAIN)
        version = values.get("format_version")
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version} and this program reads {FORMAT_VERSION}, "
                f"whose surprise is another number; {_AGAIN}."
            )
        try:
            thresholds = {
                instruction: SurpriseThresholds(**of_instruction)
                for instruction, of_instruction in values["thresholds"].items()
            }
            about, found = dict(values["about"]), str(values["weights_sha256"])
            forward = values["forward_sha256"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no surprise calibration ({error!r}); {_AGAIN}.") from error
        if version != FORMAT_VERSION or found != weights_hash(checkpoint):
            raise ValueError(f"{path} is of other weights than the checkpoint's; {_AGAIN}.")
        if forward != forward_hash(checkpoint):
            raise ValueError(f"{path} is of another forward model than the checkpoint's; {_AGAIN}.")
        return SurpriseCalibration(found, forward, thresholds, about)

    def of(self, instruction: str) -> SurpriseThresholds:
        """Raises ValueError for an instruction without thresholds."""
        if instruction not in self.thresholds:
            raise ValueError(
                f"there are no surprise thresholds of instruction {instruction!r}; {_AGAIN}, or "
                "set surprise:=off."
            )
        return self.thresholds[instruction]
