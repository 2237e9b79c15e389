# SPDX-License-Identifier: Apache-2.0
"""How a chunk goes on from the motion that it takes over from.

A chunk that is answered while the arm moves begins elsewhere than the arm is, and goes at another
speed. Two things make one motion of it, both of them arithmetic on the rows that are still to be
followed; the policy knows nothing of it and is told what was followed, as always.

Fade: in the first K rows the running chunk's wishes for the same moments turn evenly into the new
ones, as far as the running chunk reaches. Smoothing: the arm joints' rows x are those for which
|x - c|^2 + smoothness |second differences of x|^2 is least, two targets before them included (by
Whittaker: x goes on from a position and a speed). The gripper is never changed: half of an
opening is no grasp.

Shapes: H rows of a chunk, J joints (gripper last); row k is due k + 1 steps after the picture.
"""

from dataclasses import dataclass

import numpy as np

from par_model.interface import FloatArray

# Targets up to the picture that second differences reach.
NUM_BEFORE = 2


@dataclass(frozen=True)
class SeamSettings:
    """What is done where a chunk takes over.

    Attributes:
        fade_steps: K, rows in which the running chunk turns into the new one; 0: none.
        smoothness: weight of squared second differences against squared changes; 0: no smoothing.
    """

    fade_steps: int = 0
    smoothness: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for a negative number."""
        if self.fade_steps < 0 or not 0.0 <= self.smoothness < np.inf:
            raise ValueError(
                f"fade_steps {self.fade_steps} and smoothness {self.smoothness:g} must be 0 or "
                "more, and finite."
            )

    @property
    def changes_chunks(self) -> bool:
        """Whether anything is done at all."""
        return self.fade_steps > 0 or self.smoothness > 0.0


@dataclass(frozen=True)
class Seam:
    """Where a chunk takes over.

    Attributes:
        followed: float64 [NUM_BEFORE + d, J], what the arm was told in the two steps up to the
            chunk's picture and in the d steps after it: row d of the chunk takes over.
        running: float64 [R, J], what the chunk before wants from that step on, to its end.
    """

    followed: FloatArray
    running: FloatArray

    def __post_init__(self) -> None:
        """Raise ValueError where the two steps before the picture are missing."""
        if len(self.followed) < NUM_BEFORE:
            raise ValueError(
                f"a seam needs {NUM_BEFORE} targets or more, got {len(self.followed)}."
            )

    @property
    def first_row(self) -> int:
        """d, the first row of the chunk that is followed."""
        return len(self.followed) - NUM_BEFORE


def join(chunk: FloatArray, seam: Seam, settings: SeamSettings) -> FloatArray:
    """The chunk [H, J] as it goes on from the seam: the rows before that are what was followed.

    With settings that change nothing, and where no row is left to follow, the chunk itself.
    """
    first = seam.first_row
    if not settings.changes_chunks or first >= len(chunk):
        return chunk
    joined = chunk.copy()
    joined[:first] = seam.followed[NUM_BEFORE:]
    arm = joined[first:, :-1]
    _fade(arm, seam.running[:, :-1], settings.fade_steps)
    if settings.smoothness > 0.0:
        arm[:] = _smooth(arm, seam.followed[-NUM_BEFORE:, :-1], settings.smoothness)
    return joined


def _fade(rows: FloatArray, running: FloatArray, num_steps: int) -> None:
    """Weights k / (K + 1) of the new rows [N, J], k = 1 .. K, as far as `running` [R, J] reaches;
    in place."""
    count = min(num_steps, len(running), len(rows))
    weights = (np.arange(1, count + 1) / (count + 1))[:, None]
    # Equal rows stay as they are, to the bit.
    rows[:count] = running[:count] + weights * (rows[:count] - running[:count])


def _smooth(rows: FloatArray, before: FloatArray, smoothness: float) -> FloatArray:
    """The rows [N, J] that minimise what the head of this file says; before: [NUM_BEFORE, J]."""
    differences = np.diff(np.eye(NUM_BEFORE + len(rows)), 2, axis=0)
    known, free = differences[:, :NUM_BEFORE], differences[:, NUM_BEFORE:]
    smoothed: FloatArray = np.linalg.solve(
        np.eye(len(rows)) + smoothness * free.T @ free,
        rows - smoothness * free.T @ known @ before,
    )
    return smoothed
