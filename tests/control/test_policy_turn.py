# SPDX-License-Identifier: Apache-2.0
"""8 actions of 0.05 s, so a chunk lasts 0.4 s; 3 joints; pictures of 8 x 8 every 0.05 s of made-up
time, which both clocks show. The camera may be silent for 1 s, and its stamps may stall for 0.3 s.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from par_model.interface import PolicySpec
from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.control.observation_assembler import AssemblerSettings, ImageArray, Refusal
from par_ros.control.policy_turn import ClipSettings, PolicyTurn, Question, TurnSettings
from par_ros.control.timeline import Moment

STEP_NS = 50_000_000
CHUNK_NS = 8 * STEP_NS
START_NS = 1_000_000_000
JOINTS = ("shoulder", "elbow", "gripper")
TIMES_S = 0.05 * np.arange(1, 9)
# A chunk that asks for motion: float64 [8, 3].
ASKED = np.linspace(0.5, 0.6, 8 * 3).reshape(8, 3)

LOCKSTEP = TurnSettings(
    joint_names=JOINTS,
    chunk_s=0.4,
    lockstep=True,
    assembler=AssemblerSettings(max_joint_skew_s=0.0),
    camera=CameraCheckSettings(max_silence_s=None, max_stall_s=None),
)
REALTIME = dataclasses.replace(
    LOCKSTEP, lockstep=False, assembler=AssemblerSettings(), camera=CameraCheckSettings()
)

Outcome = Question[ImageArray] | Refusal | None


def read_picture(picture: ImageArray, view: str) -> ImageArray:
    if picture.ndim != 3:
        raise ValueError("a picture must be rgb8.")
    return picture


def fit_picture(picture: ImageArray, view: str) -> ImageArray:
    if picture.shape[0] < 8:
        raise ValueError("a picture must be at least 8 high.")
    return picture[:8, :8]


class Rig:
    """A turn, and what comes to it from camera, joints, policy and guard; both clocks are one."""

    def __init__(self, settings: TurnSettings = LOCKSTEP, *, is_active: bool = True) -> None:
        self.now_ns = START_NS
        self.turn: PolicyTurn[ImageArray] = PolicyTurn(
            settings, read_picture, fit_picture, self.now()
        )
        if is_active:
            self.turn.activate()
        self._noise = np.random.default_rng(0)

    def now(self) -> Moment:
        return Moment(self.now_ns, self.now_ns)

    def picture(self) -> ImageArray:
        return self._noise.integers(80, 100, (8, 8, 3), np.uint8)

    def show_picture(self, stamp_ns: int, picture: ImageArray | None = None) -> Outcome:
        self.now_ns = max(self.now_ns, stamp_ns)
        picture = self.picture() if picture is None else picture
        return self.turn.take_picture(picture, picture.reshape(-1), stamp_ns, self.now())

    def show_joints(
        self, stamp_ns: int, position: float = 0.5, names: tuple[str, ...] = JOINTS
    ) -> Outcome:
        self.now_ns = max(self.now_ns, stamp_ns)
        positions = np.full(len(names), position)
        reading = JointReading(stamp_ns, names, positions, None)
        return self.turn.take_joint_state(reading, self.now())

    def show(self, stamp_ns: int, position: float = 0.5) -> Outcome:
        """A picture and the joint states of its moment."""
        self.show_joints(stamp_ns, position)
        return self.show_picture(stamp_ns)

    def answer(self, outcome: Outcome, positions: FloatArray = ASKED) -> Outcome:
        """The policy answers this question."""
        assert self.turn.send(asked(outcome), positions)
        return self.turn.free(self.now())

    def execute(self, stamp_ns: int, positions: FloatArray = ASKED, delay_ns: int = 0) -> Outcome:
        """The guard reports these actions for the chunk of this stamp."""
        executed = JointTrajectory(JOINTS, TIMES_S + delay_ns / 1e9, positions)
        return self.turn.take_executed_actions(stamp_ns, executed, self.now())

    def run_chunk(self, stamp_ns: int = START_NS, positions: FloatArray = ASKED) -> None:
        """One picture, its chunk and the guard's report."""
        self.answer(self.show(stamp_ns))
        assert self.execute(stamp_ns, positions) is None


