# SPDX-License-Identifier: Apache-2.0
"""The curve through 8 knots 0.05 s apart: exact at the knots, smooth, and the best of its kind."""

import numpy as np
import pytest

from par_ros.control.hermite_curve import Nodes, control_points
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory, Motion, MotionState
from par_ros.control.knot_spline import SMOOTHINGS, KnotSpline

KNOT_TIMES = tuple(0.05 * np.arange(1, 9))


@pytest.fixture(scope="module")
def spline() -> KnotSpline:
    return KnotSpline(0.01, KNOT_TIMES)


def start() -> MotionState:
    return MotionState(np.array([0.0, 1.0]), np.array([0.3, 0.0]), np.array([-1.0, 0.0]))


def noisy_knots() -> FloatArray:
    random = np.random.default_rng(0)
    return np.array([0.0, 1.0]) + 0.01 * np.cumsum(random.standard_normal((8, 2)), axis=0)


def integral(nodes: Nodes) -> FloatArray:
    """The acceleration part of what exact() minimises, by sampling."""
    trajectory = JointTrajectory(
        ("a", "b"), nodes.times_s, nodes.positions, nodes.velocities, nodes.accelerations
    )
    times = np.linspace(nodes.times_s[0], nodes.times_s[-1], 4000, endpoint=False)
    samples = Motion(trajectory).sample(times)
    cost = samples.accelerations**2 + (0.01 * samples.jerks) ** 2
    return np.mean(cost, axis=0)


def test_knots_and_start_are_met_to_the_last_bit(spline: KnotSpline) -> None:
    knots = noisy_knots()
    for nodes in (spline.exact(start(), knots), spline.flattened(start(), knots, np.full(2, 0.1))):
        np.testing.assert_array_equal(spline.knots_of(nodes), knots)
        np.testing.assert_array_equal(nodes.velocities[0], start().velocities)
        np.testing.assert_array_equal(nodes.accelerations[0], start().accelerations)


def test_no_other_velocities_or_accelerations_cost_less(spline: KnotSpline) -> None:
    nodes = spline.exact(start(), noisy_knots())
    best = integral(nodes)
    random = np.random.default_rng(1)
    for scale in (1e-2, 1e-1, 1.0):
        velocities, accelerations = nodes.velocities.copy(), nodes.accelerations.copy()
        velocities[1:] += 0.1 * scale * random.standard_normal((8, 2))
        accelerations[1:] += scale * random.standard_normal((8, 2))
        other = Nodes(nodes.times_s, nodes.positions, velocities, accelerations)
        assert np.all(integral(other) >= best)


def test_a_parabola_is_reproduced(spline: KnotSpline) -> None:
    """Constant acceleration needs no jerk: the curve has none and peaks at that acceleration."""
    times = np.array(KNOT_TIMES) - 0.01
    begin = MotionState(np.zeros(1), np.array([0.2]), np.array([1.5]))
    knots = (0.2 * times + 0.75 * times**2)[:, None]
    nodes = spline.exact(begin, knots)
    # The end is free: acceleration may fall off behind the last knots, nowhere before.
    np.testing.assert_allclose(nodes.accelerations[:4], 1.5, atol=0.03)


def test_flattened_lowers_the_peak_at_a_bad_join(spline: KnotSpline) -> None:
    """The arm moves at 0.3 rad/s, the chunk wants it to stand."""
    begin = MotionState(np.zeros(1), np.array([0.3]), np.zeros(1))
    knots = np.zeros((8, 1))
    exact = np.abs(control_points(spline.exact(begin, knots)).accelerations).max()
    flat = np.abs(control_points(spline.flattened(begin, knots, np.ones(1))).accelerations).max()
    assert flat < 0.70 * exact


def test_no_other_finer_curve_through_the_knots_costs_less_when_nothing_is_reweighted(
    spline: KnotSpline,
) -> None:
    """Without a limit one pass is all: the minimum with more nodes, jerk's weight 5 ms."""

    def cost(nodes: Nodes) -> FloatArray:
        motion = Motion(JointTrajectory(("a", "b"), nodes.times_s, *nodes.states))
        times = np.linspace(nodes.times_s[0], nodes.times_s[-1], 20_001)
        samples = motion.sample(times[:-1])
        squares = samples.accelerations**2 + (0.005 * samples.jerks) ** 2
        end = 4.0 / 0.36 * nodes.velocities[-1] ** 2
        result: FloatArray = (times[-1] - times[0]) * squares.mean(axis=0) + end
        return result

    nodes = spline.flattened(start(), noisy_knots(), np.full(2, np.inf))
    best = cost(nodes)
    knots = np.isin(nodes.times_s, spline.times_s)
    random = np.random.default_rng(2)
    for scale in (1e-3, 1e-2, 1e-1):
        states = nodes.states.copy()
        states[0, ~knots] += 0.001 * scale * random.standard_normal(states[0, ~knots].shape)
        states[1:, 1:] += scale * random.standard_normal(states[1:, 1:].shape)
        assert np.all(cost(Nodes.of_states(nodes.times_s, states)) > best)


def test_refined_is_the_same_curve(spline: KnotSpline) -> None:
    nodes = spline.exact(start(), noisy_knots())
    refined = spline.refined(nodes)
    np.testing.assert_array_equal(spline.knots_of(refined), nodes.positions[1:])
    np.testing.assert_allclose(integral(refined), integral(nodes), rtol=1e-6)


def test_smoothing_goes_from_the_knots_to_nearly_straight(spline: KnotSpline) -> None:
    knots = noisy_knots()
    ladder = spline.smoothed(start(), knots)
    exact = ladder.of_joints(np.arange(2))
    # Solved together with the smoothed ones: BLAS may round otherwise.
    np.testing.assert_allclose(exact.states, spline.exact(start(), knots).states, rtol=1e-12)
    even = range(1 + len(SMOOTHINGS), 1 + 2 * len(SMOOTHINGS))
    curves = [ladder.of_joints(2 * level + np.arange(2)) for level in even]
    deviations = [np.abs(spline.knots_of(nodes) - knots).max() for nodes in curves]
    peaks = [np.abs(nodes.accelerations[1:]).max() for nodes in curves]
    assert deviations == sorted(deviations)
    assert deviations[0] < 2e-4
    assert peaks[-1] < 0.3 * peaks[0]


def test_fading_smoothings_are_soon_back_on_the_targets(spline: KnotSpline) -> None:
    """A ramp at 0.5 rad/s from rest: knots 1 to 4 lag, and the last ones do not."""
    times = np.array(KNOT_TIMES)
    knots = np.column_stack((0.05 + 0.5 * times, 0.05 + 0.5 * times))
    ladder = spline.smoothed(MotionState.at_rest(np.zeros(2)), knots)
    fading, even = (
        np.abs(spline.knots_of(ladder.of_joints(np.array([2 * level]))) - knots[:, :1])
        for level in (len(SMOOTHINGS) - 1, 2 * len(SMOOTHINGS) - 1)
    )
    assert fading[1] > 0.02
    assert fading[-2:].max() < 0.002 < 0.01 < even[-2:].max()
