# SPDX-License-Identifier: Apache-2.0
"""Velocities and accelerations at the knots of a chunk: the smoothest curve that meets them.

A chunk gives positions at its knots, nothing in between. The curve is made of quintic pieces
joined with equal velocity and acceleration (C2), starts in a given state, and minimises

    integral of  acceleration^2 + (jerk * JERK_TIME_S)^2,  and what stopping at the end costs,

over all free velocities and accelerations. For given knot times that is one linear map, computed
once (a quintic smoothing spline; de Boor, A Practical Guide to Splines, chapter XIV). Finite
differences instead would turn a policy's sampling noise into twice the acceleration.

Where that curve's acceleration peaks too high, `flattened` keeps the knots, gives the curve more
pieces (most where the chunk joins the running motion) and reweights the integral towards its worst
pieces (iteratively reweighted least squares for the maximum norm; Lawson 1961). Peaks fall by a
quarter at a bad join.

The smoothed curves may leave the knots: they minimise

    sum over knots of (position - target)^2  +  smoothing * that integral

and are what the safety filter tracks with where the exact curve breaks a limit.

Shapes: N knots, J joints.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from par_ros.control.hermite_curve import (
    Nodes,
    Pieces,
    gram_matrix,
    position_control_points,
)
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory, Motion, MotionState

# Weight of jerk against acceleration: the time in which acceleration may change for the same cost.
JERK_TIME_S = 0.01

# From barely smoothed to nearly straight, in s^3 (the ratio of the two terms above). A factor 8
# each; the first moves a knot by a per cent of its second difference.
SMOOTHINGS = tuple(1e-8 * 8.0**level for level in range(7))

# Cost of the speed at the last knot, 1/s: the least integral of acceleration^2 that brings speed v
# to rest within T is 4 v^2 / T. Without it the curve ends as fast as noise throws it, and a chunk
# that stops joins badly.
_END_COST_PER_S = 4.0 / 0.36

# flattened(): pieces in the first intervals (one in each later interval), jerk's weight, passes.
_FINE_PIECES = (6, 4, 2, 2)
_FINE_JERK_TIME_S = 0.005
_NUM_REWEIGHTINGS = 11

_END_VELOCITY = 3


class KnotSpline:
    """The linear maps for one set of times: start and N knots, seconds, strictly increasing."""

    def __init__(self, start_time_s: float, knot_times_s: tuple[float, ...]) -> None:
        self.times_s = np.array((start_time_s, *knot_times_s))
        self._cost = _assembled(_piece_costs(self.times_s, JERK_TIME_S)[:, None])[0]
        self._exact = _exact_map(self._cost, len(knot_times_s))
        self._smoothed: dict[int, FloatArray] = {}
        self._fine_times_s, self._knot_rows = _fine_times(self.times_s)
        self._fine = _FineSystem(
            _piece_costs(self._fine_times_s, _FINE_JERK_TIME_S), self._knot_rows
        )

    def exact(self, start: MotionState, knots: FloatArray) -> Nodes:
        """The curve from `start` through `knots` [N, J]; N + 1 states, the start's first."""
        return self._nodes(self._exact @ _given_rows(start, knots))

    def flattened(
        self, start: MotionState, knots: FloatArray, max_acceleration: FloatArray
    ) -> Nodes:
        """Like exact(), with more nodes and a lower peak of acceleration in each joint.

        A joint is done once its peak is below `max_acceleration` [J].
        """
        given_rows = _given_rows(start, knots)
        num_nodes, num_joints = len(self._fine_times_s), knots.shape[1]
        states = np.empty((3, num_nodes, num_joints))
        open_ = np.arange(num_joints)
        weights = np.ones((num_nodes - 1, num_joints))
        for _ in range(_NUM_REWEIGHTINGS):
            found = self._fine.states(weights, given_rows[:, open_])
            states[:, :, open_] = found
            peaks = np.abs(Pieces.between(Nodes(self._fine_times_s, *found)).accelerations())
            peaks = peaks.max(axis=1)
            highest = np.maximum(peaks.max(axis=0), 1e-9)
            still = highest >= max_acceleration[open_]
            if not still.any():
                break
            open_ = open_[still]
            weights = weights[:, still] * (peaks[:, still] / highest[still] + 1e-3) ** 2
            weights /= weights.max(axis=0)
        return Nodes(self._fine_times_s, *states)

    def refined(self, nodes: Nodes) -> Nodes:
        """The same curve as `nodes` with flattened()'s nodes; the knots keep every bit."""
        return resampled(nodes, self._fine_times_s)

    def knots_of(self, nodes: Nodes) -> FloatArray:
        """Positions [N, J] at the knots, of nodes that have all of them."""
        knots: FloatArray = nodes.positions[nodes.times_s.searchsorted(self.times_s[1:])]
        return knots

    def smoothed(self, level: int, start: MotionState, targets: FloatArray) -> Nodes:
        """The curve from `start` near `targets` [N, J]; `level` indexes SMOOTHINGS."""
        if level not in self._smoothed:
            self._smoothed[level] = _smoothed_map(
                self._cost, len(self.times_s) - 1, SMOOTHINGS[level]
            )
        return self._nodes(self._smoothed[level] @ _given_rows(start, targets))

    def _nodes(self, states: FloatArray) -> Nodes:
        num_nodes = len(self.times_s)
        return Nodes(
            self.times_s,
            states[:num_nodes],
            states[num_nodes : 2 * num_nodes],
            states[2 * num_nodes :],
        )


