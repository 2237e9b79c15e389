# SPDX-License-Identifier: Apache-2.0
"""The curve that joint_trajectory_controller makes of a trajectory; the judge's own.

Degree by what the points have: positions: linear; velocities too: cubic; accelerations too:
quintic. Up to a first point that is ahead, it leads there from the state before it. Times are
integer nanoseconds; J joints.
"""

import numpy as np

from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.proof.hostile_clock import NANOSECONDS, IntArray

State = tuple[FloatArray, FloatArray, FloatArray]


class Curve:
    """A trajectory on absolute time, with the state before it once it was sampled."""

    def __init__(self, trajectory: JointTrajectory, start_ns: int) -> None:
        offsets_ns = np.rint(trajectory.times_s * NANOSECONDS).astype(np.int64)
        self.times_ns: IntArray = start_ns + offsets_ns
        self.final = trajectory.positions[-1]
        self._rows = (trajectory.positions, trajectory.velocities, trajectory.accelerations)
        self.before_ns: int | None = None
        self._lead: FloatArray | None = None
        self._segments = _polynomials(self._rows, np.diff(self.times_ns) / NANOSECONDS)

    @property
    def first_ns(self) -> int:
        """Time of its first point."""
        return int(self.times_ns[0])

    @property
    def end_ns(self) -> int:
        """Time of its last point."""
        return int(self.times_ns[-1])

    @property
    def samples_from_ns(self) -> int:
        """The first moment with a sample."""
        if self._lead is None or self.before_ns is None:
            return self.first_ns
        return self.before_ns

    def begin_from(self, before_ns: int, before: State) -> None:
        """The state that leads to a first point that is ahead."""
        self.before_ns = before_ns
        if before_ns >= self.first_ns:
            return
        rows = tuple(
            None if row is None else np.stack((state, row[0]))
            for row, state in zip(self._rows, before, strict=True)
        )
        duration_s = np.array([(self.first_ns - before_ns) / NANOSECONDS])
        self._lead = _polynomials(rows, duration_s)

    def is_before(self, at_ns: int) -> bool:
        """Whether there is no sample yet."""
        return self.before_ns is not None and at_ns < self.before_ns

    def positions(self, at_ns: IntArray) -> FloatArray:
        """The curve at increasing times [M, J]."""
        segment = self.times_ns.searchsorted(at_ns, side="right") - 1
        inside = np.minimum(np.maximum(segment, 0), max(len(self.times_ns) - 2, 0))
        if len(self._segments):
            tau_s = ((at_ns - self.times_ns[inside]) / NANOSECONDS)[:, None]
            values = _horner(self._segments[inside], tau_s)
        else:
            values = np.empty((len(at_ns), len(self.final)))
        values[segment >= len(self.times_ns) - 1] = self.final
        ahead = segment < 0
        if ahead.any():
            values[ahead] = self._leading(at_ns[ahead])
        return values

    def state(self, at_ns: int) -> State | None:
        """Positions, velocities and accelerations at one time; None: no sample yet."""
        if self.is_before(at_ns):
            return None
        zeros = np.zeros(len(self.final))
        if at_ns >= self.end_ns:
            return self.final, zeros, zeros
        if at_ns < self.first_ns:
            if self._lead is None or self.before_ns is None:
                return self._rows[0][0], zeros, zeros
            return _state(self._lead[0], (at_ns - self.before_ns) / NANOSECONDS)
        segment = int(self.times_ns.searchsorted(at_ns, side="right")) - 1
        tau_s = (at_ns - int(self.times_ns[segment])) / NANOSECONDS
        return _state(self._segments[segment], tau_s)

    def _leading(self, at_ns: IntArray) -> FloatArray:
        if self._lead is None or self.before_ns is None:
            return np.full((len(at_ns), len(self.final)), np.nan)
        return _horner(self._lead[0], ((at_ns - self.before_ns) / NANOSECONDS)[:, None])


def standing(positions: FloatArray) -> Curve:
    """One point that is over: the controller's own hold."""
    return Curve(JointTrajectory((), np.zeros(1), positions[None]), 0)


def _polynomials(
    rows: tuple[FloatArray, FloatArray | None, FloatArray | None], durations_s: FloatArray
) -> FloatArray:
    """Coefficients [S, 6, J] of the curves between successive rows; degree by what rows there are.

    Found by solving for the end conditions of each segment, on [0, 1].
    """
    positions, velocities, accelerations = rows
    zeros = np.zeros_like(positions)
    span = durations_s[:, None]
    p0, p1 = positions[:-1], positions[1:]
    if velocities is None:
        units = np.stack((p0, p1 - p0, *(zeros[:-1],) * 4), axis=1)
    elif accelerations is None:
        v0, v1 = velocities[:-1] * span, velocities[1:] * span
        units = np.stack(
            (p0, v0, 3 * (p1 - p0) - 2 * v0 - v1, 2 * (p0 - p1) + v0 + v1, *(zeros[:-1],) * 2),
            axis=1,
        )
    else:
        ends = np.stack(
            (
                p1 - p0 - velocities[:-1] * span - accelerations[:-1] * span**2 / 2,
                (velocities[1:] - velocities[:-1]) * span - accelerations[:-1] * span**2,
                (accelerations[1:] - accelerations[:-1]) * span**2,
            ),
            axis=1,
        )
        high = np.einsum("ab,sbj->saj", _END_CONDITIONS, ends)
        low = np.stack((p0, velocities[:-1] * span, accelerations[:-1] * span**2 / 2), axis=1)
        units = np.concatenate((low, high), axis=1)
    powers: FloatArray = durations_s[:, None] ** -np.arange(6.0)
    coefficients: FloatArray = units * powers[:, :, None]
    return coefficients


# u^3, u^4, u^5 and their first two derivatives at u = 1, solved for the coefficients.
_END_CONDITIONS: FloatArray = np.linalg.inv(
    np.array([[1.0, 1.0, 1.0], [3.0, 4.0, 5.0], [6.0, 12.0, 20.0]])
)


def _horner(coefficients: FloatArray, tau_s: FloatArray) -> FloatArray:
    """Polynomials [..., 6, J] at times [M, 1]."""
    value = coefficients[..., 5, :] * tau_s
    for power in (4, 3, 2, 1):
        value = (value + coefficients[..., power, :]) * tau_s
    total: FloatArray = value + coefficients[..., 0, :]
    return total


def _state(c: FloatArray, tau_s: float) -> State:
    """Position, velocity and acceleration of one polynomial [6, J]."""
    position = _horner(c, np.array([[tau_s]]))[0]
    slope = np.arange(1, 6)[:, None] * c[1:]
    bend = np.arange(1, 5)[:, None] * slope[1:]
    powers = tau_s ** np.arange(5.0)
    return position, powers @ slope, powers[:4] @ bend
