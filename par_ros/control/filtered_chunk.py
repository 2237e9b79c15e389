# SPDX-License-Identifier: Apache-2.0
"""A chunk after the safety filter: where it joins the motion, the result, and the reason."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from par_ros.control.hermite_curve import Nodes
from par_ros.control.joint_trajectory import FloatArray, MotionState

Outcome = Literal["unchanged", "tracked", "refused"]


@dataclass(frozen=True)
class Join:
    """Where a motion departs from the one that is being executed.

    Attributes:
        start: the state commanded at `time_s`.
        time_s: seconds after the chunk's start; 0 where the new motion starts at once.
    """

    start: MotionState
    time_s: float = 0.0


@dataclass(frozen=True)
class Change:
    """One joint whose knots were changed.

    Attributes:
        joint_name: which one.
        limits: which limits the policy's own knots broke (of curve_limits.LIMIT_NAMES).
        knots: numbers (1..L) of the changed knots.
        largest: the largest change, rad (gripper: m).
    """

    joint_name: str
    limits: tuple[str, ...]
    knots: tuple[int, ...]
    largest: float

    @staticmethod
    def between(
        joint_name: str,
        limits: tuple[str, ...],
        wanted: FloatArray,
        sent: FloatArray,
        first_knot: int,
    ) -> "Change":
        """The change from `wanted` to `sent`, [L] knots from `first_knot` (0..) on."""
        knots = tuple((np.flatnonzero(sent != wanted) + 1 + first_knot).tolist())
        return Change(joint_name, limits, knots, float(np.abs(sent - wanted).max()))

    def __str__(self) -> str:
        knots = ", ".join(str(knot) for knot in self.knots)
        return (
            f"{self.joint_name}: {' and '.join(self.limits)} limit; knots {knots} changed by up to "
            f"{self.largest:.4g}"
        )


@dataclass(frozen=True)
class FilteredChunk:
    """Result of the filter for one chunk.

    Attributes:
        outcome: unchanged, tracked, or refused (then there is no motion and the caller holds).
        knots: float64 [L, J + 1], the targets as they are sent.
        nodes: states of the arm after the start: the knots, then the braking tail.
        changes: what was changed, joint by joint.
        warnings: limits that were broken but are only reported for this arm.
        reason: why it was refused; empty otherwise.
    """

    outcome: Outcome
    knots: FloatArray
    nodes: Nodes | None
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    reason: str = ""
