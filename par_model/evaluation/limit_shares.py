# SPDX-License-Identifier: Apache-2.0
"""How far chunks go beyond an arm's acceleration and jerk limits, before any guard.

Looked at are the targets at the control rate: accelerations are second differences and jerks third
differences of a chunk's targets and of the three targets before them, so a chunk's seam counts to
the chunk that takes over, and what follows its end (until the next takes over) to itself. Shapes: J
arm joints, without the gripper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from par_model.interface import FloatArray

# Targets before a chunk that its third differences reach.
NUM_BEFORE = 3


@dataclass(frozen=True)
class MotionLimits:
    """Of each arm joint, [J]."""

    max_acceleration_rad_s2: FloatArray
    max_jerk_rad_s3: FloatArray


@dataclass(frozen=True)
class LimitShares:
    """Largest acceleration and jerk of any joint in a chunk, as shares of their limits."""

    acceleration: float
    jerk: float

    @property
    def is_beyond(self) -> bool:
        """Whether one of the limits is exceeded."""
        return max(self.acceleration, self.jerk) > 1.0


def limit_shares(targets: FloatArray, step_s: float, limits: MotionLimits) -> LimitShares:
    """Of one chunk: targets [NUM_BEFORE + T, J], those before it first."""
    accelerations = np.abs(np.diff(targets, 2, axis=0))[1:] / step_s**2
    jerks = np.abs(np.diff(targets, 3, axis=0)) / step_s**3
    return LimitShares(
        float((accelerations / limits.max_acceleration_rad_s2).max(initial=0.0)),
        float((jerks / limits.max_jerk_rad_s3).max(initial=0.0)),
    )


def chunks_shares(
    positions: FloatArray, step_s: float, begins: Sequence[int], limits: MotionLimits
) -> tuple[LimitShares, ...]:
    """Of every chunk of a motion.

    Args:
        positions: [1 + T, J], where the arm stood at first, and the target of each step.
        begins: index of the first step that follows each chunk, increasing, below T.
    """
    line = np.concatenate((np.repeat(positions[:1], NUM_BEFORE - 1, axis=0), positions))
    ends = [*begins[1:], len(positions) - 1]
    return tuple(
        limit_shares(line[begin : end + NUM_BEFORE], step_s, limits)
        for begin, end in zip(begins, ends, strict=True)
    )


def share_beyond(chunks: Sequence[LimitShares]) -> dict[str, float | int | None]:
    """How many chunks there are, and the share of those beyond a limit; None without any."""
    accelerations = [chunk.acceleration > 1.0 for chunk in chunks]
    jerks = [chunk.jerk > 1.0 for chunk in chunks]
    beyond = [chunk.is_beyond for chunk in chunks]
    return {
        "num_chunks": len(chunks),
        "beyond": _share(beyond),
        "beyond_acceleration": _share(accelerations),
        "beyond_jerk": _share(jerks),
    }


def read_motion_limits(path: Path) -> MotionLimits:
    """The limits of an arm file (config/arms). Raises ValueError for a file without them."""
    try:
        joints = yaml.safe_load(path.read_text(encoding="utf-8"))["joints"].values()
        accelerations = [float(joint["max_acceleration_rad_s2"]) for joint in joints]
        jerks = [float(joint["max_jerk_rad_s3"]) for joint in joints]
    except OSError as error:
        raise ValueError(
            f"the arm file {path} cannot be read ({error.strerror}); name another one with "
            "--arm-file."
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"the arm file {path} has no joints with max_acceleration_rad_s2 and max_jerk_rad_s3; "
            "name a file such as config/arms/panda.yaml with --arm-file."
        ) from None
    return MotionLimits(np.array(accelerations), np.array(jerks))


def _share(flags: Sequence[bool]) -> float | None:
    return float(np.mean(flags)) if flags else None
