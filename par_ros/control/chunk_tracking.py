# SPDX-License-Identifier: Apache-2.0
"""Tracking: curves near a chunk's knots that keep the limits, for the joints that broke one.

A curve through the same knots with a lower peak of acceleration may do. Otherwise the targets are
clamped to the position limits and their rate to the velocity limit, then smoothed more and more
until the curve keeps the limits: once the first knots more than the others, once all of them alike.
A scalar reference governor (Gilbert and Kolmanovsky, "Nonlinear tracking control in the presence of
state and control constraints: a generalized reference governor", Automatica 2002) then goes back
from that curve towards the one before it as far as the limits allow; limits are convex, so the
largest step has a closed form. The curve nearer to the knots is taken. Where it ends too far from
the last knot, or there is none, the joint goes to its last knot as fast as the limits allow: a
motion that exists from every state that can be stopped. So it does where that is nearer to the
knots (the policy asks for a step).

Shapes: L knots, J arm joints, C of them (columns); N nodes; S pieces.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from par_ros.control import braking
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.curve_limits import BoolArray, CurveLimits
from par_ros.control.filtered_chunk import Join
from par_ros.control.hermite_curve import CurvePoints, Nodes, control_points
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.knot_spline import SMOOTHINGS, KnotSpline

Columns = npt.NDArray[np.intp]

# A clamped target stays this far inside, so that the curve between targets has room.
_CLAMP_MARGIN_RAD = 0.01
_CLAMP_RATE_SHARE = 0.97
# A peak of acceleration beyond this share of the limit cannot be flattened under it (tried on what
# the shipped policy and a motion planner ask for: below 1.4 nearly all can, above 1.55 none).
_HOPELESS_SHARE = 1.6
# Curves side by side: exact; exact to other targets; their smoothings, fading and even.
_NUM_LEVELS = 2 + 2 * len(SMOOTHINGS)
_FADING = np.arange(2 + len(SMOOTHINGS))
_EVEN = np.array([0, 1, *range(2 + len(SMOOTHINGS), _NUM_LEVELS)])
# A smoothed curve that misses a knot by more than this may be slower than the limits ask for.
_LAG_RAD = 0.02
# Nodes this close in time are the same node, rounded.
_MATCH_S = 1e-9


class ChunkTracker:
    """Tracks chunks of one arm; holds no state between calls."""

    def __init__(self, spec: ArmSpec, limits: CurveLimits, step_s: float) -> None:
        self._spec = spec
        self._limits = limits
        self._step_s = step_s

    def tracked(
        self,
        spline: KnotSpline,
        join: Join,
        wanted: FloatArray,
        exact: Nodes,
        peaks: FloatArray,
        joints: BoolArray,
    ) -> Nodes:
        """`exact` with the columns `joints` [J] replaced by tracked ones.

        The result may still break a limit where nothing keeps it, or be too far from `wanted`.

        Args:
            wanted: [L, J], the knots of `exact`.
            peaks: [J], bounds of its acceleration.
        """
        flat_columns, flat = self._flattened(spline, join, wanted, peaks, joints)
        rest = joints.copy()
        rest[flat_columns] = False
        columns = np.flatnonzero(rest)
        curve = exact
        stepping = columns
        if len(columns):
            states, errors = self._smoothed(spline, join, wanted, exact, columns)
            curve = exact.with_joints(columns, states)
            knots = spline.knots_of(curve)
            is_good = np.isfinite(errors) & ~self.too_far(knots, wanted)[columns]
            lags = np.abs(knots - wanted)[:, columns].max(axis=0) > _LAG_RAD
            doubtful = np.flatnonzero(is_good & lags)
            if len(doubtful):
                moved = self._moved(join, wanted[-1], exact, columns[doubtful])
                gone = (spline.knots_of(moved) - wanted)[:, columns[doubtful]]
                is_good[doubtful] = errors[doubtful] <= _error(gone)
            stepping = columns[~is_good]
        if len(flat_columns):
            curve = spline.refined(curve).with_joints(flat_columns, flat)
        if len(stepping):
            curve = self._moved(join, wanted[-1], curve, stepping)
        return curve

    def too_far(self, knots: FloatArray, wanted: FloatArray) -> BoolArray:
        """Joints [J] that would not arrive, or lag by more than what is still a motion."""
        deviation = np.abs(knots - wanted)
        result: BoolArray = (deviation[-1] > self._spec.max_tracking_deviation_rad) | (
            deviation.max(axis=0) > self._spec.max_jump_rad
        )
        return result

    def _flattened(
        self,
        spline: KnotSpline,
        join: Join,
        wanted: FloatArray,
        peaks: FloatArray,
        joints: BoolArray,
    ) -> tuple[Columns, FloatArray]:
        """Which of `joints` a lower peak of acceleration is enough for; their states [3, N, C]."""
        limit = self._limits.joints.max_acceleration
        columns = np.flatnonzero(joints & (peaks < _HOPELESS_SHARE * limit))
        if len(columns) == 0:
            return columns, np.empty((3, 0, 0))
        flat = spline.flattened(join.start.of_joints(columns), wanted[:, columns], limit[columns])
        limits = self._limits.of_joints(columns)
        good = ~limits.enforced_broken(control_points(flat))
        return columns[good], flat.states[:, :, good]

    def _smoothed(
        self, spline: KnotSpline, join: Join, wanted: FloatArray, exact: Nodes, columns: Columns
    ) -> tuple[FloatArray, FloatArray]:
        """States [3, N, C] of `columns` on a smoothed curve that keeps the limits, and its _error()
        [C]: infinite where there is none.

        Of the least fading and the least even smoothing that do, the one nearer to `wanted`.
        """
        num = len(columns)
        targets = self._reachable_targets(join, wanted, columns)
        ladder = spline.smoothed(join.start.of_joints(columns), targets)
        states = np.concatenate((exact.states[:, :, columns], ladder.states), axis=2)
        curves = Nodes.of_states(ladder.times_s, states)
        points = control_points(curves)
        limits = self._limits.of_joints(columns, _NUM_LEVELS)
        bad = limits.enforced_broken(points).reshape(_NUM_LEVELS, num)
        own = self._limits.of_joints(columns)
        found, errors = [], []
        for levels in (_FADING, _EVEN):
            level = bad[levels].argmin(axis=0)
            safe = levels[level] * num + np.arange(num)
            before = levels[np.maximum(level - 1, 0)] * num + np.arange(num)
            found.append(self._governed(curves, points, before, safe, own))
            error = _error(found[-1][0, 1:] - wanted[:, columns])
            errors.append(np.where(bad[levels].all(axis=0), np.inf, error))
        states = np.where(errors[0] <= errors[1], found[0], found[1])
        return states, np.minimum(*errors)

    def _governed(
        self,
        curves: Nodes,
        points: CurvePoints,
        wanted: Columns,
        safe: Columns,
        limits: CurveLimits,
    ) -> FloatArray:
        """As far from the columns `safe` [C] of `curves` towards `wanted` [C] as limits allow."""
        safe_values, safe_states = points.values[:, :, safe], curves.states[:, :, safe]
        step = points.values[:, :, wanted] - safe_values
        share = limits.largest_share(CurvePoints(safe_values), step)
        better = safe_states + share * (curves.states[:, :, wanted] - safe_states)
        bad = limits.enforced_broken(CurvePoints(safe_values + share * step))
        return np.where(bad, safe_states, better)

    def _reachable_targets(self, join: Join, wanted: FloatArray, columns: Columns) -> FloatArray:
        """`wanted`'s columns [L, C] within the position limits, their rate the velocity limit's."""
        limits = self._limits.of_joints(columns).joints
        clamped = np.clip(
            wanted[:, columns],
            limits.min_position + _CLAMP_MARGIN_RAD,
            limits.max_position - _CLAMP_MARGIN_RAD,
        )
        full_step = limits.max_velocity * self._step_s
        lowest, highest = -_CLAMP_RATE_SHARE * full_step, _CLAMP_RATE_SHARE * full_step
        targets = np.empty_like(clamped)
        before = join.start.positions[columns]
        for knot, target in enumerate(clamped):
            if limits.position_dependent_velocity is not None:
                # As fast as is allowed where a step at full speed would end.
                ahead = before + np.clip(target - before, -full_step, full_step)
                share_s = _CLAMP_RATE_SHARE * self._step_s
                lowest, highest = (share_s * bound for bound in limits.velocity_bounds(ahead))
            before = before + np.minimum(np.maximum(target - before, lowest), highest)
            targets[knot] = before
        return targets

    def _moved(self, join: Join, goal: FloatArray, curve: Nodes, columns: Columns) -> Nodes:
        """The columns go to `goal` [J] as fast as the limits allow; `curve` elsewhere."""
        limits = self._limits.joints.of_joints(columns)
        limits = dataclasses.replace(limits, max_velocity=_CLAMP_RATE_SHARE * limits.max_velocity)
        goal = np.clip(
            goal[columns],
            limits.min_position + _CLAMP_MARGIN_RAD,
            limits.max_position - _CLAMP_MARGIN_RAD,
        )
        start = join.start.of_joints(columns)
        moved = braking.move_towards(start, goal, limits, curve.times_s[1:] - join.time_s)
        times_s = np.concatenate((curve.times_s[:1], moved.times_s + join.time_s))
        # The nodes of `curve` are among them, to the last bit.
        times_s[times_s.searchsorted(curve.times_s - _MATCH_S)] = curve.times_s
        begin = Nodes.at(join.time_s, start)
        return curve.resampled(times_s).with_joints(columns, moved.after(begin).states)


def _error(deviations: FloatArray) -> FloatArray:
    """Sum of squares over the knots, [C] of [L, C]."""
    result: FloatArray = np.square(deviations).sum(axis=0)
    return result
