# SPDX-License-Identifier: Apache-2.0
"""Joint states: 7 joints and a gripper, picked by name out of what drivers send."""

import numpy as np
import pytest

from par_ros.control.joint_states import (
    JointReading,
    JointSample,
    JointStateSelector,
    MissingJoints,
)
from par_ros.control.joint_trajectory import FloatArray

S = 1_000_000_000
NAMES = (*(f"joint{number}" for number in range(1, 8)), "finger")


def reading(
    names: tuple[str, ...],
    positions: FloatArray,
    velocities: FloatArray | None = None,
    stamp_ns: int = S,
) -> JointReading:
    return JointReading(stamp_ns, names, positions, velocities)


def test_the_arms_joints_are_picked_by_name_in_the_arms_order() -> None:
    names = ("wheel", *reversed(NAMES))
    values = np.arange(9.0)
    sample = JointStateSelector(NAMES).take(reading(names, values, values + 10))
    assert isinstance(sample, JointSample)
    np.testing.assert_array_equal(sample.positions, [8, 7, 6, 5, 4, 3, 2, 1])
    np.testing.assert_array_equal(sample.velocities, [18, 17, 16, 15, 14, 13, 12, 11])


def test_joints_of_others_are_ignored_whatever_is_wrong_with_them() -> None:
    selector = JointStateSelector(NAMES)
    assert selector.take(reading(("wheel", "wheel"), np.array([np.nan]))) is None
    assert selector.take(reading((), np.zeros(0))) is None


@pytest.mark.parametrize(
    ("names", "positions", "sentence"),
    [
        (NAMES, np.zeros(7), "one entry for each of 8 names, got 7"),
        ((*NAMES, "finger"), np.zeros(9), "must be unique"),
        (("joint1", "joint1"), np.zeros(2), "must be unique"),
        (("joint1",), np.zeros(2), "one entry for each of 1 names, got 2"),
        (NAMES, np.append(np.zeros(7), np.inf), "positions must be finite"),
    ],
)
def test_what_is_wrong_with_ours_is_refused(
    names: tuple[str, ...], positions: FloatArray, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        JointStateSelector(NAMES).take(reading(names, positions))


def test_the_grippers_velocity_may_be_not_a_number() -> None:
    selector = JointStateSelector(NAMES)
    velocities = np.append(np.zeros(7), np.nan)
    sample = selector.take(reading(NAMES, np.zeros(8), velocities))
    assert isinstance(sample, JointSample)
    np.testing.assert_array_equal(sample.velocities, np.zeros(8))
    velocities[2] = np.nan
    with pytest.raises(ValueError, match="velocities must be finite"):
        selector.take(reading(NAMES, np.zeros(8), velocities))


def test_parts_of_a_joint_state_are_put_together() -> None:
    """Arm and gripper 40 ms apart: one sample with the older stamp; 60 ms apart: none."""
    selector = JointStateSelector(NAMES)
    arm, gripper = (NAMES[:7], np.arange(7.0)), (NAMES[7:], np.array([7.0]))
    assert selector.take(reading(*arm)) == MissingJoints(NAMES[7:])
    sample = selector.take(reading(*gripper, stamp_ns=S + 40_000_000))
    assert isinstance(sample, JointSample)
    assert sample.stamp_ns == S
    np.testing.assert_array_equal(sample.positions, np.arange(8.0))
    assert sample.velocities is None
    assert selector.take(reading(*arm, stamp_ns=2 * S)) == MissingJoints(NAMES[7:])
    assert selector.take(reading(*gripper, stamp_ns=2 * S + 60_000_000)) == MissingJoints(())
