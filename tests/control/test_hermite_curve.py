# SPDX-License-Identifier: Apache-2.0
"""Control points bound the curve between any two states, everywhere."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.hermite_curve import Nodes, control_points, gram_matrix
from par_ros.control.joint_trajectory import JointTrajectory, Motion

numbers = st.floats(-10.0, 10.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers, min_size=6, max_size=6), st.floats(0.002, 0.5))
def test_control_points_bound_position_velocity_acceleration_and_jerk(
    state: list[float], duration_s: float
) -> None:
    values = np.array(state).reshape(2, 3)
    nodes = Nodes(np.array([0.0, duration_s]), values[:, :1], values[:, 1:2], values[:, 2:])
    trajectory = JointTrajectory(
        ("a",), nodes.times_s, nodes.positions, nodes.velocities, nodes.accelerations
    )
    samples = Motion(trajectory).sample(np.linspace(0.0, duration_s, 500, endpoint=False))
    points = control_points(nodes)
    for bound, curve in zip(
        points.arrays(),
        (samples.positions, samples.velocities, samples.accelerations, samples.jerks),
        strict=True,
    ):
        slack = 1e-9 * (1.0 + np.abs(bound).max())
        assert bound.min() <= curve.min() + slack
        assert bound.max() >= curve.max() - slack
        # Four splits keep the hull close: a guard that is far too careful is no guard.
        spread = curve.max() - curve.min()
        assert bound.max() - bound.min() <= 1.5 * spread + slack


def test_gram_matrix_integrates_products_of_bernstein_polynomials() -> None:
    """Sum of all entries: the integral of 1 over [0, 1]."""
    for degree in (2, 3):
        assert np.isclose(gram_matrix(degree).sum(), 1.0)
        np.testing.assert_allclose(gram_matrix(degree).sum(axis=0), 1.0 / (degree + 1))


def some_nodes() -> Nodes:
    random = np.random.default_rng(0)
    return Nodes(np.array([0.1, 0.15, 0.3]), *random.normal(size=(3, 3, 2)))


def test_resampled_is_the_same_curve_and_the_old_nodes_keep_every_bit() -> None:
    nodes = some_nodes()
    times_s = np.array([0.1, 0.12, 0.15, 0.2, 0.21, 0.3])
    more = nodes.resampled(times_s)
    np.testing.assert_array_equal(more.pick(np.array([0, 2, 5])).states, nodes.states)
    names = ("a", "b")
    motions = [Motion(JointTrajectory(names, each.times_s, *each.states)) for each in (nodes, more)]
    moments = np.linspace(0.1, 0.3, 200, endpoint=False)
    for one, other in zip(*(vars(motion.sample(moments)).values() for motion in motions),
                          strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other, atol=1e-9 * (1.0 + np.abs(one).max()))


def test_nodes_side_by_side_one_after_the_other_later_and_at_rest() -> None:
    nodes = some_nodes()
    later = nodes.shifted(1.0).after(nodes)
    np.testing.assert_array_equal(later.times_s, [0.1, 0.15, 0.3, 1.1, 1.15, 1.3])
    np.testing.assert_array_equal(later.last_state.velocities, nodes.velocities[2])
    np.testing.assert_array_equal(later.positions[0], nodes.positions[0])
    changed = nodes.with_joints(np.array([1]), nodes.of_joints(np.array([0])).states)
    np.testing.assert_array_equal(changed.accelerations[:, 1], nodes.accelerations[:, 0])
    np.testing.assert_array_equal(changed.of_joints(np.array([0])).states, nodes.states[:, :, :1])
    assert nodes.resting_until(0.3) is nodes
    assert nodes.resting_until(0.3 + 4e-10) is nodes
    resting = nodes.resting_until(0.5)
    assert resting.times_s[-1] == 0.5
    np.testing.assert_array_equal(resting.last_state.positions, nodes.positions[-1])
    assert not resting.last_state.velocities.any()


def test_trials_are_the_curve_itself_ends_included() -> None:
    nodes = some_nodes()
    positions, velocities, accelerations = control_points(nodes).trials()
    for rows, ends in zip((positions, velocities, accelerations), nodes.states, strict=True):
        np.testing.assert_allclose(rows[0], ends[:-1], atol=1e-12)
        np.testing.assert_allclose(rows[-1], ends[1:], atol=1e-9)
