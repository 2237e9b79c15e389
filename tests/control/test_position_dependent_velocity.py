# SPDX-License-Identifier: Apache-2.0
"""Velocity limits that shrink towards the ends of a joint's range.

The published curve of FR3's first joint: 2.62 rad/s in the middle, 0 from 2.7426 rad on. At 2.5 rad
it allows -0.30 + sqrt(12 * 0.2501) = 1.4324 rad/s outwards and the full 2.62 rad/s back.
"""

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_limits import JointLimits, PositionDependentVelocity
from tests.control.arms import arm, content

FR3 = arm("fr3").limits
SHARES = st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7)


def at(shares: list[float]) -> np.ndarray:
    """The positions at these shares of each joint's range."""
    return FR3.min_position + np.array(shares) * (FR3.max_position - FR3.min_position)


def test_the_published_curve() -> None:
    position = FR3.max_position.copy()
    position[0] = 2.5
    lowest, highest = FR3.velocity_bounds(position)
    assert highest[0] == pytest.approx(1.4324, abs=1e-4)
    assert lowest[0] == -2.62


def test_in_the_middle_it_is_the_constant_limit() -> None:
    lowest, highest = FR3.velocity_bounds((FR3.min_position + FR3.max_position) / 2)
    np.testing.assert_array_equal(highest, FR3.max_velocity)
    np.testing.assert_array_equal(lowest, -FR3.max_velocity)


def test_at_the_ends_of_the_range_it_is_zero_outwards() -> None:
    """franka_description rounds the ends to where the curve is at most 0.005 rad/s."""
    assert np.all(FR3.velocity_bounds(FR3.max_position)[1] <= 0.005)
    assert np.all(FR3.velocity_bounds(FR3.min_position)[0] >= -0.005)
    beyond = FR3.max_position + 0.1
    np.testing.assert_array_equal(FR3.velocity_bounds(beyond)[1], np.zeros(7))
    assert np.all(FR3.velocity_bounds(beyond)[0] < 0.0)


@given(SHARES, SHARES)
def test_nearer_to_an_end_is_never_faster_towards_it(one: list[float], other: list[float]) -> None:
    near, far = np.maximum(at(one), at(other)), np.minimum(at(one), at(other))
    assert np.all(FR3.velocity_bounds(near)[1] <= FR3.velocity_bounds(far)[1])
    assert np.all(FR3.velocity_bounds(near)[0] <= FR3.velocity_bounds(far)[0])


@given(SHARES)
def test_bounds_hold_zero_and_stay_within_the_constant_limit(shares: list[float]) -> None:
    lowest, highest = FR3.velocity_bounds(at(shares))
    assert np.all((lowest <= 0.0) & (highest >= 0.0))
    assert np.all((lowest >= -FR3.max_velocity) & (highest <= FR3.max_velocity))


@given(SHARES)
def test_many_positions_at_once_and_selections_agree(shares: list[float]) -> None:
    position = at(shares)
    lowest, highest = FR3.velocity_bounds(np.tile(position, (2, 3, 1)))
    assert lowest.shape == highest.shape == (2, 3, 7)
    one = FR3.velocity_bounds(position)
    np.testing.assert_array_equal(highest[1, 2], one[1])
    columns = np.array([6, 1])
    for bound, whole in zip(FR3.of_joints(columns).velocity_bounds(position[columns]), one,
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(bound, whole[columns])
    for bound, whole in zip(FR3.repeated(2).velocity_bounds(np.tile(position, 2)), one,
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(bound, np.tile(whole, 2))


def test_without_it_the_constant_limit_holds_everywhere() -> None:
    limits: JointLimits = dataclasses.replace(FR3, position_dependent_velocity=None)
    lowest, highest = limits.velocity_bounds(np.stack((FR3.max_position, FR3.min_position)))
    np.testing.assert_array_equal(highest, np.tile(FR3.max_velocity, (2, 1)))
    np.testing.assert_array_equal(lowest, -highest)


def test_a_joint_without_the_section_keeps_the_constant_limit() -> None:
    mapping = copy.deepcopy(content("fr3"))
    del mapping["joints"]["fr3_joint1"]["position_dependent_velocity"]  # type: ignore[index]
    limits = ArmSpec.from_mapping("fr3", mapping).limits
    lowest, highest = limits.velocity_bounds(limits.max_position)
    assert (lowest[0], highest[0]) == (-2.62, 2.62)
    assert highest[1] < 0.005


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("slope_rad_s2", 0.0, "slope_rad_s2 must be positive"),
        ("offset_rad_s", 0.1, "offset_rad_s must be 0 or negative"),
        ("upper_position_rad", -1.0, "position_dependent_velocity must be above 0 both ways"),
        ("upper_position_rad", "far", "upper_position_rad must be a number, got far"),
        ("upper", 1.0, "position_dependent_velocity must be among"),
    ],
)
def test_a_mistake_is_named(entry: str, value: object, sentence: str) -> None:
    mapping = copy.deepcopy(content("fr3"))
    mapping["joints"]["fr3_joint1"]["position_dependent_velocity"][entry] = value  # type: ignore[index]
    with pytest.raises(ValueError, match=sentence):
        ArmSpec.from_mapping("broken", mapping)


def test_a_misspelt_section_is_not_taken_for_none() -> None:
    mapping = copy.deepcopy(content("fr3"))
    joint = mapping["joints"]["fr3_joint1"]  # type: ignore[index]
    joint["position_dependant_velocity"] = joint.pop("position_dependent_velocity")
    with pytest.raises(ValueError, match=r"joints\.fr3_joint1 must be among"):
        ArmSpec.from_mapping("broken", mapping)


def test_numbers_are_those_of_libfranka() -> None:
    dependent = FR3.position_dependent_velocity
    assert isinstance(dependent, PositionDependentVelocity)
    np.testing.assert_array_equal(dependent.slope, [12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])
    np.testing.assert_array_equal(
        dependent.offset, [-0.30, -0.20, -0.20, -0.30, -0.35, -0.35, -0.35]
    )
    np.testing.assert_array_equal(
        dependent.upper_position, [2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196]
    )
    np.testing.assert_array_equal(
        dependent.lower_position, [-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196]
    )
