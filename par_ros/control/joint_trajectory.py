# SPDX-License-Identifier: Apache-2.0
"""A joint trajectory and its curve, sampled as ros2_control's joint_trajectory_controller does.

Shapes: N points, J joints. Units: seconds from the trajectory's start, rad (gripper: m) and its
derivatives. Degree of each segment, as in the controller (joint_trajectory_controller,
trajectory.cpp, interpolate_between_points): positions only: linear; with velocities: cubic; with
accelerations too: quintic.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class MotionState:
    """What is commanded at one moment: positions, velocities, accelerations, float64 [J] each."""

    positions: FloatArray
    velocities: FloatArray
    accelerations: FloatArray

    @staticmethod
    def at_rest(positions: FloatArray) -> "MotionState":
        """The state that stands still at `positions` [J]."""
        zeros = np.zeros_like(positions)
        return MotionState(positions.copy(), zeros, zeros)

    def of_joints(self, columns: npt.NDArray[np.intp]) -> "MotionState":
        """The state of some of the joints."""
        return MotionState(
            self.positions[columns], self.velocities[columns], self.accelerations[columns]
        )


@dataclass(frozen=True)
class MotionSamples:
    """A curve at M moments: positions, velocities, accelerations, jerks, float64 [M, J] each."""

    positions: FloatArray
    velocities: FloatArray
    accelerations: FloatArray
    jerks: FloatArray


@dataclass(frozen=True)
class JointTrajectory:
    """N points after a start, as they travel in a trajectory_msgs/JointTrajectory.

    Attributes:
        joint_names: the J joints, in the order of the columns.
        times_s: float64 [N], seconds from the start, strictly increasing.
        positions: float64 [N, J].
        velocities, accelerations: float64 [N, J], or None where the message has none.
    """

    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray
    velocities: FloatArray | None = None
    accelerations: FloatArray | None = None

    @property
    def duration_s(self) -> float:
        """Time of the last point."""
        return float(self.times_s[-1])

    def validate(self, joint_names: tuple[str, ...]) -> None:
        """Raise ValueError where the controller would reject this trajectory for `joint_names`."""
        _require_names(self.joint_names, joint_names)
        _require_shapes(self)
        for name, values in self._arrays():
            if not np.all(np.isfinite(values)):
                raise ValueError(
                    f"trajectory {name} must be finite, got NaN or Inf; check the sender."
                )
        if self.times_s[0] < 0.0 or np.any(np.diff(self.times_s) <= 0.0):
            raise ValueError(
                "trajectory times must be strictly increasing and not negative, got "
                f"{self.times_s.tolist()}; check the sender's time_from_start."
            )
        if self.velocities is not None and np.any(np.abs(self.velocities[-1]) > 1e-6):
            raise ValueError(
                "a trajectory must end at rest, got last velocities "
                f"{self.velocities[-1].tolist()}; the sender must add a braking tail."
            )

    def reordered(self, joint_names: tuple[str, ...]) -> "JointTrajectory":
        """The same trajectory with its columns in the order of `joint_names`."""
        if self.joint_names == joint_names:
            return self
        _require_names(self.joint_names, joint_names)
        columns = [self.joint_names.index(name) for name in joint_names]
        return JointTrajectory(
            joint_names,
            self.times_s,
            self.positions[:, columns],
            None if self.velocities is None else self.velocities[:, columns],
            None if self.accelerations is None else self.accelerations[:, columns],
        )

    def _arrays(self) -> list[tuple[str, FloatArray]]:
        arrays = [("times", self.times_s), ("positions", self.positions)]
        if self.velocities is not None:
            arrays.append(("velocities", self.velocities))
        if self.accelerations is not None:
            arrays.append(("accelerations", self.accelerations))
        return arrays


class Motion:
    """The curve through a state and the points ahead of it; at rest after the last point.

    A state given for `start_time_s` leads to the first point where that point lies ahead. Where it
    does not, the curve is the one between the points alone and the state is dropped, as the
    controller drops it. Times are seconds on the trajectory's own axis: a point with
    time_from_start t is met exactly at t. Before its first moment the curve is its first state.
    """

    def __init__(
        self,
        trajectory: JointTrajectory,
        start: MotionState | None = None,
        start_time_s: float = 0.0,
    ) -> None:
        self.joint_names = trajectory.joint_names
        leads = start is not None and start_time_s < trajectory.times_s[0]
        leading_time = np.array([start_time_s] if leads else [])
        self.times_s = np.concatenate((leading_time, trajectory.times_s))
        self._coefficients = _coefficients(
            trajectory, start if leads else None, np.diff(self.times_s)
        )
        self._last_positions: FloatArray = trajectory.positions[-1]

    @staticmethod
    def standing(joint_names: tuple[str, ...], positions: FloatArray) -> "Motion":
        """A motion that stands still at `positions` [J]."""
        trajectory = JointTrajectory(joint_names, np.array([1e-3]), positions[None].copy())
        return Motion(trajectory, MotionState.at_rest(positions))

    @property
    def final_positions(self) -> FloatArray:
        """Where the motion comes to rest, float64 [J]."""
        return self._last_positions

    def state_at(self, time_s: float) -> MotionState:
        """The state at one time; after the end, the last position at rest."""
        if time_s >= self.times_s[-1] or len(self.times_s) == 1:
            return MotionState.at_rest(self._last_positions)
        segment = max(int(self.times_s.searchsorted(time_s, side="right")) - 1, 0)
        tau = max(time_s - self.times_s[segment], 0.0)
        samples = evaluate_quintics(self._coefficients[segment], tau)
        return MotionState(samples.positions, samples.velocities, samples.accelerations)

    def positions_at(self, times_s: FloatArray) -> FloatArray:
        """The positions of sample(), to the last bit, float64 [M, J]."""
        if len(self.times_s) == 1:
            return np.tile(self._last_positions, (len(times_s), 1))
        segment, ended, tau = self._segments(times_s)
        positions = _positions(self._coefficients[segment], tau)
        positions[ended] = self._last_positions
        return positions

    def sample(self, times_s: FloatArray) -> MotionSamples:
        """The curve at `times_s` [M]; a point's own time gives exactly that point."""
        if len(self.times_s) == 1:
            return _standing_samples(self._last_positions, len(times_s))
        segment, ended, tau = self._segments(times_s)
        samples = evaluate_quintics(self._coefficients[segment], tau)
        if np.any(ended):
            samples.positions[ended] = self._last_positions
            samples.velocities[ended] = 0.0
            samples.accelerations[ended] = 0.0
            samples.jerks[ended] = 0.0
        return samples

    def _segments(
        self, times_s: FloatArray
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_], FloatArray]:
        """Each time's segment, whether it lies after the end, and seconds from its start [M, 1]."""
        segment = self.times_s.searchsorted(times_s, side="right") - 1
        num_segments = len(self.times_s) - 1
        ended = segment >= num_segments
        segment = np.minimum(np.maximum(segment, 0), num_segments - 1)
        return segment, ended, np.maximum(times_s - self.times_s[segment], 0.0)[:, None]


