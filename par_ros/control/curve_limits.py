# SPDX-License-Identifier: Apache-2.0
"""The limits of an arm's joints, compared with whole curves.

Position, velocity, acceleration and jerk are compared by control points (hermite_curve.py), so at
every moment; and from every moment of a curve a stop must keep the limits too, so that an emergency
stop is always possible.

Shapes: J joints; N nodes; S pieces; M moments.
"""

import numpy as np
import numpy.typing as npt

from par_ros.control import braking
from par_ros.control.arm_spec import JointLimits
from par_ros.control.hermite_curve import SECTION_SIZES, SECTIONS, CurvePoints
from par_ros.control.joint_trajectory import FloatArray, MotionState

BoolArray = npt.NDArray[np.bool_]

LIMIT_NAMES = ("position", "velocity", "acceleration", "jerk", "stop")

# Rounding, relative to a limit.
_TOLERANCE = 1e-9
# Between the moments at which stops are tried (6 ms apart) their end may lie this much further.
_STOP_MARGIN_RAD = 0.003


class CurveLimits:
    """Limits of J joints, and which of LIMIT_NAMES are enforced [5]; the others are reported."""

    def __init__(self, joints: JointLimits, enforced: BoolArray) -> None:
        self.joints = joints
        self.enforced = enforced
        self._low, self._high = joints.bounds
        slack = _TOLERANCE * (self._high - self._low)
        self._lowest, self._highest = self._low - slack, self._high + slack
        self._selections: dict[tuple[bytes, int], CurveLimits] = {}

    def of_joints(self, columns: npt.NDArray[np.intp], num: int = 1) -> "CurveLimits":
        """Those of some of the joints, `num` times side by side; each selection is made once."""
        key = (columns.tobytes(), num)
        if key not in self._selections:
            joints = self.joints.of_joints(np.tile(columns, num))
            self._selections[key] = CurveLimits(joints, self.enforced)
        return self._selections[key]

    def broken(self, points: CurvePoints, end: MotionState | None) -> BoolArray:
        """Which limits [5, J] a curve breaks.

        end: its last state; None for a curve that is a stop itself, from which none is tried.
        """
        lowest, highest = points.extremes()
        broken = np.zeros((len(LIMIT_NAMES), lowest.shape[1]), dtype=np.bool_)
        # What is not finite is within no limit.
        broken[:4] = ~((lowest >= self._lowest) & (highest <= self._highest))
        if end is not None:
            broken[4] = self._stop_breaks(points, end, lowest, highest)
        return broken

    def enforced_broken(self, points: CurvePoints, end: MotionState) -> BoolArray:
        """Joints [J] in which a curve breaks an enforced limit."""
        return self.any_enforced(self.broken(points, end))

    def any_enforced(self, broken: BoolArray) -> BoolArray:
        """Joints [J] of which one of the `broken` limits [5, J] is enforced."""
        result: BoolArray = broken[self.enforced].any(axis=0)
        return result

    def largest_share(self, safe: CurvePoints, step: FloatArray) -> FloatArray:
        """Largest s in [0, 1], [J], with safe + s step inside the enforced limits.

        step: like safe.values, the way to the points of another curve.
        """
        low, high = (
            np.repeat(bound, SECTION_SIZES, axis=0)[:, None] for bound in (self._low, self._high)
        )
        near = safe.values
        room = np.where(step > 0.0, high - near, near - low)
        size = np.maximum(np.abs(step), 1e-15)
        shares = np.minimum.reduceat(np.maximum(room, 0.0) / size, SECTIONS).min(axis=1)
        rows = shares[self.enforced[: len(SECTIONS)]]
        result: FloatArray = np.clip(0.999 * rows.min(axis=0), 0.0, 1.0)
        return result

    def _stop_breaks(
        self, points: CurvePoints, end: MotionState, lowest: FloatArray, highest: FloatArray
    ) -> BoolArray:
        """Joints [J] for which a stop from somewhere on the curve would leave the limits."""
        limits = self.joints
        num_joints = lowest.shape[1]
        positions, velocities, accelerations = (
            np.concatenate((rows.reshape(-1, num_joints), last[None]))
            for rows, last in zip(
                points.trials(), (end.positions, end.velocities, end.accelerations), strict=True
            )
        )
        speeds = np.abs(braking.peak_velocities(velocities, accelerations, limits)).max(axis=0)
        broken: BoolArray = speeds > self._highest[1]
        # No stop goes further than this; most joints are further from their position limits.
        fastest, hardest = np.maximum(-lowest[1:3], highest[1:3])
        furthest = braking.longest_stop(np.maximum(speeds, fastest), hardest, limits)
        furthest += _STOP_MARGIN_RAD
        near = (lowest[0] - furthest < limits.min_position) | (
            highest[0] + furthest > limits.max_position
        )
        columns = np.flatnonzero(near)
        if len(columns):
            broken[columns] |= _stop_leaves(
                positions[:, columns],
                velocities[:, columns],
                accelerations[:, columns],
                limits.of_joints(columns),
            )
        return broken


def _stop_leaves(
    positions: FloatArray, velocities: FloatArray, accelerations: FloatArray, limits: JointLimits
) -> BoolArray:
    """Joints [J] for which a stop from one of the states [M, J] ends beyond a position limit."""
    ends = braking.stopping_positions(positions, velocities, accelerations, limits)
    lowest, highest = ends.min(axis=0), ends.max(axis=0)
    # Standing near a limit is no danger: only what a stop adds to the curve counts.
    too_low = (lowest < limits.min_position + _STOP_MARGIN_RAD) & (
        lowest < positions.min(axis=0) - _TOLERANCE
    )
    too_high = (highest > limits.max_position - _STOP_MARGIN_RAD) & (
        highest > positions.max(axis=0) + _TOLERANCE
    )
    result: BoolArray = too_low | too_high
    return result
