# SPDX-License-Identifier: Apache-2.0
"""The last look at a trajectory before it is published: what would the arm get?

Shares no code with what plans. It evaluates the points as a controller would, twice a millisecond,
takes finite differences over a millisecond and compares them with the arm's own limits (planning
keeps a share of them). Before the moment of sending the motion before is what the arm gets; up to
the departure both must be the same curve, so that the arm gets the same whenever it takes the new
one; in the end it must stand. Where the arm file has shapes, no links may meet, nor a box of the
scene (collision_check.py).

Times are integer nanoseconds of the guard's timeline. N points, J joints, M samples.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory

if TYPE_CHECKING:
    from par_ros.control.collision_check import CollisionCheck

_SAMPLE_NS = 500_000
# Samples in one period of the differences: 1 ms, as the fastest controllers have.
_STRIDE = 2
_PERIOD_S = _STRIDE * _SAMPLE_NS * 1e-9
_SAMPLES_BEFORE = 3 * _STRIDE
# For collisions a millisecond: at 20 rad/s^2 a curve leaves its chord by 3 microradian.
_COLLISION_STRIDE = 2
# Two curves are the same within this: a nanosecond of a stamp at several rad/s.
_SAME_RAD = 2e-8
# What that, and doubles, make of a third difference.
_SLACK = (1e-9, 1e-4, 0.1, 200.0)
_NAMES = ("position", "velocity", "acceleration", "jerk")
_QUANTITIES = range(1, 4)


@dataclass(frozen=True)
class SentTrajectory:
    """A trajectory and when its times are zero."""

    trajectory: JointTrajectory
    start_ns: int


class OutgoingCheck:
    """Limits of one arm; holds no state."""

    def __init__(self, spec: ArmSpec) -> None:
        limits = spec.limits
        self._has_shapes = spec.collision is not None
        self._collisions = _collision_check(spec)
        self._names = spec.arm_joint_names
        self._limits = limits
        self._bounds = [
            None,
            limits.max_velocity + _SLACK[1],
            limits.max_acceleration + _SLACK[2] if spec.acceleration_check == "enforce" else None,
            limits.max_jerk + _SLACK[3] if spec.jerk_check == "enforce" else None,
        ]

    @property
    def collisions(self) -> str:
        """Whether collisions are looked at, for status messages."""
        if self._collisions is None:
            if self._has_shapes:
                return "off: the arm file's section collision is not enabled"
            return "off: the arm file has no section collision"
        return self._collisions.description

    def why_not(
        self,
        new: SentTrajectory,
        before: SentTrajectory,
        sent_ns: int,
        departs_ns: int,
        *,
        is_stop: bool = False,
    ) -> str:
        """Why `new` must not be sent at `sent_ns` while `before` runs; empty where it may be.

        is_stop: of a stop no collisions are looked at: the arm must come to rest in any case.
        """
        end_ns = new.start_ns + round(float(new.trajectory.times_s[-1]) * 1e9)
        if end_ns <= departs_ns and departs_ns > sent_ns:
            return "it ends before it may be taken"
        num_samples = (end_ns - sent_ns) // _SAMPLE_NS + 2 * _STRIDE
        times_ns = sent_ns + _SAMPLE_NS * np.arange(num_samples, dtype=np.int64)
        earlier_ns = sent_ns + _SAMPLE_NS * np.arange(-_SAMPLES_BEFORE, 0, dtype=np.int64)
        if np.any(np.diff(np.rint(new.trajectory.times_s * 1e9)) <= 0.0):
            return "two of its points have the same time"
        curve, running = _Curve(new), _Curve(before)
        # Before its first point `before` did not run: nothing is known of what did.
        earlier_ns = earlier_ns[earlier_ns >= running.begin_ns]
        after = curve.positions(times_ns)
        if not np.isfinite(after).all():
            return "a position is not finite"
        num_common = int((departs_ns - sent_ns) // _SAMPLE_NS) + 1
        apart = np.abs(after[:, :num_common] - running.positions(times_ns[:num_common])).max(axis=1)
        if np.any(apart > _SAME_RAD):
            joint = int(np.argmax(apart))
            return f"{self._names[joint]} leaves the running motion by {apart[joint]:.3g} rad"
        if not curve.ends_at_rest:
            return "it does not end at rest"
        beyond = self._beyond(np.concatenate((running.positions(earlier_ns), after), axis=1))
        if beyond or is_stop or self._collisions is None:
            return beyond
        return self._collisions.why_not(after[:, ::_COLLISION_STRIDE].T)

    def _beyond(self, positions: FloatArray) -> str:
        """The first limit that `positions` [J, M], twice a millisecond, do not keep."""
        limits = self._limits
        lowest, highest = positions.min(axis=1), positions.max(axis=1)
        out = np.maximum(limits.min_position - lowest, highest - limits.max_position)
        if np.any(out > _SLACK[0]):
            joint = int(np.argmax(out))
            return f"{self._names[joint]} goes {out[joint]:.3g} rad beyond its position limit"
        rates = positions
        for quantity in _QUANTITIES:
            rates = rates[:, _STRIDE:] - rates[:, :-_STRIDE]
            rates /= _PERIOD_S
            if quantity == 1 and limits.position_dependent_velocity is not None:
                fast = self._too_fast(positions[:, 1:-1].T, rates.T)
                if fast:
                    return fast
            bound = self._bounds[quantity]
            if bound is None:
                continue
            largest = np.maximum(rates.max(axis=1), -rates.min(axis=1))
            if np.any(largest > bound):
                joint = int(np.argmax(largest / bound))
                share = largest[joint] / bound[joint]
                return f"{self._names[joint]} has {share:.3f} times its {_NAMES[quantity]} limit"
        return ""

    def _too_fast(self, positions: FloatArray, velocities: FloatArray) -> str:
        """Whether a velocity [M, J] is beyond what is allowed at its position [M, J]."""
        lowest, highest = self._limits.velocity_bounds(positions)
        over = np.maximum(lowest - velocities, velocities - highest).max(axis=0)
        if not np.any(over > _SLACK[1]):
            return ""
        joint = int(np.argmax(over))
        return f"{self._names[joint]} is {over[joint]:.3g} rad/s too fast for where it is"


def _collision_check(spec: ArmSpec) -> "CollisionCheck | None":
    """pinocchio is loaded only for arms that have shapes."""
    if spec.collision is None or not spec.collision.enabled:
        return None
    from par_ros.control.collision_check import CollisionCheck

    return CollisionCheck(spec.collision, spec.arm_joint_names, spec.home)


class _Curve:
    """Quintics between points, each on [0, 1]."""

    def __init__(self, sent: SentTrajectory) -> None:
        trajectory = sent.trajectory
        assert trajectory.velocities is not None
        assert trajectory.accelerations is not None
        p, v, a = trajectory.positions, trajectory.velocities, trajectory.accelerations
        times_ns = sent.start_ns + np.round(trajectory.times_s * 1e9).astype(np.int64)
        self._times_ns = times_ns
        self.begin_ns = int(times_ns[0])
        self._first = p[0]
        self.ends_at_rest = not (v[-1].any() or a[-1].any())
        if len(times_ns) == 1:
            return
        self._lengths_ns = np.diff(times_ns).astype(np.float64)
        h = self._lengths_ns[:, None] * 1e-9
        way = p[1:] - p[:-1]
        v0, v1, a0, a1 = v[:-1] * h, v[1:] * h, a[:-1] * h * h, a[1:] * h * h
        # Each [J, N]: a joint's coefficients lie side by side, so a sample costs little.
        self._powers = [
            np.ascontiguousarray(power.T)
            for power in (
                p[:-1],
                v0,
                a0 / 2,
                10 * way - 6 * v0 - 4 * v1 - 1.5 * a0 + 0.5 * a1,
                -15 * way + 8 * v0 + 7 * v1 + 1.5 * a0 - a1,
                6 * way - 3 * (v0 + v1) - 0.5 * (a0 - a1),
            )
        ]

    def positions(self, times_ns: "np.typing.NDArray[np.int64]") -> FloatArray:
        """Positions [J, M]; the first point's before it, the last one's after it."""
        if len(self._times_ns) == 1:
            return np.repeat(self._first[:, None], len(times_ns), axis=1)
        piece = self._times_ns.searchsorted(times_ns, side="right") - 1
        piece = piece.clip(0, len(self._lengths_ns) - 1)
        share = (times_ns - self._times_ns[piece]) / self._lengths_ns[piece]
        share = share.clip(0.0, 1.0)
        powers = self._powers
        result: FloatArray = powers[5].take(piece, axis=1)
        for power in (4, 3, 2, 1, 0):
            result *= share
            result += powers[power].take(piece, axis=1)
        return result