def evaluate_quintics(coefficients: FloatArray, tau: FloatArray | float) -> MotionSamples:
    """Polynomials `coefficients` [..., 6, J] at `tau` [..., 1] s from each segment's start."""
    c1, c2, c3, c4, c5 = (coefficients[..., k, :] for k in range(1, 6))
    positions = _positions(coefficients, tau)
    velocities = c1 + tau * (2 * c2 + tau * (3 * c3 + tau * (4 * c4 + tau * 5 * c5)))
    accelerations = 2 * c2 + tau * (6 * c3 + tau * (12 * c4 + tau * 20 * c5))
    jerks = 6 * c3 + tau * (24 * c4 + tau * 60 * c5)
    return MotionSamples(positions, velocities, accelerations, jerks)


def _positions(coefficients: FloatArray, tau: FloatArray | float) -> FloatArray:
    """The polynomials' own values."""
    c0, c1, c2, c3, c4, c5 = (coefficients[..., k, :] for k in range(6))
    positions: FloatArray = c0 + tau * (c1 + tau * (c2 + tau * (c3 + tau * (c4 + tau * c5))))
    return positions


def quintic_coefficients(
    start: tuple[FloatArray, FloatArray, FloatArray],
    end: tuple[FloatArray, FloatArray, FloatArray],
    duration_s: FloatArray,
) -> FloatArray:
    """Coefficients [S, 6, J] of the quintics between two states; inputs [S, J], duration [S]."""
    duration = duration_s[:, None]
    p0, v0, a0 = start
    p1, v1, a1 = end
    # Residuals at the end of the parabola that the start state continues.
    position = p1 - p0 - v0 * duration - 0.5 * a0 * duration**2
    velocity = (v1 - v0 - a0 * duration) * duration
    acceleration = (a1 - a0) * duration**2
    return np.stack(
        [
            p0,
            v0,
            0.5 * a0,
            (10 * position - 4 * velocity + 0.5 * acceleration) / duration**3,
            (-15 * position + 7 * velocity - acceleration) / duration**4,
            (6 * position - 3 * velocity + 0.5 * acceleration) / duration**5,
        ],
        axis=1,
    )


