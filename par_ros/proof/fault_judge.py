# SPDX-License-Identifier: Apache-2.0
"""Judges the arm's command in the fault suite by finite differences over a millisecond.

Reads the cycles that the arm's process writes down. It knows nothing of trajectories: positions,
and how they change from cycle to cycle. M cycles, J joints.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray

PERIOD_S = 0.001
_QUANTITIES = ("velocity", "acceleration", "jerk")
_ROUNDING = 1e-9
# Less than this in a millisecond is standing: a microradian a second.
_STANDING_RAD = 1e-9
_NUM_EXAMPLES = 5
# Differences that reach over a step of the arm's own say nothing of the guard.
_REACH = 4


@dataclass(frozen=True)
class Judged:
    """Findings from one cycle on.

    Attributes:
        num_violations: differences of any joint beyond its limit, and positions outside.
        largest: velocity, acceleration, jerk, as the largest share of a joint's limit, from the
            fault on.
        largest_step_rad: where an acceleration broke its limit: by how much a joint left, within a
            millisecond, the way on which it was.
        last_motion: the last cycle in which a joint moved; None where none did.
        last_cycle: the last one that is known.
        examples: the first violations in words.
    """

    num_violations: int
    largest: dict[str, float]
    largest_step_rad: float
    last_motion: int | None
    last_cycle: int
    examples: tuple[str, ...]

    @property
    def is_at_rest(self) -> bool:
        """Whether the arm stood in the last cycles."""
        return self.last_motion is None or self.last_motion < self.last_cycle - _REACH


class CycleLog:
    """The file that the arm writes."""

    def __init__(self, path: Path, num_joints: int) -> None:
        self._path = path
        self._row_bytes = 8 * (1 + num_joints)
        self._width = 1 + num_joints

    @property
    def num_rows(self) -> int:
        """Rows written up to now."""
        return self._path.stat().st_size // self._row_bytes if self._path.exists() else 0

    def rows(self, first: int, num: int = -1) -> FloatArray:
        """Rows from `first` on, float64 [M, 1 + J]: the cycle and the positions."""
        with self._path.open("rb") as file:
            file.seek(first * self._row_bytes)
            data = file.read(num * self._row_bytes if num >= 0 else -1)
        whole = len(data) // self._row_bytes * self._row_bytes
        return np.frombuffer(data[:whole], np.float64).reshape(-1, self._width)

    def newest(self) -> FloatArray | None:
        """The last two rows [2, 1 + J]; None before there are any."""
        num = self.num_rows
        return self.rows(num - 2, 2) if num >= 2 else None


def judge(spec: ArmSpec, rows: FloatArray, from_cycle: int, own_steps: tuple[int, ...]) -> Judged:
    """Look at every cycle.

    Args:
        rows: [M, 1 + J], as CycleLog gives them; where cycles are missing the arm was away.
        from_cycle: the largest shares are of cycles from this one on.
        own_steps: cycles in which the controller stepped by itself.
    """
    cycles = rows[:, 0].astype(np.int64)
    positions = rows[:, 1:]
    limits = spec.limits
    bounds = (limits.max_velocity, limits.max_acceleration, limits.max_jerk)
    outside = (positions < limits.min_position - _ROUNDING) | (
        positions > limits.max_position + _ROUNDING
    )
    num_violations = int(outside.sum())
    examples = ["a position lies outside its limits"] if num_violations else []
    largest = dict.fromkeys(_QUANTITIES, 0.0)
    rates, whole = positions, np.ones(len(rows), np.bool_)
    whole[1:] = np.diff(cycles) == 1
    for step in own_steps:
        whole &= np.abs(cycles - step) > _REACH
    step_rad = 0.0
    usable = whole[1:]
    for quantity, bound in zip(_QUANTITIES, bounds, strict=True):
        rates = np.diff(rates, axis=0) / PERIOD_S
        shares = np.abs(rates[usable]) / bound
        ends = cycles[len(cycles) - len(rates) :][usable]
        late = shares[ends >= from_cycle]
        largest[quantity] = float(late.max()) if late.size else 0.0
        beyond = np.argwhere(shares > 1.0 + _ROUNDING)
        num_violations += len(beyond)
        if len(beyond):
            row, joint = beyond[0]
            examples.append(
                f"{spec.arm_joint_names[joint]} {shares[row, joint]:.3f} times its {quantity} "
                f"limit {(ends[row] - from_cycle) / 1000:+.3f} s after the fault"
            )
        if quantity == "acceleration" and len(beyond):
            step_rad = float(np.abs(rates[usable]).max()) * PERIOD_S**2
        usable = usable[1:] & usable[:-1]
    moved = np.abs(np.diff(positions, axis=0)).max(axis=1, initial=0.0) > _STANDING_RAD
    moving = cycles[1:][moved]
    return Judged(
        num_violations,
        largest,
        step_rad,
        int(moving[-1]) if len(moving) else None,
        int(cycles[-1]) if len(cycles) else 0,
        tuple(examples[:_NUM_EXAMPLES]),
    )
