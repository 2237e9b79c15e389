# SPDX-License-Identifier: Apache-2.0
"""What a refused chunk or image is told: the limit, what came and what to check."""

import numpy as np
import pytest

from par_ros.control.action_schedule import ActionSchedule, PlacedChunk, ScheduleRefusal
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.observation_assembler import (
    AssembledObservation,
    AssemblerSettings,
    ObservationAssembler,
    Refusal,
)

MS = 1_000_000
NOW = 5_000 * MS
SPLICE = 30 * MS
NAMES = ("a", "b")
IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)


# Chunks


def place(schedule: ActionSchedule, age_ms: int) -> PlacedChunk | ScheduleRefusal:
    return schedule.place(NOW - age_ms * MS, NOW, NOW + SPLICE)


@pytest.mark.parametrize(
    ("age_ms", "kind", "reason"),
    [
        (
            -250,
            "future",
            "a chunk's stamp must not lie in the future, this one is 0.250 s ahead; check that "
            "policy and guard use the same clock (use_sim_time).",
        ),
        (
            650,
            "late",
            "a chunk may answer an observation of up to 0.4 s ago, this one is 0.650 s old; check "
            "the policy's inference time.",
        ),
        (
            100,
            "duplicate",
            "a chunk with this stamp has come before; check for two policies.",
        ),
        (
            350,
            "reordered",
            "chunks' stamps must increase, this one is 0.250 s behind the last; check for two "
            "policies and the policy's clock.",
        ),
    ],
)
def test_a_refused_chunk(age_ms: int, kind: str, reason: str) -> None:
    schedule = ActionSchedule(GuardSettings())
    if kind in ("duplicate", "reordered"):
        place(schedule, 100)
    assert place(schedule, age_ms) == ScheduleRefusal(kind, reason)  # type: ignore[arg-type]


def test_a_chunk_from_the_future_does_not_use_its_stamp_and_a_late_one_does() -> None:
    schedule = ActionSchedule(GuardSettings())
    assert isinstance(place(schedule, -250), ScheduleRefusal)
    assert place(schedule, 0) == PlacedChunk(NOW + SPLICE, 0)
    schedule = ActionSchedule(GuardSettings())
    assert isinstance(place(schedule, 650), ScheduleRefusal)
    refusal = place(schedule, 650)
    assert isinstance(refusal, ScheduleRefusal) and refusal.kind == "duplicate"


def test_a_lockstep_chunk_uses_its_stamp() -> None:
    schedule = ActionSchedule(GuardSettings(lockstep=True))
    assert place(schedule, 0) == PlacedChunk(NOW, 0)
    refusal = place(schedule, 0)
    assert isinstance(refusal, ScheduleRefusal) and refusal.kind == "duplicate"


@pytest.mark.parametrize(
    ("age_ms", "first_action"), [(-5, 1), (0, 1), (49, 1), (50, 2), (299, 6), (300, 7), (349, 7)]
)
def test_from_the_observation_the_first_action_sent_is_ahead(
    age_ms: int, first_action: int
) -> None:
    """30 ms of splice and 20 ms of lead: an action is due each 50 ms; the 8th at 350 ms is late."""
    schedule = ActionSchedule(GuardSettings(chunk_start="observation"))
    # a stamp ahead of the clock counts as now
    assert place(schedule, age_ms) == PlacedChunk(NOW - max(age_ms, 0) * MS, first_action)


def test_from_the_observation_a_chunk_without_an_action_left_is_late() -> None:
    schedule = ActionSchedule(GuardSettings(chunk_start="observation"))
    assert place(schedule, 350) == ScheduleRefusal(
        "late",
        "a chunk may answer an observation of up to 0.4 s ago, this one is 0.350 s old; check the "
        "policy's inference time.",
    )


@pytest.mark.parametrize(
    ("splice_ms", "start_ms"), [(0, 0), (129, 100), (130, 100), (131, 150), (180, 150), (181, 200)]
)
def test_a_later_control_step_is_a_whole_number_of_steps_away(
    splice_ms: int, start_ms: int
) -> None:
    schedule = ActionSchedule(GuardSettings(chunk_start="control_step"))
    placed = schedule.place(NOW, NOW, NOW + splice_ms * MS)
    assert placed == PlacedChunk(NOW + start_ms * MS, 0)


def test_a_chunk_that_is_taken_back_may_come_again() -> None:
    """The stamp before it counts again; without one, any stamp may come."""
    schedule = ActionSchedule(GuardSettings())
    schedule.take_back()
    place(schedule, 100)
    schedule.take_back()
    assert place(schedule, 100) == PlacedChunk(NOW + SPLICE, 0)
    assert isinstance(place(schedule, 50), PlacedChunk)
    schedule.take_back()
    assert isinstance(place(schedule, 50), PlacedChunk)
    refusal = place(schedule, 100)
    assert isinstance(refusal, ScheduleRefusal) and refusal.kind == "reordered"


# Images