def cubic_coefficients(
    start: tuple[FloatArray, FloatArray], end: tuple[FloatArray, FloatArray], duration_s: FloatArray
) -> FloatArray:
    """Coefficients [S, 6, J] (the last two are zero) of the cubics between two states."""
    duration = duration_s[:, None]
    p0, v0 = start
    p1, v1 = end
    second = (3 * (p1 - p0) / duration - 2 * v0 - v1) / duration
    third = (-2 * (p1 - p0) / duration + v0 + v1) / duration**2
    zeros = np.zeros_like(p0)
    return np.stack([p0, v0, second, third, zeros, zeros], axis=1)


def _coefficients(
    trajectory: JointTrajectory, start: MotionState | None, duration_s: FloatArray
) -> FloatArray:
    """One polynomial [6, J] for each segment; `start`, if any, comes before the first point."""
    positions = _led(trajectory.positions, None if start is None else start.positions)
    if trajectory.velocities is None:
        slope = np.diff(positions, axis=0) / duration_s[:, None]
        zeros = np.zeros_like(slope)
        return np.stack([positions[:-1], slope, zeros, zeros, zeros, zeros], axis=1)
    velocities = _led(trajectory.velocities, None if start is None else start.velocities)
    if trajectory.accelerations is None:
        return cubic_coefficients(
            (positions[:-1], velocities[:-1]), (positions[1:], velocities[1:]), duration_s
        )
    accelerations = _led(trajectory.accelerations, None if start is None else start.accelerations)
    return quintic_coefficients(
        (positions[:-1], velocities[:-1], accelerations[:-1]),
        (positions[1:], velocities[1:], accelerations[1:]),
        duration_s,
    )


def _led(rows: FloatArray, first: FloatArray | None) -> FloatArray:
    return rows if first is None else np.concatenate((first[None], rows))


def _standing_samples(positions: FloatArray, num_samples: int) -> MotionSamples:
    zeros = np.zeros((num_samples, len(positions)))
    return MotionSamples(np.tile(positions, (num_samples, 1)), zeros, zeros.copy(), zeros.copy())


def _require_names(got: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if sorted(got) != sorted(expected):
        raise ValueError(
            f"trajectory joints must be {list(expected)}, got {list(got)}; check the arm file and "
            "the controller's joints."
        )


def _require_shapes(trajectory: JointTrajectory) -> None:
    num_points, num_joints = len(trajectory.times_s), len(trajectory.joint_names)
    if num_points == 0:
        raise ValueError("a trajectory needs at least one point, got none; check the sender.")
    if trajectory.accelerations is not None and trajectory.velocities is None:
        raise ValueError("a trajectory with accelerations needs velocities too; check the sender.")
    for name, values in trajectory._arrays()[1:]:
        if values.shape != (num_points, num_joints):
            raise ValueError(
                f"trajectory {name} must have shape {(num_points, num_joints)}, got "
                f"{values.shape}; check the sender's points."
            )
