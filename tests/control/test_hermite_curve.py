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
