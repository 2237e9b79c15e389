# SPDX-License-Identifier: Apache-2.0
"""Image and joints by stamp, or a reason; a missing joint is no observation, never zero."""

import numpy as np
import pytest

from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.observation_assembler import (
    AssembledObservation,
    AssemblerSettings,
    ObservationAssembler,
    Refusal,
)

MS = 1_000_000
NOW = 10_000 * MS
NAMES = ("a", "b")
IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)


def add(
    made: ObservationAssembler, stamp_ns: int, names: tuple[str, ...], positions: FloatArray
) -> bool:
    return made.add_joint_state(JointReading(stamp_ns, names, positions, None))


def assembler(joints_at_ns: int = NOW) -> ObservationAssembler:
    made = ObservationAssembler(NAMES, AssemblerSettings())
    # Another order, and a joint that is not ours.
    add(made, joints_at_ns, ("b", "wheel", "a"), np.array([2.0, 9.0, 1.0]))
    return made


def kind(result: AssembledObservation | Refusal) -> str:
    return result.kind if isinstance(result, Refusal) else "observation"


def test_joints_are_matched_by_name_and_stamp() -> None:
    made = assembler()
    for offset_ms in (10, 20, 30):
        add(made, NOW + offset_ms * MS, NAMES, np.array([offset_ms, 0.0]))
    result = made.assemble(IMAGE, NOW + 19 * MS, NOW + 30 * MS)
    assert isinstance(result, AssembledObservation)
    np.testing.assert_array_equal(result.measured_joint_positions, [20.0, 0.0])
    assert result.joint_stamp_ns == NOW + 20 * MS
    assert result.executed_actions is None


@pytest.mark.parametrize(
    ("image_ms", "now_ms", "expected"),
    [
        (0, 0, "observation"),
        (0, 400, "observation"),
        (0, 401, "stale"),
        (11, 0, "future"),
        (10, 0, "observation"),
        (51, 51, "skew"),
        (-51, 0, "skew"),
    ],
)
def test_age_and_skew(image_ms: int, now_ms: int, expected: str) -> None:
    assert kind(assembler().assemble(IMAGE, NOW + image_ms * MS, NOW + now_ms * MS)) == expected


def test_without_joint_states_there_is_a_reason() -> None:
    result = ObservationAssembler(NAMES).assemble(IMAGE, NOW, NOW)
    assert isinstance(result, Refusal)
    assert "no joint state has come for ['a', 'b']" in result.reason


@pytest.mark.parametrize(
    ("names", "positions", "sentence"),
    [
        (("a", "b", "b"), [1.0, 2.0, 3.0], "must be unique"),
        (("a", "b"), [1.0], "one entry for each of 2 names"),
        (("a", "b"), [1.0, np.nan], "must be finite"),
    ],
)
def test_a_bad_joint_state_refuses_the_next_observation_too(
    names: tuple[str, ...], positions: list[float], sentence: str
) -> None:
    made = assembler()
    with pytest.raises(ValueError) as error:
        add(made, NOW + MS, names, np.array(positions))
    assert sentence in str(error.value)
    result = made.assemble(IMAGE, NOW, NOW)
    assert isinstance(result, Refusal)
    assert sentence in result.reason
    add(made, NOW + 2 * MS, NAMES, np.zeros(2))
    assert kind(made.assemble(IMAGE, NOW, NOW)) == "observation"


def test_parts_of_joint_states_are_an_observation_once_all_have_come() -> None:
    """Joint b comes 20 ms after a; the older stamp counts. Without b the refusal names it."""
    made = ObservationAssembler(NAMES, AssemblerSettings())
    add(made, NOW, ("a",), np.array([1.0]))
    refusal = made.assemble(IMAGE, NOW, NOW)
    assert isinstance(refusal, Refusal)
    assert "['b']" in refusal.reason
    add(made, NOW + 20 * MS, ("b",), np.array([2.0]))
    observation = made.assemble(IMAGE, NOW, NOW)
    assert isinstance(observation, AssembledObservation)
    assert observation.joint_stamp_ns == NOW
    np.testing.assert_array_equal(observation.measured_joint_positions, [1.0, 2.0])


def test_an_image_is_due_when_the_chunk_has_ended() -> None:
    """An image up to 1 ms before the end counts as taken at the end."""
    made = assembler()
    assert made.is_due(NOW)
    made.add_executed_actions(np.ones((8, 2)), NOW + 400 * MS)
    assert not made.is_due(NOW + 398 * MS)
    assert made.is_due(NOW + 399 * MS)
    assert kind(made.assemble(IMAGE, NOW + 300 * MS, NOW + 300 * MS)) == "not_due"
    add(made, NOW + 400 * MS, NAMES, np.zeros(2))
    result = made.assemble(IMAGE, NOW + 400 * MS, NOW + 400 * MS)
    assert isinstance(result, AssembledObservation)
    np.testing.assert_array_equal(result.executed_actions, np.ones((8, 2)))


def test_reset_starts_an_episode() -> None:
    made = assembler()
    made.add_executed_actions(np.ones((8, 2)), NOW + 400 * MS)
    made.reset()
    assert made.is_due(NOW)
    assert kind(made.assemble(IMAGE, NOW, NOW)) == "joints"