def asked(outcome: Outcome) -> Question[ImageArray]:
    assert isinstance(outcome, Question), outcome
    return outcome


def refused(outcome: Outcome) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    return outcome


def is_shown(question: Question[ImageArray], past: npt.NDArray[np.float64] | None) -> bool:
    shown = question.assembled.executed_actions
    return shown is None if past is None else np.array_equal(shown, past)


# Which picture


def test_the_first_picture_is_answered_at_once() -> None:
    question = asked(Rig().show(START_NS, position=0.7))
    assert question.pending.stamp_ns == question.assembled.stamp_ns == START_NS
    assert question.assembled.joint_stamp_ns == START_NS
    np.testing.assert_array_equal(question.assembled.measured_joint_positions, [0.7, 0.7, 0.7])
    assert is_shown(question, None)
    assert question.previous_stamp_ns is None
    assert not question.starts_anew


def test_a_chunk_answers_the_first_picture_after_the_one_before_has_ended() -> None:
    """The guard moves each knot, by 0.01 more in each chunk: that is what the policy is shown as
    its past."""
    rig = Rig()
    stamp_ns = START_NS
    outcome = rig.show(stamp_ns)
    for moved in (0.01, 0.02, 0.03):
        rig.answer(outcome)
        assert rig.execute(stamp_ns, ASKED + moved) is None
        for step in range(1, 8):
            assert rig.show(stamp_ns + step * STEP_NS) is None
        outcome = rig.show(stamp_ns + CHUNK_NS)
        question = asked(outcome)
        assert is_shown(question, ASKED + moved)
        assert question.previous_stamp_ns == stamp_ns
        assert not question.starts_anew
        stamp_ns += CHUNK_NS


@pytest.mark.parametrize(("early_ns", "is_due"), [(1_000_000, True), (1_000_001, False)])
def test_a_picture_may_come_a_millisecond_before_the_end(early_ns: int, is_due: bool) -> None:
    rig = Rig()
    rig.run_chunk()
    assert (rig.show(START_NS + CHUNK_NS - early_ns) is not None) == is_due


def test_the_end_of_a_chunk_is_the_executed_one() -> None:
    """It began 0.1 s after its observation."""
    rig = Rig()
    rig.answer(rig.show(START_NS))
    rig.execute(START_NS, delay_ns=2 * STEP_NS)
    assert rig.show(START_NS + CHUNK_NS) is None
    assert rig.show(START_NS + 9 * STEP_NS) is None
    asked(rig.show(START_NS + 10 * STEP_NS))


def test_nothing_is_answered_before_the_guard_has_reported() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    assert rig.show(START_NS + CHUNK_NS) is None
    question = asked(rig.execute(START_NS))
    assert question.pending.stamp_ns == START_NS + CHUNK_NS


def test_a_newer_picture_takes_the_place_of_the_one_that_waits() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    rig.show(START_NS + CHUNK_NS)
    rig.show(START_NS + CHUNK_NS + STEP_NS)
    question = asked(rig.execute(START_NS))
    assert question.pending.stamp_ns == START_NS + CHUNK_NS + STEP_NS


def test_no_second_question_while_the_policy_thinks() -> None:
    rig = Rig()
    first = asked(rig.show(START_NS))
    assert rig.show(START_NS) is None
    # It failed: the picture that has come meanwhile is answered.
    second = asked(rig.turn.free(rig.now()))
    assert second.pending is not first.pending
    assert second.episode == first.episode


def test_repeated_pictures_are_answered_once() -> None:
    rig = Rig()
    question = asked(rig.show(START_NS))
    assert rig.show(START_NS) is None
    assert rig.answer(question) is None
    assert rig.show(START_NS) is None
    rig.execute(START_NS)
    assert rig.show(START_NS) is None


