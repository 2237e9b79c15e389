# SPDX-License-Identifier: Apache-2.0
"""Quintic pieces between joint states, as control points: bounds of a curve that hold everywhere.

A polynomial on an interval lies within the hull of its Bernstein control points (Farin, Curves and
Surfaces for CAGD, section 5). Position, velocity, acceleration and jerk of a quintic between two
states are linear in those states, and so are their control points; comparing control points with a
limit therefore proves the limit for every moment, not for samples only. Each piece is split in
four, which keeps the hull close to the curve.

Shapes: S pieces, J joints, C control points (flattened over splits).
"""

from dataclasses import dataclass
from functools import cache
from math import comb, perm

import numpy as np

from par_ros.control.joint_trajectory import FloatArray

_DEGREE = 5
_NUM_SPLITS = 4

# Control points of position, velocity, acceleration and jerk of one piece, and where they begin.
SECTION_SIZES = tuple(_NUM_SPLITS * (_DEGREE + 1 - order) for order in range(4))
SECTIONS = tuple(sum(SECTION_SIZES[:order]) for order in range(4))


@dataclass(frozen=True)
class ControlPoints:
    """Control points of S pieces, float64 [S, 72, J]: those of position first, then velocity's,
    acceleration's and jerk's; SECTIONS has where each begins.
    """

    values: FloatArray

    @property
    def accelerations(self) -> FloatArray:
        """Those of the acceleration, [S, 16, J]."""
        return self.values[:, SECTIONS[2] : SECTIONS[3]]

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Position, velocity, acceleration and jerk, [S, C, J] each, in this order."""
        position, velocity, acceleration, jerk = np.split(self.values, SECTIONS[1:], axis=1)
        return position, velocity, acceleration, jerk

    def extremes(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest position, velocity, acceleration and jerk, [4, J] each."""
        return (
            np.minimum.reduceat(self.values.min(axis=0), SECTIONS, axis=0),
            np.maximum.reduceat(self.values.max(axis=0), SECTIONS, axis=0),
        )


@dataclass(frozen=True)
class Nodes:
    """States at N moments: positions, velocities, accelerations, float64 [N, J] each."""

    times_s: FloatArray
    positions: FloatArray
    velocities: FloatArray
    accelerations: FloatArray

    def after(self, other: "Nodes") -> "Nodes":
        """`other`, then this."""
        return Nodes(
            np.concatenate((other.times_s, self.times_s)),
            np.concatenate((other.positions, self.positions)),
            np.concatenate((other.velocities, self.velocities)),
            np.concatenate((other.accelerations, self.accelerations)),
        )


