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


@dataclass(frozen=True)
class ControlPoints:
    """Control points of S pieces: float64 [S, C, J] each."""

    positions: FloatArray
    velocities: FloatArray
    accelerations: FloatArray
    jerks: FloatArray

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Position, velocity, acceleration and jerk, in this order."""
        return self.positions, self.velocities, self.accelerations, self.jerks


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


def control_points(nodes: Nodes) -> ControlPoints:
    """Control points of the S = N - 1 quintics between N states."""
    return pieces_control_points(
        (nodes.positions[:-1], nodes.velocities[:-1], nodes.accelerations[:-1]),
        (nodes.positions[1:], nodes.velocities[1:], nodes.accelerations[1:]),
        np.diff(nodes.times_s),
    )


def pieces_control_points(
    start: tuple[FloatArray, FloatArray, FloatArray],
    end: tuple[FloatArray, FloatArray, FloatArray],
    duration_s: FloatArray,
) -> ControlPoints:
    """Control points of S quintics from `start` to `end` (position, velocity, acceleration)."""
    whole = position_control_points(start, end, duration_s)
    # Every derivative's points on every split are linear in the whole's: one matrix each. From the
    # piece's own start: differences of large positions would cost digits.
    moved = whole - whole[:, :1]
    rate = 1.0 / duration_s[:, None, None]
    velocities = _POINT_MATRICES[1] @ (moved * rate)
    accelerations = _POINT_MATRICES[2] @ (moved * rate**2)
    jerks = _POINT_MATRICES[3] @ (moved * rate**3)
    return ControlPoints(_POINT_MATRICES[0] @ whole, velocities, accelerations, jerks)


def inner_states(nodes: Nodes, num_each: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positions, velocities and accelerations [M, J] at `num_each` moments of each piece.

    The moments are equally far apart in a piece, its start included; the last node comes last.
    """
    bernstein = position_control_points(
        (nodes.positions[:-1], nodes.velocities[:-1], nodes.accelerations[:-1]),
        (nodes.positions[1:], nodes.velocities[1:], nodes.accelerations[1:]),
        np.diff(nodes.times_s),
    )
    rate = 1.0 / np.diff(nodes.times_s)[:, None, None]
    moved = bernstein - bernstein[:, :1]
    at_position, at_velocity, at_acceleration = _state_matrices(num_each)
    num_joints = nodes.positions.shape[1]
    return (
        np.concatenate(((at_position @ bernstein).reshape(-1, num_joints), nodes.positions[-1:])),
        np.concatenate(
            ((at_velocity @ (moved * rate)).reshape(-1, num_joints), nodes.velocities[-1:])
        ),
        np.concatenate(
            (
                (at_acceleration @ (moved * rate**2)).reshape(-1, num_joints),
                nodes.accelerations[-1:],
            )
        ),
    )


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


@cache
def _state_matrices(num_each: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """[num_each, 6] each: value and derivatives at k / num_each from a piece's coefficients."""
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
    return matrices[0], matrices[1], matrices[2]


_POINT_MATRICES = _point_matrices()