def add(
    made: ObservationAssembler, stamp_ns: int, names: tuple[str, ...], positions: FloatArray
) -> None:
    assert made.add_joint_state(JointReading(stamp_ns, names, positions, None))


def assembler() -> ObservationAssembler:
    made = ObservationAssembler(NAMES)
    add(made, NOW, NAMES, np.array([1.0, 2.0]))
    return made


@pytest.mark.parametrize(
    ("image_ms", "now_ms", "kind", "reason"),
    [
        (
            0,
            500,
            "stale",
            "an image may be 0.4 s old, this one is 0.500 s old; check the camera's delay and its "
            "clock.",
        ),
        (
            40,
            0,
            "future",
            "an image's stamp must not lie in the future, this one is 0.040 s ahead; check the "
            "camera's delay and its clock.",
        ),
        (
            75,
            75,
            "skew",
            "image and joint state must be within 0.05 s, the nearest joint state is -0.075 s "
            "away; the newest joint state's stamp is 0.075 s behind the clock: check the clock of "
            "the arm's driver, and its rate.",
        ),
        (
            -75,
            0,
            "skew",
            "image and joint state must be within 0.05 s, the nearest joint state is +0.075 s "
            "away; check the camera's delay and its clock.",
        ),
    ],
)
def test_a_refused_image(image_ms: int, now_ms: int, kind: str, reason: str) -> None:
    result = assembler().assemble(IMAGE, NOW + image_ms * MS, NOW + now_ms * MS)
    assert result == Refusal(kind, reason)


def test_an_image_before_the_chunk_s_end() -> None:
    made = assembler()
    made.add_executed_actions(np.ones((8, 2)), NOW + 400 * MS)
    assert made.chunk_end_ns == NOW + 400 * MS
    assert made.assemble(IMAGE, NOW, NOW) == Refusal(
        "not_due", "the running chunk has not ended; a later image answers it."
    )


def test_joints_that_are_lacking_are_named() -> None:
    made = ObservationAssembler(NAMES)
    none = "no joint state has come for ['a', 'b']; check the joint_states topic."
    assert made.assemble(IMAGE, NOW, NOW) == Refusal("joints", none)
    made = assembler()
    add(made, NOW + 300 * MS, ("a",), np.array([1.0]))
    assert made.assemble(IMAGE, NOW + 310 * MS, NOW + 310 * MS) == Refusal(
        "skew",
        "image and joint state must be within 0.05 s, the nearest joint state is -0.310 s away; "
        "the joint states of ['b'] may be 0.05 s older than the others', they are 0.300 s older; "
        "check the rate and the clock of what publishes them.",
    )


def test_a_bad_joint_state_is_a_refusal_of_its_kind() -> None:
    made = assembler()
    with pytest.raises(ValueError) as caught:
        add(made, NOW + MS, NAMES, np.array([np.nan, 0.0]))
    assert made.assemble(IMAGE, NOW, NOW) == Refusal("joints", str(caught.value))


def test_two_seconds_of_joint_states_at_1_khz_are_kept() -> None:
    """The 2000th newest still matches an image, the 2001st does not."""
    limits = AssemblerSettings(max_image_age_s=9.0, max_joint_skew_s=0.0)
    made = ObservationAssembler(NAMES, limits)
    for index in range(2001):
        add(made, NOW + index * MS, NAMES, np.array([float(index), 0.0]))
    last = NOW + 2000 * MS
    oldest = made.assemble(IMAGE, NOW + MS, last)
    assert isinstance(oldest, AssembledObservation)
    assert oldest.measured_joint_positions[0] == 1.0
    assert isinstance(made.assemble(IMAGE, NOW, last), Refusal)


def test_what_is_shown_is_a_copy() -> None:
    """Neither the caller's arrays nor the observation's change what is kept."""
    made = assembler()
    executed = np.ones((8, 2), np.float32)
    made.add_executed_actions(executed, NOW)
    executed[:] = 5.0
    first = made.assemble(IMAGE, NOW, NOW)
    assert isinstance(first, AssembledObservation)
    assert first.executed_actions is not None
    assert first.executed_actions.dtype == np.float64
    np.testing.assert_array_equal(first.executed_actions, np.ones((8, 2)))
    assert (first.image is IMAGE, first.joint_names, first.stamp_ns) == (True, NAMES, NOW)
    first.measured_joint_positions[:] = 5.0
    second = made.assemble(IMAGE, NOW, NOW)
    assert isinstance(second, AssembledObservation)
    np.testing.assert_array_equal(second.measured_joint_positions, [1.0, 2.0])


def test_the_arm_s_positions_leave_out_the_gripper() -> None:
    made = ObservationAssembler(NAMES)
    assert made.newest_arm_positions is None
    add(made, NOW, NAMES, np.array([1.0, 2.0]))
    add(made, NOW + MS, NAMES, np.array([3.0, 4.0]))
    np.testing.assert_array_equal(made.newest_arm_positions, [3.0])
