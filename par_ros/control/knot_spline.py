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

    sum over knots of weight * (position - target)^2  +  smoothing * that integral

and are what the safety filter tracks with where the exact curve breaks a limit. With equal weights
all knots are smoothed alike. Fading smoothings raise the weights of later knots: a curve that joins
badly is back on its targets soon, instead of lagging behind all of them.

Shapes: N knots, J joints; S pieces; 3 (N + 1) states, node by node: position, velocity and
acceleration of a node side by side, so that each piece's cost is one block of 6 and the whole
banded.
"""

from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from par_ros.control.hermite_curve import (
    Nodes,
    Pieces,
    Resampling,
    bernstein_coefficients,
    gram_matrix,
)
from par_ros.control.joint_trajectory import FloatArray, MotionState

# Weight of jerk against acceleration: the time in which acceleration may change for the same cost.
JERK_TIME_S = 0.01

# From barely smoothed to nearly straight, in s^3 (the ratio of the two terms above). A factor 8
# each; the first moves a knot by a per cent of its second difference.
_FACTOR = 8.0
SMOOTHINGS = tuple(1e-8 * _FACTOR**level for level in range(9))

# Fading smoothings: knots of weight 1; each knot behind them weighs a factor more than the one
# before, up to what the first smoothing holds it with.
_NUM_SMOOTHED_KNOTS = 4

# Cost of the speed at the last knot, 1/s: the least integral of acceleration^2 that brings speed v
# to rest within T is 4 v^2 / T. Without it the curve ends as fast as noise throws it, and a chunk
# that stops joins badly.
_END_COST_PER_S = 4.0 / 0.36

# flattened(): pieces in the first intervals (one in each later interval), jerk's weight, passes.
_FINE_PIECES = (6, 4, 2, 2)
_FINE_JERK_TIME_S = 0.005
_NUM_REWEIGHTINGS = 11

# A piece's states: position, velocity, acceleration at its start, then at its end.
_END_VELOCITY = 4
_BAND = 6


class KnotSpline:
    """The linear maps for one set of times: start and N knots, seconds, strictly increasing.

    Each map goes from what is given (the start's three rows, then the knots) to all states, in the
    order of Nodes.states.
    """

    def __init__(self, start_time_s: float, knot_times_s: tuple[float, ...]) -> None:
        self.times_s = np.array((start_time_s, *knot_times_s))
        self._num_given = 3 + len(knot_times_s)
        self._cost = _assembled(_piece_costs(self.times_s, JERK_TIME_S))
        self._exact = _by_kind(_exact_map(self._cost))

    def exact(self, start: MotionState, knots: FloatArray) -> Nodes:
        """The curve from `start` through `knots` [N, J]; N + 1 states, the start's first."""
        states = self._exact @ _given_rows(start, knots)
        return Nodes.of_states(self.times_s, states.reshape(3, len(self.times_s), -1))

    def smoothed(self, start: MotionState, targets: FloatArray) -> Nodes:
        """All curves from `start` near `targets` [N, J], side by side: [(1 + 2 levels) J] joints.

        The first is exact(), then those of SMOOTHINGS, fading, then those with equal weights.
        """
        states = self._ladder @ _given_rows(start, targets)
        return Nodes.of_states(self.times_s, states.reshape(3, len(self.times_s), -1))

    def flattened(
        self, start: MotionState, knots: FloatArray, max_acceleration: FloatArray
    ) -> Nodes:
        """Like exact(), with more nodes and a lower peak of acceleration in each joint.

        A joint is done once its peak is below `max_acceleration` [J].
        """
        minimum = _FineMinimum(self._fine, start, knots)
        states = np.empty((3, len(self._fine.times_s), knots.shape[1]))
        open_ = np.arange(knots.shape[1])
        weights = np.ones((len(self._fine.times_s) - 1, len(open_)))
        for _ in range(_NUM_REWEIGHTINGS):
            found = minimum.states(weights, open_)
            if found is None:
                break
            states[:, :, open_] = found
            pieces = Pieces(Nodes.of_states(self._fine.times_s, found))
            peaks = np.maximum.reduce(np.abs(pieces.accelerations()))
            highest = np.maximum(np.maximum.reduce(peaks), 1e-9)
            still = highest >= max_acceleration[open_]
            if not still.any():
                break
            if not still.all():
                open_, highest = open_[still], highest[still]
                peaks, weights = peaks[:, still], weights[:, still]
            # Their common factor does not matter, and stays near 1.
            weights = weights * np.square(peaks / highest + 1e-3)
        return Nodes.of_states(self._fine.times_s, states)

    def refined(self, nodes: Nodes) -> Nodes:
        """The same curve as `nodes` with flattened()'s nodes; the knots keep every bit."""
        return self._fine.resampling.of(nodes)

    def knots_of(self, nodes: Nodes) -> FloatArray:
        """Positions [N, J] at the knots, of nodes that have all of them."""
        knots: FloatArray = nodes.positions[nodes.times_s.searchsorted(self.times_s[1:])]
        return knots

    @cached_property
    def _ladder(self) -> FloatArray:
        """[3 (N + 1) (1 + 2 levels), 3 + N]: the maps of smoothed(), one by one in each state."""
        levels = np.arange(len(SMOOTHINGS))[:, None]
        behind = np.arange(len(self.times_s) - 1) + 1 - _NUM_SMOOTHED_KNOTS
        fading = _FACTOR ** behind.clip(min=0, max=levels)
        weights = np.concatenate((fading, np.ones_like(fading)))
        smoothed = _smoothed_maps(self._cost, np.tile(SMOOTHINGS, 2), weights)
        maps = np.stack((self._exact, *(_by_kind(one) for one in smoothed)))
        side_by_side: FloatArray = maps.swapaxes(0, 1).reshape(-1, self._num_given)
        return side_by_side

    @cached_property
    def _fine(self) -> "_FineSystem":
        return _FineSystem(self.times_s)


# One takes up to 0.3 MiB. Departures lie 5 ms apart, so a steady delay needs a handful of them;
# where delays spread over 0.3 s, each was seen in an hour, and all that were kept looked like a
# leak of 6 MiB. Making one takes up to 2 ms.
@lru_cache(maxsize=8)
def knot_spline(start_time_s: float, knot_times_s: tuple[float, ...]) -> KnotSpline:
    """The KnotSpline of these times, made once while it is among the last ones used."""
    return KnotSpline(start_time_s, knot_times_s)


def _given_rows(start: MotionState, knots: FloatArray) -> FloatArray:
    return np.concatenate(
        (start.positions[None], start.velocities[None], start.accelerations[None], knots)
    )


def _unit_costs() -> tuple[FloatArray, FloatArray]:
    """The integrals of acceleration^2 and jerk^2 over a piece of length 1, [6, 6] each."""
    bernstein = bernstein_coefficients()
    acceleration = 20 * np.diff(bernstein, n=2, axis=0)
    jerk = 60 * np.diff(bernstein, n=3, axis=0)
    return (
        acceleration.T @ gram_matrix(3) @ acceleration,
        jerk.T @ gram_matrix(2) @ jerk,
    )


_UNIT_ACCELERATION_COST, _UNIT_JERK_COST = _unit_costs()


def _piece_costs(times_s: FloatArray, jerk_time_s: float) -> FloatArray:
    """Each piece's integral as a quadratic form [S, 6, 6] in its two states.

    The last piece carries the cost of its end's speed.
    """
    duration = np.diff(times_s)[:, None]
    scale = np.tile(duration ** np.arange(3), 2)
    rate = 1.0 / duration[:, :, None]
    costs: FloatArray = rate**3 * _UNIT_ACCELERATION_COST + jerk_time_s**2 * rate**5 * (
        _UNIT_JERK_COST
    )
    costs *= scale[:, :, None] * scale[:, None, :]
    costs[-1, _END_VELOCITY, _END_VELOCITY] += _END_COST_PER_S
    return costs


def _assembled(piece_costs: FloatArray) -> FloatArray:
    """The sum of piece costs [S, 6, 6] as one form in all states, [3 (S + 1), 3 (S + 1)]."""
    num_states = 3 * (len(piece_costs) + 1)
    total = np.zeros((num_states, num_states))
    for piece, cost in enumerate(piece_costs):
        total[3 * piece : 3 * piece + 6, 3 * piece : 3 * piece + 6] += cost
    return total


def _by_kind(state_map: FloatArray) -> FloatArray:
    """Rows node by node as rows of all positions, then velocities, then accelerations."""
    num_given = state_map.shape[1]
    return state_map.reshape(-1, 3, num_given).swapaxes(0, 1).reshape(-1, num_given)


def _exact_map(cost: FloatArray) -> FloatArray:
    """[3 (N + 1), 3 + N]: all states from the start's three rows and the knots' positions."""
    num_states = len(cost)
    given = np.array([0, 1, 2, *range(3, num_states, 3)])
    free = np.setdiff1d(np.arange(num_states), given)
    state_map = np.zeros((num_states, len(given)))
    state_map[given, range(len(given))] = 1.0
    state_map[free] = -np.linalg.solve(cost[np.ix_(free, free)], cost[np.ix_(free, given)])
    return state_map


def _smoothed_maps(cost: FloatArray, smoothings: FloatArray, weights: FloatArray) -> FloatArray:
    """[M, 3 (N + 1), 3 + N]: all states from the start's three rows and the knots' targets, for
    `smoothings` [M] and the knots' `weights` [M, N]."""
    num, num_knots = weights.shape
    num_states = len(cost)
    smoothing = smoothings[:, None, None]
    knots = np.arange(0, 3 * num_knots, 3)
    system = smoothing * cost[3:, 3:]
    system[:, knots, knots] += weights
    right = np.zeros((num, num_states - 3, 3 + num_knots))
    right[:, :, :3] = -smoothing * cost[3:, :3]
    right[:, knots, np.arange(3, 3 + num_knots)] = weights
    maps = np.zeros((num, num_states, 3 + num_knots))
    maps[:, range(3), range(3)] = 1.0
    maps[:, 3:] = np.linalg.solve(system, right)
    return maps


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
    """The pieces of flattened(), their costs, and which states are free.

    Attributes:
        times_s: of the nodes, [S + 1].
        resampling: from the spline's own nodes to these.
        knot_rows: which nodes are knots.
        costs: float64 [S, 6, 6].
        free: the free states, [F] of 3 (S + 1); start and knots are given.
        blocks: each piece's states as numbers of free ones, [S, 6]; -1 where given.
        bands: each piece's cost in the free states, [S, 6 F]: the lower band, column by column.
    """

    def __init__(self, times_s: FloatArray) -> None:
        self.times_s, self.knot_rows = _fine_times(times_s)
        self.resampling = Resampling(times_s, self.times_s)
        self.costs = _piece_costs(self.times_s, _FINE_JERK_TIME_S)
        num_pieces = len(self.costs)
        is_free = np.ones(3 * (num_pieces + 1), np.bool_)
        is_free[[0, 1, 2, *(3 * row for row in self.knot_rows)]] = False
        self.free = np.flatnonzero(is_free)
        number = np.where(is_free, np.cumsum(is_free) - 1, -1)
        self.blocks = number[3 * np.arange(num_pieces)[:, None] + np.arange(6)]
        self.bands = self._bands()

    def _bands(self) -> FloatArray:
        rows, columns = self.blocks[:, :, None], self.blocks[:, None, :]
        piece, row, column = np.nonzero((rows >= columns) & (columns >= 0))
        below = self.blocks[piece, row] - self.blocks[piece, column]
        bands = np.zeros((len(self.costs), len(self.free), _BAND))
        bands[piece, self.blocks[piece, column], below] = self.costs[piece, row, column]
        return bands.reshape(len(self.costs), -1)


class _FineMinimum:
    """The minimum of the weighted sum of the pieces' costs, for one start and its knots [N, J]."""

    def __init__(self, system: _FineSystem, start: MotionState, knots: FloatArray) -> None:
        self._system = system
        num_joints = knots.shape[1]
        # Positions count from the start: differences of large ones would cost digits.
        self._origin = start.positions
        self._given = np.zeros((len(system.times_s), 3, num_joints))
        self._given[0, 1] = start.velocities
        self._given[0, 2] = start.accelerations
        self._given[system.knot_rows, 0] = knots - start.positions
        self._knots = knots
        # What the given states ask of the free ones, piece by piece.
        ends = np.concatenate((self._given[:-1], self._given[1:]), axis=1)
        slopes = system.costs @ ends
        piece, row = np.nonzero(system.blocks >= 0)
        self._right = np.zeros((num_joints, len(system.costs), len(system.free)))
        self._right[:, piece, system.blocks[piece, row]] = -slopes[piece, row].T

    def states(self, weights: FloatArray, joints: npt.NDArray[np.intp]) -> FloatArray | None:
        """All states [3, S + 1, joints] for the pieces' weights [S, joints]; None: singular."""
        each = weights.T
        # One system after the other on the diagonal: LAPACK is called once.
        bands = (each @ self._system.bands).reshape(-1, _BAND)
        right = (each[:, None] @ self._right[joints]).reshape(-1)
        # solveh_banded() without its checks, which take as long.
        _, solution, info = lapack.dpbsv(bands.T, right, lower=1, overwrite_ab=1, overwrite_b=1)
        if info != 0:
            return None
        nodes = np.take(self._given, joints, axis=2)
        nodes.reshape(-1, len(joints))[self._system.free] = solution.reshape(len(joints), -1).T
        states: FloatArray = nodes.swapaxes(0, 1).copy()
        states[0] += self._origin[joints]
        # To the last bit.
        states[0, 0] = self._origin[joints]
        states[0, self._system.knot_rows] = self._knots[:, joints]
        return states
