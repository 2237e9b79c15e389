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
from par_ros.control.hermite_curve import (
    NUM_SPLITS,
    SECTION_SIZES,
    SECTIONS,
    SPLIT_SIZES,
    CurvePoints,
)
from par_ros.control.joint_limits import JointLimits
from par_ros.control.joint_trajectory import FloatArray

BoolArray = npt.NDArray[np.bool_]

LIMIT_NAMES = ("position", "velocity", "acceleration", "jerk", "stop")

# Rounding, relative to a limit.
_TOLERANCE = 1e-9
# Between the moments at which stops are tried (6 ms apart) their end may lie this much further.
_STOP_MARGIN_RAD = 0.003
# And a stop that begins in between, or is between two of its samples, is this much further on.
_STOP_MARGIN_S = 0.006


class CurveLimits:
    """Limits of J joints, and which of LIMIT_NAMES are enforced [5]; the others are reported."""

    def __init__(self, joints: JointLimits, enforced: BoolArray) -> None:
        self.joints = joints
        self.enforced = enforced
        low, high = joints.bounds
        slack = _TOLERANCE * (high - low)
        self._lowest_position = low[0] - slack[0]
        self._highest = high + slack
        self._bounds = tuple(
            np.repeat(bound, SECTION_SIZES, axis=0)[:, None] for bound in (low, high)
        )
        self._speed_slack = slack[1]
        self._is_position_dependent = joints.position_dependent_velocity is not None
        self._selections: dict[tuple[bytes, int], CurveLimits] = {}

    def of_joints(self, columns: npt.NDArray[np.intp], num: int = 1) -> "CurveLimits":
        """Those of some of the joints, `num` times side by side; each selection is made once."""
        key = (columns.tobytes(), num)
        if key not in self._selections:
            joints = self.joints.of_joints(np.tile(columns, num))
            self._selections[key] = CurveLimits(joints, self.enforced)
        return self._selections[key]

    def outside(self, positions: FloatArray) -> FloatArray:
        """How far `positions` [J] are beyond those of the limits, rad; 0 within their rounding."""
        low, high = self.joints.min_position, self.joints.max_position
        is_outside = (positions < self._lowest_position) | (positions > self._highest[0])
        beyond: FloatArray = np.maximum(low - positions, positions - high)
        return np.where(is_outside, beyond, 0.0)

    def broken(self, points: CurvePoints, *, is_stop: bool = False) -> BoolArray:
        """Which limits [5, J] a curve breaks; `is_stop`: no stops are tried from it."""
        lowest, highest = points.extremes()
        broken = np.zeros((len(LIMIT_NAMES), len(lowest)), dtype=np.bool_)
        # What is not finite is within no limit.
        broken[:4] = ~(highest <= self._highest)
        broken[0] |= ~(lowest >= self._lowest_position)
        if self._is_position_dependent:
            broken[1] |= self._too_fast_for_position(points)
        if not is_stop:
            broken[4] = self._stop_breaks(points, lowest, highest)
        return broken

    def enforced_broken(self, points: CurvePoints) -> BoolArray:
        """Joints [J] in which a curve breaks an enforced limit."""
        return self.any_enforced(self.broken(points))

    def any_enforced(self, broken: BoolArray) -> BoolArray:
        """Joints [J] of which one of the `broken` limits [5, J] is enforced."""
        result: BoolArray = broken[self.enforced].any(axis=0)
        return result

    def largest_share(self, safe: CurvePoints, step: FloatArray) -> FloatArray:
        """Largest s in [0, 1], [J], with safe + s step inside the enforced limits.

        step: like safe.values, the way to the points of another curve.
        """
        low, high = self._bounds
        if self._is_position_dependent:
            low, high = self._bounds_between(safe, CurvePoints(safe.values + step))
        room = np.where(step > 0.0, high - safe.values, safe.values - low)
        size = np.maximum(np.abs(step), 1e-15)
        shares = np.maximum(room, 0.0) / size
        of_enforced = [
            rows.min(axis=0).min(axis=0)
            for rows, enforced in zip(np.split(shares, SECTIONS[1:]), self.enforced, strict=False)
            if enforced
        ]
        result: FloatArray = np.minimum(0.999 * np.minimum.reduce(of_enforced), 1.0)
        return result

    def _stop_breaks(
        self, points: CurvePoints, lowest: FloatArray, highest: FloatArray
    ) -> BoolArray:
        """Joints [J] for which a stop from somewhere on the curve would leave the limits.

        lowest, highest: of points.extremes().
        """
        limits = self.joints
        trials = points.trials()
        speeds = np.abs(braking.peak_velocities(trials[1], trials[2], limits))
        fastest = np.maximum.reduce(np.maximum.reduce(speeds))
        broken: BoolArray = fastest > self._highest[1]
        fastest = np.maximum(fastest, highest[1])
        # No stop goes further than this; most joints are further from their position limits.
        furthest = braking.longest_stop(fastest, highest[2], limits)
        furthest += _STOP_MARGIN_RAD
        lowest, highest = lowest - furthest, highest[0] + furthest
        near = (lowest < limits.min_position) | (highest > limits.max_position)
        if self._is_position_dependent:
            slow, fast = limits.velocity_bounds(np.stack((lowest, highest)))
            near |= ~((-fastest >= slow[0]) & (fastest <= fast[1]))
        columns = np.flatnonzero(near)
        if len(columns):
            positions, velocities, accelerations = (
                rows[:, :, columns].reshape(-1, len(columns)) for rows in trials
            )
            near_limits = limits.of_joints(columns)
            stops = braking.StopProfiles.of(positions, velocities, accelerations, near_limits)
            broken[columns] |= _stops_leave(positions, stops, near_limits)
            if self._is_position_dependent:
                broken[columns] |= _stops_too_fast(stops, near_limits, self._speed_slack[columns])
        return broken

    def _too_fast_for_position(self, points: CurvePoints) -> BoolArray:
        """Joints [J] that are, in some split of some piece, faster than its positions allow."""
        positions, velocities = points.split_hulls(0), points.split_hulls(1)
        low = self.joints.velocity_bounds(positions.min(axis=1))[0] - self._speed_slack
        high = self.joints.velocity_bounds(positions.max(axis=1))[1] + self._speed_slack
        good = (velocities.min(axis=1) >= low) & (velocities.max(axis=1) <= high)
        result: BoolArray = ~good.all(axis=(0, 1))
        return result

    def _bounds_between(
        self, one: CurvePoints, other: CurvePoints
    ) -> tuple[FloatArray, FloatArray]:
        """Bounds of all values [99, S, J] that any curve between the two may take."""
        low, high = (np.broadcast_to(bound, one.values.shape).copy() for bound in self._bounds)
        hulls = np.concatenate((one.split_hulls(0), other.split_hulls(0)), axis=1)
        rows = slice(SECTIONS[1], SECTIONS[1] + NUM_SPLITS * SPLIT_SIZES[1])
        low[rows] = np.repeat(
            self.joints.velocity_bounds(hulls.min(axis=1))[0], SPLIT_SIZES[1], axis=0
        )
        high[rows] = np.repeat(
            self.joints.velocity_bounds(hulls.max(axis=1))[1], SPLIT_SIZES[1], axis=0
        )
        return low, high


def _stops_too_fast(
    stops: braking.StopProfiles, limits: JointLimits, slack: FloatArray
) -> BoolArray:
    """Joints [J] that one of the stops takes faster through a position than allowed there."""
    positions, velocities = stops.sampled()
    low, high = limits.velocity_bounds(positions + _STOP_MARGIN_S * velocities)
    good = (velocities >= low - slack) & (velocities <= high + slack)
    result: BoolArray = ~good.all(axis=(0, 1))
    return result


def _stops_leave(
    positions: FloatArray, stops: braking.StopProfiles, limits: JointLimits
) -> BoolArray:
    """Joints [J] for which a stop from one of `positions` [M, J] ends beyond a position limit."""
    ends = stops.ends()
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
