# SPDX-License-Identifier: Apache-2.0
"""A curve meets its points exactly, has the controller's degree, and rests after its end."""

import numpy as np
import pytest

from par_ros.control.joint_trajectory import JointTrajectory, Motion, MotionState

NAMES = ("a", "b")


def trajectory(**changes: object) -> JointTrajectory:
    values: dict[str, object] = {
        "joint_names": NAMES,
        "times_s": np.array([0.05, 0.1, 0.3]),
        "positions": np.array([[0.1, -0.1], [0.3, 0.2], [0.2, 0.2]]),
        "velocities": np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 0.0]]),
        "accelerations": np.array([[2.0, 1.0], [-3.0, 0.5], [0.0, 0.0]]),
    }
    return JointTrajectory(**{**values, **changes})  # type: ignore[arg-type]


def start() -> MotionState:
    return MotionState(np.array([0.0, 0.1]), np.array([0.3, -0.2]), np.array([1.0, 2.0]))


def test_each_point_is_met_to_the_last_bit() -> None:
    points = trajectory()
    samples = Motion(points, start()).sample(points.times_s)
    np.testing.assert_array_equal(samples.positions, points.positions)


def test_quintic_meets_velocity_and_acceleration_at_both_ends_of_a_piece() -> None:
    points = trajectory()
    motion = Motion(points, start())
    assert points.velocities is not None
    assert points.accelerations is not None
    before = motion.sample(points.times_s[:-1] - 1e-9)
    after = motion.sample(points.times_s[:-1] + 1e-9)
    for samples in (before, after):
        np.testing.assert_allclose(samples.velocities, points.velocities[:-1], atol=1e-6)
        np.testing.assert_allclose(samples.accelerations, points.accelerations[:-1], atol=1e-3)
    begin = motion.state_at(0.0)
    np.testing.assert_allclose(begin.velocities, start().velocities)
    np.testing.assert_allclose(begin.accelerations, start().accelerations)


def test_sampled_velocity_is_the_slope_of_sampled_position() -> None:
    motion = Motion(trajectory(), start())
    times = np.linspace(0.001, 0.299, 200)
    ahead, behind = motion.sample(times + 1e-6), motion.sample(times - 1e-6)
    here = motion.sample(times)
    slope = (ahead.positions - behind.positions) / 2e-6
    np.testing.assert_allclose(here.velocities, slope, atol=1e-4)
    slope = (ahead.velocities - behind.velocities) / 2e-6
    np.testing.assert_allclose(here.accelerations, slope, atol=2e-3)
    slope = (ahead.accelerations - behind.accelerations) / 2e-6
    np.testing.assert_allclose(here.jerks, slope, rtol=1e-3, atol=1.0)


def test_positions_only_is_linear_and_with_velocities_cubic() -> None:
    linear = Motion(trajectory(velocities=None, accelerations=None), start())
    np.testing.assert_allclose(linear.state_at(0.075).positions, [0.2, 0.05])
    cubic = Motion(trajectory(accelerations=None), start())
    jerks = cubic.sample(np.array([0.06, 0.09])).jerks
    np.testing.assert_allclose(jerks[0], jerks[1])


def test_it_rests_after_the_end() -> None:
    state = Motion(trajectory(), start()).state_at(5.0)
    np.testing.assert_array_equal(state.positions, [0.2, 0.2])
    assert not state.velocities.any()
    assert not state.accelerations.any()


def test_points_in_the_past_are_not_blended() -> None:
    """A start later than the first point: the curve is the one between the points alone."""
    late = Motion(trajectory(), start(), 0.07)
    on_time = Motion(trajectory())
    np.testing.assert_array_equal(late.state_at(0.08).positions, on_time.state_at(0.08).positions)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"joint_names": ("a", "c")}, "trajectory joints must be ['a', 'b'], got ['a', 'c']"),
        ({"times_s": np.array([0.05, 0.05, 0.3])}, "strictly increasing"),
        ({"times_s": np.array([-0.05, 0.1, 0.3])}, "strictly increasing"),
        ({"positions": np.full((3, 2), np.nan)}, "positions must be finite"),
        ({"velocities": np.ones((3, 2))}, "must end at rest"),
        ({"positions": np.zeros((2, 2))}, "positions must have shape (3, 2)"),
        ({"velocities": None}, "needs velocities too"),
        ({"times_s": np.empty(0)}, "needs at least one point"),
    ],
)
def test_what_a_controller_rejects_is_refused_with_a_sentence(
    changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError) as error:
        trajectory(**changes).validate(NAMES)
    assert sentence in str(error.value)


def test_columns_follow_the_names() -> None:
    swapped = trajectory().reordered(("b", "a"))
    np.testing.assert_array_equal(swapped.positions, trajectory().positions[:, ::-1])