def test_the_time_of_arrival_and_the_age_are_those_of_the_picture() -> None:
    rig = Rig(REALTIME)
    rig.show_joints(START_NS)
    rig.now_ns = START_NS + 70_000_000
    question = asked(rig.show_picture(START_NS))
    assert question.pending.received_ns == START_NS + 70_000_000
    assert question.age_s == pytest.approx(0.07)


# Joint states


def test_a_picture_waits_for_its_joint_states_in_lockstep() -> None:
    rig = Rig()
    rig.show_joints(START_NS - STEP_NS)
    assert rig.show_picture(START_NS) is None
    question = asked(rig.show_joints(START_NS, position=0.7))
    assert question.assembled.measured_joint_positions[0] == 0.7


def test_in_realtime_the_wait_is_reported() -> None:
    rig = Rig(REALTIME)
    assert refused(rig.show_picture(START_NS)).kind == "joints"
    assert refused(rig.show_joints(START_NS - 2 * STEP_NS)).kind == "skew"
    asked(rig.show_joints(START_NS))


def test_another_robots_joints_are_ignored() -> None:
    rig = Rig(REALTIME)
    assert refused(rig.show_picture(START_NS)).kind == "joints"
    assert rig.show_joints(START_NS, names=("wheel",)) is None
    asked(rig.show_joints(START_NS, names=("wheel", *JOINTS)))


def test_a_joint_state_that_is_not_finite_is_refused() -> None:
    rig = Rig()
    refusal = refused(rig.show_joints(START_NS, position=float("nan")))
    assert refusal.kind == "joints"


# Executed actions


def test_foreign_executed_actions_are_ignored() -> None:
    rig = Rig()
    assert not rig.turn.awaits_executed_actions(START_NS)
    rig.answer(rig.show(START_NS))
    assert rig.turn.awaits_executed_actions(START_NS)
    assert rig.execute(START_NS - 1) is None
    assert rig.show(START_NS + CHUNK_NS) is None


def test_executed_actions_of_another_length_are_refused() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    short = JointTrajectory(JOINTS, TIMES_S[:5], ASKED[:5])
    refusal = refused(rig.turn.take_executed_actions(START_NS, short, rig.now()))
    assert refusal.kind == "executed_actions"
    assert "has 5 points and the chunk it answers 8" in refusal.reason


def test_executed_actions_are_put_into_the_policys_order() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    turned = JointTrajectory(JOINTS[::-1], TIMES_S, ASKED[:, ::-1])
    rig.turn.take_executed_actions(START_NS, turned, rig.now())
    assert is_shown(asked(rig.show(START_NS + CHUNK_NS)), ASKED)


# The context


def test_a_hold_of_a_whole_chunk_loses_the_context() -> None:
    rig = Rig()
    rig.run_chunk(positions=np.full((8, 3), 0.5))
    for step in range(1, 8):
        assert rig.show(START_NS + step * STEP_NS) is None
    question = asked(rig.show(START_NS + CHUNK_NS))
    assert question.starts_anew
    assert is_shown(question, None)
    assert question.previous_stamp_ns is None
    # Once: the next chunk goes on from this one.
    rig.answer(question)
    rig.execute(START_NS + CHUNK_NS)
    question = asked(rig.show(START_NS + 2 * CHUNK_NS))
    assert not question.starts_anew
    assert is_shown(question, ASKED)


def test_a_chunk_that_asks_for_standstill_and_gets_it_keeps_the_context() -> None:
    still = np.full((8, 3), 0.5)
    rig = Rig()
    rig.answer(rig.show(START_NS), still)
    rig.execute(START_NS, still)
    assert not asked(rig.show(START_NS + CHUNK_NS)).starts_anew


