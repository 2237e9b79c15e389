# SPDX-License-Identifier: Apache-2.0
"""Quintic pieces between joint states, as control points: bounds of a curve that hold everywhere.

A polynomial on an interval lies within the hull of its Bernstein control points (Farin, Curves and
Surfaces for CAGD, section 5). Position, velocity, acceleration and jerk of a quintic between two
states are linear in those states, and so are their control points; comparing control points with a
limit therefore proves the limit for every moment, not for samples only. Each piece is split in
four, which keeps the hull close to the curve.

Shapes: N nodes, S = N - 1 pieces, J joints.
"""

from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
import numpy.typing as npt

from par_ros.control.joint_trajectory import FloatArray, MotionState, quintic_coefficients

_DEGREE = 5
NUM_SPLITS = 4
# Moments of each piece, from its start to its end, at which the curve itself is evaluated too.
_NUM_TRIALS = 9

# Control points of position, velocity, acceleration and jerk of one split.
SPLIT_SIZES = tuple(_DEGREE + 1 - order for order in range(4))
_HULL_SIZES = tuple(NUM_SPLITS * size for size in SPLIT_SIZES)
# Rows of CurvePoints, and where each quantity's begin: its control points, then its trials.
SECTION_SIZES = (*(size + _NUM_TRIALS for size in _HULL_SIZES[:3]), _HULL_SIZES[3])
SECTIONS = tuple(sum(SECTION_SIZES[:order]) for order in range(4))


