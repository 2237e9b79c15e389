# SPDX-License-Identifier: Apache-2.0
"""Joint states: 7 joints and a gripper, picked by name out of what drivers send."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ((*NAMES, "finger"), np.zeros(9), r"got \['finger'\] twice in one message"),
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


def test_velocities_that_are_not_a_number_are_absent() -> None:
    """The gripper's alone: 0, as nobody asks for it; one of the arm's: all of the sample's."""
    selector = JointStateSelector(NAMES)
    velocities = np.append(np.ones(7), np.nan)
    sample = selector.take(reading(NAMES, np.zeros(8), velocities))
    assert isinstance(sample, JointSample)
    np.testing.assert_array_equal(sample.velocities, [*np.ones(7), 0.0])
    velocities[2] = np.nan
    sample = selector.take(reading(NAMES, np.zeros(8), velocities))
    assert isinstance(sample, JointSample)
    assert sample.velocities is None
    velocities[2] = np.inf
    with pytest.raises(ValueError, match="velocities must be finite"):
        selector.take(reading(NAMES, np.zeros(8), velocities))


def lacks(selector: JointStateSelector, taken: JointReading) -> MissingJoints:
    missing = selector.take(taken)
    assert isinstance(missing, MissingJoints)
    return missing


def test_parts_of_a_joint_state_are_put_together() -> None:
    """Arm and gripper 40 ms apart: one sample with the arm's stamp; 60 ms apart: none."""
    selector = JointStateSelector(NAMES)
    arm, gripper = (NAMES[:7], np.arange(7.0)), (NAMES[7:], np.array([7.0]))
    missing = lacks(selector, reading(*arm))
    assert missing.names == NAMES[7:]
    assert missing.reason == "joint states lack ['finger']; check the joint_states topic"
    sample = selector.take(reading(*gripper, stamp_ns=S + 40_000_000))
    assert isinstance(sample, JointSample)
    assert sample.stamp_ns == S
    np.testing.assert_array_equal(sample.positions, np.arange(8.0))
    assert sample.velocities is None
    late = lacks(selector, reading(*arm, stamp_ns=2 * S))
    assert late.names == NAMES[7:]
    assert "of ['finger'] may be 0.05 s older than the others', they are 0.960 s" in late.reason
    late = lacks(selector, reading(*gripper, stamp_ns=2 * S + 60_000_000))
    assert late.names == NAMES[:7]


def test_the_grippers_newest_part_serves_until_it_is_old() -> None:
    """Arm at 100 Hz, gripper at 20 Hz: a sample a message of the arm, none a gripper's."""
    selector = JointStateSelector(NAMES)
    samples = []
    for index in range(100):
        stamp_ns = S + index * 10_000_000
        if index % 5 == 0:
            taken = selector.take(reading(NAMES[7:], np.array([float(index)]), stamp_ns=stamp_ns))
            assert not isinstance(taken, JointSample)
        samples.append(selector.take(reading(NAMES[:7], np.ones(7), stamp_ns=stamp_ns)))
    stamps = [sample.stamp_ns for sample in samples if isinstance(sample, JointSample)]
    assert stamps == [S + index * 10_000_000 for index in range(100)]


def test_other_joints_may_be_doubled_and_not_finite() -> None:
    """Wheels, mimic joints and another arm on the topic."""
    names = ("wheel", "wheel", "finger_mimic", *NAMES)
    values = np.append([np.nan, np.inf, np.nan], np.arange(8.0))
    sample = JointStateSelector(NAMES).take(reading(names, values, values))
    assert isinstance(sample, JointSample)
    np.testing.assert_array_equal(sample.positions, np.arange(8.0))


def test_a_prefix_is_named_and_then_read() -> None:
    """Two arms on one topic, left_ and right_."""
    both = tuple(side + name for side in ("left_", "right_") for name in NAMES)
    values = np.arange(16.0)
    missing = lacks(JointStateSelector(NAMES), reading(both, values))
    assert missing.reason == (
        "joint states lack joint1 and have left_joint1; set joint_prefix:=left_"
    )
    for prefix, first in (("left_", 0.0), ("right_", 8.0)):
        sample = JointStateSelector(NAMES, prefix).take(reading(both, values))
        assert isinstance(sample, JointSample)
        np.testing.assert_array_equal(sample.positions, first + np.arange(8.0))
    missing = lacks(JointStateSelector(NAMES, "arm1_"), reading(NAMES, np.zeros(8)))
    assert missing.reason == "joint states lack arm1_joint1 and have joint1; set joint_prefix:=''"
    assert JointStateSelector(NAMES, "arm1_").take(reading(("wheel",), np.zeros(1))) is None
    # Once the arm's own have been heard, another arm's names are nobody's fault.
    selector = JointStateSelector(NAMES)
    selector.take(reading(NAMES, np.zeros(8)))
    assert selector.take(reading(both, values)) is None


@given(
    st.permutations(range(8)), st.lists(st.integers(1, 7), unique=True, max_size=3),
    st.integers(20, 1000), st.booleans(), st.sampled_from(["", "left_"]),
)  # fmt: skip
def test_however_the_joints_are_split_each_round_is_one_sample(
    order: list[int], cuts: list[int], rate_hz: int, has_velocities: bool, prefix: str
) -> None:
    """Up to four publishers, each at the same rate, any order of joints, other joints besides."""
    selector = JointStateSelector(NAMES, prefix)
    bounds = [0, *sorted(cuts), 8]
    parts = [order[low:high] for low, high in pairwise(bounds)]
    for number in range(5):
        stamp_ns = S + number * S // rate_hz
        samples = []
        for part in parts:
            names = ("wheel", *(prefix + NAMES[joint] for joint in part))
            values = np.array([np.nan, *(joint + 10.0 * number for joint in part)])
            taken = selector.take(
                reading(names, values, values if has_velocities else None, stamp_ns)
            )
            samples += [taken] if isinstance(taken, JointSample) else []
        if number == 0 or len(samples) == 1:
            assert len(samples) == 1
        # A gripper of its own, published last, may be the one of the round before.
        sample = samples[-1]
        assert sample.stamp_ns == stamp_ns
        np.testing.assert_array_equal(sample.positions[:7], np.arange(7.0) + 10.0 * number)
        assert sample.positions[7] in (7.0 + 10.0 * number, 7.0 + 10.0 * (number - 1))
        assert (sample.velocities is not None) == has_velocities