@pytest.mark.parametrize(("stood_ns", "is_lost"), [(CHUNK_NS, False), (CHUNK_NS + 1, True)])
def test_an_arm_that_stood_for_longer_than_a_chunk_loses_the_context(
    stood_ns: int, is_lost: bool
) -> None:
    rig = Rig()
    rig.run_chunk()
    question = asked(rig.show(START_NS + CHUNK_NS + stood_ns))
    assert question.starts_anew == is_lost
    assert is_shown(question, None if is_lost else ASKED)


@pytest.mark.parametrize(("late_ns", "is_lost"), [(922_000_000, False), (928_000_000, True)])
def test_a_picture_further_away_than_the_policy_takes_starts_anew(
    late_ns: int, is_lost: bool
) -> None:
    """A policy of a horizon of 18 steps, to the nearest whole number. The chunk ended late, so that
    the arm has not stood for longer than a chunk."""
    spec = PolicySpec("arm", JOINTS, 8, 8, 8, 0.05, ("go",), max_delay_steps=10)
    rig = Rig(dataclasses.replace(REALTIME, steps_between=spec.steps_between))
    rig.answer(rig.show(START_NS))
    assert rig.execute(START_NS, delay_ns=230_000_000) is None
    question = asked(rig.show(START_NS + late_ns))
    assert question.starts_anew is is_lost
    assert is_shown(question, None if is_lost else ASKED)


def test_a_chunk_that_nobody_reported_for_two_chunks_time_is_lost() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    assert rig.show(START_NS + 2 * CHUNK_NS) is None
    question = asked(rig.show(START_NS + 2 * CHUNK_NS + 1))
    assert question.starts_anew
    assert is_shown(question, None)


def test_a_policy_that_refused_starts_anew() -> None:
    rig = Rig()
    asked(rig.show(START_NS))
    rig.turn.lose_context()
    assert rig.turn.free(rig.now()) is None
    assert asked(rig.show(START_NS + STEP_NS)).starts_anew


# Episodes


def test_inactive_means_silent() -> None:
    rig = Rig(is_active=False)
    assert rig.show(START_NS) is None
    rig.turn.activate()
    question = asked(rig.show(START_NS))
    rig.turn.deactivate()
    assert not rig.turn.send(question, ASKED)
    assert not rig.turn.awaits_executed_actions(START_NS)
    assert rig.show(START_NS + STEP_NS) is None
    assert rig.turn.free(rig.now()) is None


def test_an_answer_of_the_episode_before_is_not_sent() -> None:
    rig = Rig()
    question = asked(rig.show(START_NS))
    rig.turn.begin_episode(rig.now())
    assert not rig.turn.send(question, ASKED)
    # The policy is still busy with it.
    assert rig.show(START_NS + STEP_NS) is None
    assert asked(rig.turn.free(rig.now())).pending.stamp_ns == START_NS + STEP_NS


def test_an_episode_begins_without_a_past() -> None:
    rig = Rig()
    rig.run_chunk(positions=np.full((8, 3), 0.5))
    rig.turn.begin_episode(rig.now())
    assert rig.show_picture(START_NS + STEP_NS) is None
    question = asked(rig.show_joints(START_NS + STEP_NS))
    assert is_shown(question, None)
    assert not question.starts_anew


# The camera


def test_old_pictures_are_refused() -> None:
    rig = Rig(REALTIME)
    rig.now_ns = START_NS + 1_000_000_000
    assert refused(rig.show(START_NS)).kind == "stale"


def test_in_lockstep_a_picture_is_never_old() -> None:
    rig = Rig()
    rig.now_ns = START_NS + 1_000_000_000
    assert asked(rig.show(START_NS)).age_s == 0.0


