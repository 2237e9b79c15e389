# SPDX-License-Identifier: Apache-2.0
"""How a chunk goes on from the motion that it takes over from.

A chunk that is answered while the arm moves begins elsewhere than the arm is, and goes at another
speed. Smoothing makes one motion of it: the arm joints' rows x that are still to be followed are
those for which |x - c|^2 + smoothness |second differences of x|^2 is least, the two targets before
them included (Whittaker's smoother: x goes on from a position and a speed). The policy knows
nothing of it and is told what was followed, as always. The gripper is not changed: half of an
opening is no grasp.

Shapes: H rows of a chunk, J joints (gripper last); row k is due k + 1 steps after the picture; d
rows are due before the chunk takes over.
"""

import numpy as np

from par_model.interface import FloatArray

# Targets up to the picture that second differences reach.
NUM_BEFORE = 2


def join(chunk: FloatArray, followed: FloatArray, smoothness: float) -> FloatArray:
    """The chunk [H, J] as it goes on from what was followed; itself where no row is left to follow.

    Args:
        followed: float64 [NUM_BEFORE + d, J], what the arm was told in the two steps up to the
            chunk's picture and in the d steps after it, which become the chunk's first rows.
        smoothness: weight of squared second differences against squared changes; 0: the rows from
            d on stay as they are.

    Raises:
        ValueError: the two steps before the picture are missing; a negative smoothness, or none
            that is finite.
    """
    if len(followed) < NUM_BEFORE:
        raise ValueError(f"a seam needs {NUM_BEFORE} targets or more, got {len(followed)}.")
    if not 0.0 <= smoothness < np.inf:
        raise ValueError(f"smoothness must be 0 or more, and finite; got {smoothness:g}.")
    first = len(followed) - NUM_BEFORE
    if first >= len(chunk):
        return chunk
    joined = chunk.copy()
    joined[:first] = followed[NUM_BEFORE:]
    if smoothness > 0.0:
        arm = joined[first:, :-1]
        arm[:] = _smooth(arm, followed[-NUM_BEFORE:, :-1], smoothness)
    return joined


def _smooth(rows: FloatArray, before: FloatArray, smoothness: float) -> FloatArray:
    """The rows [N, J] that minimise what the head of this file says; before: [NUM_BEFORE, J]."""
    differences = np.diff(np.eye(NUM_BEFORE + len(rows)), 2, axis=0)
    known, free = differences[:, :NUM_BEFORE], differences[:, NUM_BEFORE:]
    smoothed: FloatArray = np.linalg.solve(
        np.eye(len(rows)) + smoothness * free.T @ free,
        rows - smoothness * free.T @ known @ before,
    )
    return smoothed