@lru_cache(maxsize=64)
def knot_spline(start_time_s: float, knot_times_s: tuple[float, ...]) -> KnotSpline:
    """The KnotSpline of these times, made once."""
    return KnotSpline(start_time_s, knot_times_s)


def resampled(nodes: Nodes, times_s: FloatArray) -> Nodes:
    """The same curve with more nodes: `times_s` holds the old ones, which keep every bit."""
    trajectory = JointTrajectory(
        ("",) * nodes.positions.shape[1],
        nodes.times_s,
        nodes.positions,
        nodes.velocities,
        nodes.accelerations,
    )
    samples = Motion(trajectory).sample(times_s[:-1])
    return Nodes(
        times_s,
        np.concatenate((samples.positions, nodes.positions[-1:])),
        np.concatenate((samples.velocities, nodes.velocities[-1:])),
        np.concatenate((samples.accelerations, nodes.accelerations[-1:])),
    )


def _given_rows(start: MotionState, knots: FloatArray) -> FloatArray:
    return np.concatenate(
        (start.positions[None], start.velocities[None], start.accelerations[None], knots)
    )


def _piece_costs(times_s: FloatArray, jerk_time_s: float) -> FloatArray:
    """Each piece's integral as a quadratic form [N, 6, 6] in its two states.

    Order: position, velocity, acceleration, each at the start, then at the end. The last piece
    carries the cost of its end's speed.
    """
    unit = np.eye(6)[:, None, :]
    costs = []
    for duration_s in np.diff(times_s):
        bernstein = position_control_points(
            (unit[0], unit[2], unit[4]), (unit[1], unit[3], unit[5]), np.array([duration_s])
        )[0]
        acceleration = 20 / duration_s**2 * np.diff(bernstein, n=2, axis=0)
        jerk = 60 / duration_s**3 * np.diff(bernstein, n=3, axis=0)
        costs.append(
            duration_s
            * (
                acceleration.T @ gram_matrix(3) @ acceleration
                + jerk_time_s**2 * jerk.T @ gram_matrix(2) @ jerk
            )
        )
    costs[-1][_END_VELOCITY, _END_VELOCITY] += _END_COST_PER_S
    return np.array(costs)


def _assembled(piece_costs: FloatArray) -> FloatArray:
    """The sum of piece costs [N, J, 6, 6] as J forms in all states, [J, 3 (N + 1), 3 (N + 1)].

    States are ordered: all positions, then velocities, then accelerations.
    """
    num_pieces, num_joints = piece_costs.shape[:2]
    num_nodes = num_pieces + 1
    total = np.zeros((num_joints, 3 * num_nodes, 3 * num_nodes))
    for piece in range(num_pieces):
        rows = np.array([kind * num_nodes + piece + end for kind in range(3) for end in range(2)])
        total[:, rows[:, None], rows] += piece_costs[piece]
    return total