FAULTY = {
    "black": np.zeros((8, 8, 3), np.uint8),
    "encoding": np.full((8, 8), 90, np.uint8),
    "size": np.full((4, 4, 3), 90, np.uint8),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_picture_is_refused_and_a_good_one_is_answered(fault: str) -> None:
    rig = Rig(REALTIME)
    rig.show_joints(START_NS)
    assert refused(rig.show_picture(START_NS, FAULTY[fault])).kind == fault
    # It does not wait either.
    assert rig.show_joints(START_NS + 1) is None
    asked(rig.show(START_NS + STEP_NS))


def test_another_size_during_an_episode_is_refused() -> None:
    rig = Rig(REALTIME)
    rig.run_chunk()
    rig.show_joints(START_NS + CHUNK_NS)
    refusal = refused(rig.show_picture(START_NS + CHUNK_NS, np.full((9, 9, 3), 90, np.uint8)))
    assert refusal.kind == "size"
    asked(rig.show(START_NS + CHUNK_NS + STEP_NS))


def test_one_picture_of_a_moving_arm_is_a_frozen_camera() -> None:
    """0.05 rad from picture to picture; 0.1 rad are allowed."""
    rig = Rig(REALTIME)
    rig.run_chunk()
    scene = rig.picture()
    outcomes = []
    for step in range(1, 6):
        rig.show_joints(START_NS + step * STEP_NS, position=0.5 + 0.05 * step)
        outcomes.append(rig.show_picture(START_NS + step * STEP_NS, scene))
    assert [outcome is None for outcome in outcomes] == [True, True, True, False, False]
    assert refused(outcomes[-1]).kind == "frozen"


def test_stamps_that_stall_are_refused_at_once() -> None:
    """Though the picture that stalls is not due, and would never be."""
    rig = Rig(REALTIME)
    rig.run_chunk()
    rig.now_ns = START_NS + 299_000_000
    assert rig.show(START_NS) is None
    rig.now_ns += 2_000_000
    assert refused(rig.show(START_NS)).kind == "stalled"


def test_silence_is_reported_while_active() -> None:
    rig = Rig(REALTIME)
    rig.now_ns += 999_000_000
    assert rig.turn.check_silence(rig.now()) is None
    rig.now_ns += 2_000_000
    assert refused(rig.turn.check_silence(rig.now())).kind == "silent"
    rig.turn.deactivate()
    assert rig.turn.check_silence(rig.now()) is None
    rig.turn.activate()
    rig.turn.restart_camera(rig.now())
    assert rig.turn.check_silence(rig.now()) is None


# Clips of four pictures, 0.1 s apart

CLIPS = dataclasses.replace(LOCKSTEP, clip=ClipSettings(4, 0.1, 0.0))


def test_a_clip_policy_is_shown_the_pictures_on_the_way() -> None:
    """Those after steps 2, 4, 6 and 8 of a chunk that begins 0.1 s after its observation."""
    rig = Rig(CLIPS)
    first = asked(rig.show(START_NS))
    assert first.assembled.recent_images is None
    rig.answer(first)
    rig.execute(START_NS, delay_ns=2 * STEP_NS)
    pictures = {START_NS + step * STEP_NS: rig.picture() for step in range(1, 11)}
    outcomes = []
    for stamp_ns, picture in pictures.items():
        rig.show_joints(stamp_ns)
        outcomes.append(rig.show_picture(stamp_ns, picture))
    question = asked(outcomes[-1])
    stamps_ns = [START_NS + step * STEP_NS for step in (4, 6, 8, 10)]
    assert list(question.assembled.recent_stamps_ns) == stamps_ns
    expected = [pictures[stamp_ns] for stamp_ns in stamps_ns]
    np.testing.assert_array_equal(question.assembled.recent_images, expected)


def test_a_clip_with_a_gap_is_refused() -> None:
    rig = Rig(CLIPS)
    rig.run_chunk()
    rig.show(START_NS + 4 * STEP_NS)
    refusal = refused(rig.show(START_NS + CHUNK_NS))
    assert refusal.kind == "clip"
    assert "sees in clips and needs a picture every 0.1 s" in refusal.reason


def test_a_clip_that_starts_anew_needs_no_pictures_on_the_way() -> None:
    rig = Rig(CLIPS)
    rig.run_chunk(positions=np.full((8, 3), 0.5))
    question = asked(rig.show(START_NS + CHUNK_NS))
    assert question.assembled.recent_images is None


# Which joint state


def test_a_picture_waits_for_the_joint_state_that_is_received_after_it() -> None:
    """A simulator publishes both at each control step, and they come in any order."""
    rig = Rig(REALTIME)
    rig.show_joints(START_NS - STEP_NS, position=0.1)
    assert rig.show_picture(START_NS) is None
    shown = asked(rig.show_joints(START_NS, position=0.2)).assembled
    assert shown.joint_stamp_ns == START_NS
    np.testing.assert_array_equal(shown.measured_joint_positions, 0.2)


def test_of_two_joint_states_around_a_picture_the_nearer_one_is_shown() -> None:
    for before_ns, after_ns, expected in ((2, 8, -2), (8, 2, 2)):
        rig = Rig(REALTIME)
        rig.show_joints(START_NS - before_ns * 1_000_000)
        assert rig.show_picture(START_NS) is None
        question = asked(rig.show_joints(START_NS + after_ns * 1_000_000))
        assert question.assembled.joint_stamp_ns == START_NS + expected * 1_000_000


def test_it_waits_no_longer_than_picture_and_joint_state_may_be_apart() -> None:
    """Joint states whose stamps stay 30 ms behind the pictures': the next event after 50 ms."""
    rig = Rig(REALTIME)
    rig.show_joints(START_NS - 30_000_000)
    assert rig.show_picture(START_NS) is None
    rig.now_ns = START_NS + 49_000_000
    assert rig.show_joints(START_NS - 20_000_000) is None
    rig.now_ns = START_NS + 50_000_000
    question = asked(rig.show_joints(START_NS - 10_000_000))
    assert question.assembled.joint_stamp_ns == START_NS - 10_000_000


def test_newer_pictures_do_not_prolong_the_wait_and_later_ones_do_not_wait_again() -> None:
    """A camera of 30 Hz; joint states at 100 Hz whose stamps are 40 ms behind."""
    rig = Rig(REALTIME)
    asked_ns = []
    for tick in range(60):
        now_ns = START_NS + tick * 10_000_000
        rig.now_ns = now_ns
        outcomes = [rig.show_joints(now_ns - 40_000_000)]
        if tick % 3 == 0:
            outcomes.append(rig.show_picture(now_ns))
        for outcome in outcomes:
            if isinstance(outcome, Question):
                asked_ns.append(now_ns - START_NS)
                rig.answer(outcome)
                rig.execute(outcome.assembled.stamp_ns)
            else:
                assert outcome is None
    assert asked_ns == [50_000_000, 450_000_000]


def test_slow_joint_states_are_waited_for_once() -> None:
    """10 Hz, and the newest 10 ms before a picture of 30 Hz: the first chunk is late by what it
    takes to know, the next one is not."""
    rig = Rig(REALTIME)
    rig.show_joints(START_NS - 10_000_000)
    assert rig.show_picture(START_NS) is None
    assert rig.show_picture(START_NS + 33_000_000) is None
    assert refused(rig.show_picture(START_NS + 66_000_000)).kind == "skew"
    question = asked(rig.show_joints(START_NS + 90_000_000))
    assert question.assembled.stamp_ns == START_NS + 66_000_000
    rig.answer(question)
    assert rig.execute(question.assembled.stamp_ns) is None
    rig.show_joints(START_NS + 490_000_000)
    assert isinstance(rig.show_picture(START_NS + 500_000_000), Question)


def test_it_does_not_wait_for_joint_states_that_have_ended_or_are_bad() -> None:
    rig = Rig(REALTIME)
    rig.show_joints(START_NS - 51_000_000)
    assert refused(rig.show_picture(START_NS)).kind == "skew"
    rig = Rig(REALTIME)
    rig.show_joints(START_NS - 10_000_000)
    assert refused(rig.show_joints(START_NS, position=float("nan"))).kind == "joints"
    assert refused(rig.show_picture(START_NS)).kind == "joints"