class Pieces:
    """S quintics from `start` to `end` (position, velocity, acceleration; [S, J] each).

    A quintic and its derivatives are linear in the five numbers by which its ends differ from
    standing at its start, scaled by its duration; all that is asked of it is one matrix each.
    """

    def __init__(
        self,
        start: tuple[FloatArray, FloatArray, FloatArray],
        end: tuple[FloatArray, FloatArray, FloatArray],
        duration_s: FloatArray,
    ) -> None:
        duration = duration_s[:, None]
        square = duration * duration
        self._begin = start[0][:, None]
        self._rate = 1.0 / duration[:, None]
        # From the piece's own start: differences of large positions would cost digits.
        self._rows = np.empty((len(duration_s), 5, start[0].shape[1]))
        np.multiply(start[1], duration, out=self._rows[:, 0])
        np.multiply(start[2], square, out=self._rows[:, 1])
        np.subtract(end[0], start[0], out=self._rows[:, 2])
        np.multiply(end[1], duration, out=self._rows[:, 3])
        np.multiply(end[2], square, out=self._rows[:, 4])

    @staticmethod
    def between(nodes: Nodes) -> "Pieces":
        """The S = N - 1 quintics between N states."""
        return Pieces(
            (nodes.positions[:-1], nodes.velocities[:-1], nodes.accelerations[:-1]),
            (nodes.positions[1:], nodes.velocities[1:], nodes.accelerations[1:]),
            nodes.times_s[1:] - nodes.times_s[:-1],
        )

    def control_points(self) -> ControlPoints:
        """Of position, velocity, acceleration and jerk, everywhere."""
        values = _CONTROL_MATRIX @ self._rows
        square = self._rate * self._rate
        values[:, : SECTIONS[1]] += self._begin
        values[:, SECTIONS[1] : SECTIONS[2]] *= self._rate
        values[:, SECTIONS[2] : SECTIONS[3]] *= square
        values[:, SECTIONS[3] :] *= square * self._rate
        return ControlPoints(values)

    def accelerations(self) -> FloatArray:
        """The control points of the acceleration alone, [S, 16, J]."""
        values: FloatArray = _ACCELERATION_MATRIX @ self._rows
        values *= self._rate * self._rate
        return values

    def states(self, num_each: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Positions, velocities, accelerations [S num_each, J] at equal distances from the start.

        The start of each piece is included, its end is not.
        """
        values = (_state_matrix(num_each) @ self._rows).reshape(
            len(self._rows), 3, num_each, self._rows.shape[2]
        )
        rate = self._rate[:, None]
        values[:, 0] += self._begin
        values[:, 1:2] *= rate
        values[:, 2:] *= rate * rate
        positions, velocities, accelerations = values.swapaxes(0, 1).reshape(
            3, -1, self._rows.shape[2]
        )
        return positions, velocities, accelerations


def control_points(nodes: Nodes) -> ControlPoints:
    """Control points of the S = N - 1 quintics between N states."""
    return Pieces.between(nodes).control_points()


def position_control_points(
    start: tuple[FloatArray, FloatArray, FloatArray],
    end: tuple[FloatArray, FloatArray, FloatArray],
    duration_s: FloatArray,
) -> FloatArray:
    """The six Bernstein coefficients [S, 6, J] of the quintics from `start` to `end`."""
    duration = duration_s[:, None]
    p0, v0, a0 = start
    p1, v1, a1 = end
    return np.stack(
        [
            p0,
            p0 + v0 * duration / 5,
            p0 + 2 * v0 * duration / 5 + a0 * duration**2 / 20,
            p1 - 2 * v1 * duration / 5 + a1 * duration**2 / 20,
            p1 - v1 * duration / 5,
            p1,
        ],
        axis=1,
    )


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


def _split_matrix() -> FloatArray:
    """[24, 6]: the coefficients on each quarter from those on the whole (blossoming)."""
    rows = []
    for split in range(_NUM_SPLITS):
        low, high = split / _NUM_SPLITS, (split + 1) / _NUM_SPLITS
        rows += [_blossom_row([low] * (_DEGREE - k) + [high] * k) for k in range(_DEGREE + 1)]
    return np.array(rows)


def _blossom_row(arguments: list[float]) -> FloatArray:
    """Weights [6] of the polar form at `arguments` (de Casteljau with one argument a level)."""
    points = np.eye(_DEGREE + 1)
    for argument in arguments:
        points = (1 - argument) * points[:-1] + argument * points[1:]
    row: FloatArray = points[0]
    return row


def _point_matrices() -> tuple[FloatArray, ...]:
    """[24, 6], [20, 6], [16, 6], [12, 6]: control points of each derivative on the four quarters.

    From the whole's six coefficients; for a piece of length 1.
    """
    points = _split_matrix().reshape(_NUM_SPLITS, _DEGREE + 1, _DEGREE + 1)
    matrices: list[FloatArray] = [points]
    for degree in range(_DEGREE, 2, -1):
        matrices.append(float(degree * _NUM_SPLITS) * np.diff(matrices[-1], axis=1))
    return tuple(matrix.reshape(-1, _DEGREE + 1) for matrix in matrices)


def _from_ends() -> FloatArray:
    """[6, 5]: the coefficients of a piece of length 1, from what its ends differ by.

    Start velocity, start acceleration, way, end velocity, end acceleration; the start is 0.
    """
    zero, one = np.zeros((1, 5)), np.eye(5)[:, None]
    coefficients = position_control_points(
        (zero, one[0], one[1]), (one[2], one[3], one[4]), np.ones(1)
    )
    matrix: FloatArray = coefficients[0]
    return matrix


@cache
def _state_matrix(num_each: int) -> FloatArray:
    """[3 num_each, 5]: value and derivatives at k / num_each, from what the ends differ by."""
    shares = (np.arange(num_each) / num_each).tolist()
    differences = np.eye(_DEGREE + 1)
    matrices = []
    for order in range(3):
        degree = _DEGREE - order
        basis = np.array(
            [
                [
                    comb(degree, k) * share**k * (1.0 - share) ** (degree - k)
                    for k in range(degree + 1)
                ]
                for share in shares
            ]
        )
        matrices.append(perm(_DEGREE, order) * basis @ differences)
        differences = np.diff(differences, axis=0)
    matrix: FloatArray = np.concatenate(matrices) @ _from_ends()
    return matrix


_CONTROL_MATRIX: FloatArray = np.concatenate(_point_matrices()) @ _from_ends()
_ACCELERATION_MATRIX: FloatArray = _CONTROL_MATRIX[SECTIONS[2] : SECTIONS[3]]