def _fine_times(times_s: FloatArray) -> tuple[FloatArray, list[int]]:
    """Node times of flattened(), and which of them are knots."""
    times = [float(times_s[0])]
    rows = []
    for interval, (low, high) in enumerate(pairwise(times_s)):
        pieces = _FINE_PIECES[interval] if interval < len(_FINE_PIECES) else 1
        times += [float(low + (high - low) * part / pieces) for part in range(1, pieces)]
        times.append(float(high))
        rows.append(len(times) - 1)
    return np.array(times), rows


class _FineSystem:
    """The minimum of the pieces' costs [N, 6, 6] under any weights, start and knots fixed."""

    def __init__(self, costs: FloatArray, knot_rows: list[int]) -> None:
        num_pieces = len(costs)
        self._num_nodes = num_pieces + 1
        num_states = 3 * self._num_nodes
        self._given = [0, self._num_nodes, 2 * self._num_nodes, *knot_rows]
        self._free = [row for row in range(num_states) if row not in self._given]
        # Each piece's cost alone, as a form in all states: the whole is their weighted sum.
        alone = np.stack(
            [
                _assembled(
                    np.where(np.arange(num_pieces) == piece, 1.0, 0.0)[:, None, None, None]
                    * costs[:, None]
                )[0]
                for piece in range(num_pieces)
            ]
        )[:, self._free]
        self._between_free = alone[:, :, self._free].reshape(num_pieces, -1)
        self._to_given = alone[:, :, self._given].reshape(num_pieces, -1)

    def states(
        self, weights: FloatArray, given_rows: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Positions, velocities and accelerations [N + 1, J] for weights [N, J]."""
        num_joints, num_free = weights.shape[1], len(self._free)
        left = (weights.T @ self._between_free).reshape(num_joints, num_free, num_free)
        right = (weights.T @ self._to_given).reshape(num_joints, num_free, -1)
        solution = np.linalg.solve(left, right @ given_rows.T[:, :, None])[..., 0]
        states = np.empty((3 * self._num_nodes, num_joints))
        states[self._given] = given_rows
        states[self._free] = -solution.T
        positions, velocities, accelerations = states.reshape(3, self._num_nodes, num_joints)
        return positions, velocities, accelerations


def _exact_map(cost: FloatArray, num_knots: int) -> FloatArray:
    """[3 (N + 1), 3 + N]: all states from the start's three rows and the knots' positions."""
    num_nodes = num_knots + 1
    given = [0, num_nodes, 2 * num_nodes, *range(1, num_nodes)]
    free = [row for row in range(3 * num_nodes) if row not in given]
    state_map = np.zeros((len(given) + len(free), len(given)))
    state_map[given, range(len(given))] = 1.0
    state_map[free] = -np.linalg.solve(cost[np.ix_(free, free)], cost[np.ix_(free, given)])
    return state_map


def _smoothed_map(cost: FloatArray, num_knots: int, smoothing: float) -> FloatArray:
    """[3 (N + 1), 3 + N]: all states from the start's three rows and the knots' targets."""
    num_nodes = num_knots + 1
    given = [0, num_nodes, 2 * num_nodes]
    free = [k for k in range(3 * num_nodes) if k not in given]
    fit = np.zeros_like(cost)
    fit[range(1, num_nodes), range(1, num_nodes)] = 1.0
    system = (smoothing * cost + fit)[np.ix_(free, free)]
    right = np.zeros((len(free), 3 + num_knots))
    right[:, :3] = -smoothing * cost[np.ix_(free, given)]
    for knot in range(num_knots):
        right[free.index(knot + 1), 3 + knot] = 1.0
    state_map = np.zeros((3 * num_nodes, 3 + num_knots))
    state_map[given, range(3)] = 1.0
    state_map[free] = np.linalg.solve(system, right)
    return state_map