class Nodes:
    """States at N moments. Nothing changes them once they are made.

    Attributes:
        times_s: float64 [N].
        states: float64 [3, N, J]: positions, velocities, accelerations.
    """

    __slots__ = ("states", "times_s")

    def __init__(
        self,
        times_s: FloatArray,
        positions: FloatArray,
        velocities: FloatArray,
        accelerations: FloatArray,
    ) -> None:
        self.times_s = times_s
        self.states: FloatArray = np.stack((positions, velocities, accelerations))

    @classmethod
    def of_states(cls, times_s: FloatArray, states: FloatArray) -> "Nodes":
        """Nodes from one array [3, N, J], which they keep."""
        nodes = cls.__new__(cls)
        nodes.times_s = times_s
        nodes.states = states
        return nodes

    @classmethod
    def through(cls, times_s: FloatArray, states: list[MotionState]) -> "Nodes":
        """The N `states`, one at each of `times_s` [N]."""
        rows = [(state.positions, state.velocities, state.accelerations) for state in states]
        return cls.of_states(times_s, np.array(rows).swapaxes(0, 1).copy())

    @classmethod
    def at(cls, time_s: float, state: MotionState) -> "Nodes":
        """One node."""
        return cls.through(np.array([time_s]), [state])

    @property
    def positions(self) -> FloatArray:
        """float64 [N, J]."""
        positions: FloatArray = self.states[0]
        return positions

    @property
    def velocities(self) -> FloatArray:
        """float64 [N, J]."""
        velocities: FloatArray = self.states[1]
        return velocities

    @property
    def accelerations(self) -> FloatArray:
        """float64 [N, J]."""
        accelerations: FloatArray = self.states[2]
        return accelerations

    @property
    def last_state(self) -> MotionState:
        """The state at the last moment."""
        return MotionState(*self.states[:, -1])

    def after(self, other: "Nodes") -> "Nodes":
        """`other`, then this."""
        return Nodes.of_states(
            np.concatenate((other.times_s, self.times_s)),
            np.concatenate((other.states, self.states), axis=1),
        )

    def shifted(self, offset_s: float) -> "Nodes":
        """The same states `offset_s` later."""
        return Nodes.of_states(self.times_s + offset_s, self.states)

    def resting_until(self, end_s: float) -> "Nodes":
        """The same nodes, and one more at rest at `end_s` where they end before.

        A microsecond before does not count: in a message, whose times are whole nanoseconds, both
        could have one time, and a controller rejects that.
        """
        if self.times_s[-1] >= end_s - 1e-6:
            return self
        return Nodes.at(end_s, MotionState.at_rest(self.positions[-1])).after(self)

    def pick(self, chosen: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "Nodes":
        """Some of the nodes."""
        return Nodes.of_states(self.times_s[chosen], self.states[:, chosen])

    def of_joints(self, columns: npt.NDArray[np.intp]) -> "Nodes":
        """The states of some of the joints."""
        return Nodes.of_states(self.times_s, self.states[:, :, columns])

    def with_joints(self, columns: npt.NDArray[np.intp], states: FloatArray) -> "Nodes":
        """The same nodes with other states [3, N, columns] of some of the joints."""
        changed = self.states.copy()
        changed[:, :, columns] = states
        return Nodes.of_states(self.times_s, changed)

    def resampled(self, times_s: FloatArray) -> "Nodes":
        """The same curve with more nodes: `times_s` holds the old ones, which keep every bit."""
        return Resampling(self.times_s, times_s).of(self)


@dataclass(frozen=True)
class CurvePoints:
    """A curve's control points, and the curve itself at nine moments of each piece.

    Attributes:
        values: float64 [99, S, J]: those of position first, then velocity's, acceleration's and
            jerk's (SECTIONS has where each begins); in each the splits' control points one after
            the other, then the trials (jerk has none).
    """

    values: FloatArray

    @property
    def accelerations(self) -> FloatArray:
        """Those of the acceleration, [C, S, J]."""
        return self.values[SECTIONS[2] : SECTIONS[3]]

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Position, velocity, acceleration and jerk, [C, S, J] each, in this order."""
        position, velocity, acceleration, jerk = np.split(self.values, SECTIONS[1:])
        return position, velocity, acceleration, jerk

    def extremes(self) -> tuple[FloatArray, FloatArray]:
        """The lowest position [J]; the highest and the largest speed, acceleration, jerk [4, J]."""
        positions, others = self.values[: SECTIONS[1]], np.abs(self.values[SECTIONS[1] :])
        begin = SECTIONS[2] - SECTIONS[1], SECTIONS[3] - SECTIONS[1]
        highest = np.empty((4, *self.values.shape[1:]))
        np.maximum.reduce(positions, out=highest[0])
        np.maximum.reduce(others[: begin[0]], out=highest[1])
        np.maximum.reduce(others[begin[0] : begin[1]], out=highest[2])
        np.maximum.reduce(others[begin[1] :], out=highest[3])
        lowest: FloatArray = np.minimum.reduce(np.minimum.reduce(positions))
        return lowest, np.maximum.reduce(highest, axis=1)

    def trials(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Positions, velocities and accelerations of the curve itself, [9, S, J] each.

        The ends of each piece are the first and the last.
        """
        position, velocity, acceleration = (
            self.values[begin + size : begin + size + _NUM_TRIALS]
            for begin, size in zip(SECTIONS[:3], _HULL_SIZES[:3], strict=True)
        )
        return position, velocity, acceleration

    def split_hulls(self, order: int) -> FloatArray:
        """Control points of one derivative, split by split, [NUM_SPLITS, C, S, J]."""
        rows = self.values[SECTIONS[order] : SECTIONS[order] + _HULL_SIZES[order]]
        hulls: FloatArray = rows.reshape(NUM_SPLITS, -1, *rows.shape[1:])
        return hulls


class Pieces:
    """The S quintics between N nodes.

    A quintic and its derivatives are linear in the five numbers by which its ends differ from
    standing at its start, scaled by its duration; all that is asked of it is one matrix each.
    """

    def __init__(self, nodes: Nodes) -> None:
        before, behind = nodes.states[:, :-1], nodes.states[:, 1:]
        duration_s = nodes.times_s[1:] - nodes.times_s[:-1]
        scale = np.empty((2, len(duration_s), 1))
        scale[0, :, 0] = duration_s
        scale[1, :, 0] = duration_s * duration_s
        self._begin = before[0]
        self._rate = (1.0 / duration_s)[:, None]
        # From the piece's own start: differences of large positions would cost digits.
        self._rows = np.empty((5, *self._begin.shape))
        np.multiply(before[1:], scale, out=self._rows[:2])
        np.subtract(behind[0], before[0], out=self._rows[2])
        np.multiply(behind[1:], scale, out=self._rows[3:])

    def points(self) -> CurvePoints:
        """Control points of position, velocity, acceleration and jerk, everywhere; and trials."""
        values = self._times(_CURVE_MATRIX)
        square = self._rate * self._rate
        values[: SECTIONS[1]] += self._begin
        values[SECTIONS[1] : SECTIONS[2]] *= self._rate
        values[SECTIONS[2] : SECTIONS[3]] *= square
        values[SECTIONS[3] :] *= square * self._rate
        return CurvePoints(values)

    def accelerations(self) -> FloatArray:
        """The control points of the acceleration alone, [16, S, J]."""
        values = self._times(_ACCELERATION_MATRIX)
        values *= self._rate * self._rate
        return values

    def states(self, num_each: int) -> FloatArray:
        """States [3, S num_each, J] at equal distances from each piece's start, that included."""
        piece = np.arange(len(self._rate)).repeat(num_each)
        shares = np.tile(np.arange(num_each) / num_each, len(self._rate))
        return self.states_at(piece, _share_matrix(shares))

    def states_at(self, piece: npt.NDArray[np.intp], matrix: FloatArray) -> FloatArray:
        """States [3, M, J] on M pieces; matrix: _share_matrix() of how far on it each lies."""
        rows = self._rows[:, piece].swapaxes(0, 1)
        states: FloatArray = (matrix @ rows).swapaxes(0, 1).copy()
        rate = self._rate[piece]
        states[0] += self._begin[piece]
        states[1] *= rate
        states[2] *= rate * rate
        return states

    def _times(self, matrix: FloatArray) -> FloatArray:
        values = matrix @ self._rows.reshape(5, -1)
        result: FloatArray = values.reshape(len(matrix), *self._begin.shape)
        return result


class Resampling:
    """More nodes of curves that have their nodes at `before_s`: at `times_s`, which holds those."""

    def __init__(self, before_s: FloatArray, times_s: FloatArray) -> None:
        self._times_s = times_s
        self._piece = (
            np.minimum(before_s.searchsorted(times_s, side="right"), len(before_s) - 1) - 1
        )
        begin_s = before_s[self._piece]
        self._matrix = _share_matrix((times_s - begin_s) / (before_s[self._piece + 1] - begin_s))
        self._kept = times_s.searchsorted(before_s)

    def of(self, nodes: Nodes) -> Nodes:
        """The same curve as `nodes`, which keep every bit."""
        states = Pieces(nodes).states_at(self._piece, self._matrix)
        states[:, self._kept] = nodes.states
        return Nodes.of_states(self._times_s, states)


def control_points(nodes: Nodes) -> CurvePoints:
    """Control points of the S = N - 1 quintics between N states."""
    return Pieces(nodes).points()


def bernstein_coefficients() -> FloatArray:
    """[6, 6]: coefficients of a quintic of length 1 from its position, velocity and acceleration
    at its start, then at its end.
    """
    unit = np.eye(6)[:, None]
    powers = quintic_coefficients(
        (unit[0], unit[1], unit[2]), (unit[3], unit[4], unit[5]), np.ones(1)
    )
    coefficients: FloatArray = _bernstein_from_powers() @ powers[0]
    return coefficients


def gram_matrix(degree: int) -> FloatArray:
    """Integrals over [0, 1] of the products of Bernstein polynomials, [degree + 1, degree + 1]."""
    return np.array(
        [
            [
                comb(degree, i) * comb(degree, j) / comb(2 * degree, i + j) / (2 * degree + 1)
                for j in range(degree + 1)
            ]
            for i in range(degree + 1)
        ]
    )


def _bernstein_from_powers() -> FloatArray:
    """[6, 6]: Bernstein coefficients on [0, 1] from those of 1, t, ..., t^5."""
    return np.array(
        [[comb(i, k) / comb(_DEGREE, k) for k in range(_DEGREE + 1)] for i in range(_DEGREE + 1)]
    )


@cache
def _powers_from_rows() -> FloatArray:
    """[6, 5]: coefficients of 1, t, ..., t^5 of a piece of length 1, from what its ends differ by.

    Start velocity, start acceleration, way, end velocity, end acceleration; the start is 0.
    """
    zero, one = np.zeros((1, 5)), np.eye(5)[:, None]
    powers = quintic_coefficients((zero, one[0], one[1]), (one[2], one[3], one[4]), np.ones(1))
    matrix: FloatArray = powers[0]
    return matrix


def _share_matrix(shares: FloatArray) -> FloatArray:
    """[M, 3, 5]: value and derivatives at `shares` [M] of a piece of length 1, from its rows."""
    powers = shares[:, None] ** np.arange(_DEGREE + 1)
    matrix = np.empty((len(shares), 3, 5))
    factors = np.ones(_DEGREE + 1)
    for order in range(3):
        weights = powers[:, : _DEGREE + 1 - order] * factors
        matrix[:, order] = weights @ _powers_from_rows()[order:]
        factors = factors[1:] * np.arange(1, _DEGREE + 1 - order)
    return matrix


def _split_matrix() -> FloatArray:
    """[24, 6]: the coefficients on each quarter from those on the whole (blossoming)."""
    rows = []
    for split in range(NUM_SPLITS):
        low, high = split / NUM_SPLITS, (split + 1) / NUM_SPLITS
        rows += [_blossom_row([low] * (_DEGREE - k) + [high] * k) for k in range(_DEGREE + 1)]
    return np.array(rows)


def _blossom_row(arguments: list[float]) -> FloatArray:
    """Weights [6] of the polar form at `arguments` (de Casteljau with one argument a level)."""
    points = np.eye(_DEGREE + 1)
    for argument in arguments:
        points = (1 - argument) * points[:-1] + argument * points[1:]
    row: FloatArray = points[0]
    return row


def _hull_matrices() -> tuple[FloatArray, ...]:
    """[24, 5], [20, 5], [16, 5], [12, 5]: control points of each derivative on the four quarters.

    From a piece's rows; for a piece of length 1.
    """
    from_rows = _bernstein_from_powers() @ _powers_from_rows()
    points = (_split_matrix() @ from_rows).reshape(NUM_SPLITS, _DEGREE + 1, 5)
    matrices: list[FloatArray] = [points]
    for degree in range(_DEGREE, 2, -1):
        matrices.append(float(degree * NUM_SPLITS) * np.diff(matrices[-1], axis=1))
    return tuple(matrix.reshape(-1, 5) for matrix in matrices)


def _curve_matrix() -> FloatArray:
    """[99, 5]: all of CurvePoints from a piece's rows; for a piece of length 1."""
    position, velocity, acceleration, jerk = _hull_matrices()
    trials = _share_matrix(np.linspace(0.0, 1.0, _NUM_TRIALS))
    return np.concatenate(
        (position, trials[:, 0], velocity, trials[:, 1], acceleration, trials[:, 2], jerk)
    )


_CURVE_MATRIX: FloatArray = _curve_matrix()
_ACCELERATION_MATRIX: FloatArray = _hull_matrices()[2]
