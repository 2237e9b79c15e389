# SPDX-License-Identifier: Apache-2.0
"""8 actions of 0.05 s and up to 10 committed ones; 3 joints; pictures of 8 x 8 every 0.05 s; the
guard's reports hold 18 points. Against a real guard: test_cache_truth.py."""

import dataclasses

import numpy as np
import pytest

from par_model.interface import PolicySpec
from par_model.seam import NUM_BEFORE
from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.observation_assembler import AssemblerSettings, Refusal
from par_ros.control.overlapped_turn import OverlappedTurn, OverlapSettings
from par_ros.control.policy_turn import Question, TurnSettings
from par_ros.control.timeline import Moment

JOINTS = ("shoulder", "elbow", "gripper")
STEP_NS = 50_000_000
START_NS = 1_000_000_000
OVERLAP = OverlapSettings(num_actions=8, max_delay_steps=10, step_s=0.05)
JOINING = dataclasses.replace(OVERLAP, num_joined=NUM_BEFORE)
SPEC = PolicySpec("arm", JOINTS, 8, 8, 8, 0.05, ("go",), max_delay_steps=10)
SETTINGS = TurnSettings(
    joint_names=JOINTS,
    chunk_s=0.4,
    lockstep=False,
    assembler=AssemblerSettings(max_image_age_s=OVERLAP.max_image_age_s),
    camera=CameraCheckSettings(max_silence_s=None, max_stall_s=None),
    steps_between=SPEC.steps_between,
)


class Rig:
    """A turn and what comes to it; step k is at START_NS + k * STEP_NS, in ROS and steady time."""

    def __init__(self, overlap: OverlapSettings = OVERLAP) -> None:
        self.now_ns = START_NS
        self.turn: OverlappedTurn = OverlappedTurn(
            SETTINGS,
            overlap,
            lambda picture, view: picture,
            lambda picture, view: picture,
            self.moment,
        )
        self.turn.activate()
        self._noise = np.random.default_rng(0)

    @property
    def moment(self) -> Moment:
        return Moment(self.now_ns, self.now_ns)

    def at(self, step: float) -> None:
        self.now_ns = START_NS + round(step * STEP_NS)

    def show(self, step: float) -> Question | Refusal | None:
        self.at(step)
        reading = JointReading(self.now_ns, JOINTS, np.array([0.1, 0.2, 0.04]), None)
        assert self.turn.take_joint_state(reading, self.moment) is None
        picture = self._noise.integers(80, 100, (8, 8, 3)).astype(np.uint8)
        return self.turn.take_picture(picture, picture.reshape(-1), self.now_ns, self.moment)

    def ask(self, step: float) -> Question:
        question = self.show(step)
        assert isinstance(question, Question), question
        return question

    def follow(self, question: Question, at_step: float, first: float = 1.0) -> None:
        """The chunk is sent and followed: joint positions are 1e-4 times the step's number."""
        self.at(at_step)
        positions = self.targets(question, 1.0)
        assert self.turn.send(question, positions)
        assert self.turn.free(self.moment) is None
        self.report(question, first)

    def targets(self, question: Question, first: float) -> np.ndarray:
        step = (question.pending.stamp_ns - START_NS) / STEP_NS
        rows = 1e-4 * (step + first + np.arange(18.0))
        return np.column_stack((rows, rows, np.full(18, 0.04)))

    def report(self, question: Question, first: float = 1.0) -> Question | Refusal | None:
        times_s = 0.05 * (first + np.arange(18))
        executed = JointTrajectory(JOINTS, times_s, self.targets(question, first))
        return self.turn.take_executed_actions(question.pending.stamp_ns, executed, self.moment)


def test_before_the_first_chunk_the_arm_is_committed_to_stand() -> None:
    """Nothing was measured yet, so the prefix is as long as it can be."""
    question = Rig().ask(0)
    np.testing.assert_array_equal(question.committed, np.tile([0.1, 0.2, 0.04], (10, 1)))
    assert question.assembled.executed_actions is None
    assert not question.starts_anew


def test_a_picture_a_slot_later_is_asked_with_what_is_followed_until_an_answer() -> None:
    """The first answer took 3.4 steps: 5 are committed (one more than the 4 that it needs)."""
    rig = Rig()
    rig.follow(rig.ask(0), 3.4)
    for step in range(4, 8):
        assert rig.show(step) is None
    question = rig.ask(8)
    np.testing.assert_allclose(question.committed[:, 0], 1e-4 * np.arange(9, 14), atol=1e-12)
    executed = question.assembled.executed_actions
    np.testing.assert_allclose(executed[:, 0], 1e-4 * np.arange(1, 9), atol=1e-12)


@pytest.mark.parametrize(("told", "expected"), [(0, 0), (3, 3), (10, 5)])
def test_the_policy_is_told_no_more_committed_actions_than_asked_for(
    told: int, expected: int
) -> None:
    """5 are committed, as above; the time at which it is asked does not change."""
    rig = Rig(dataclasses.replace(OVERLAP, max_prefix_steps=told))
    first = rig.ask(0)
    assert first.committed.shape == (told, 3)
    rig.follow(first, 3.4)
    question = rig.ask(8)
    np.testing.assert_allclose(
        question.committed[:, 0], 1e-4 * np.arange(9, 9 + expected), atol=1e-12
    )


@pytest.mark.parametrize("behind", [0.5, 4.0])
def test_a_clock_behind_the_cameras_plans_one_step(behind: float) -> None:
    """The answer's report comes before its picture was taken, by this node's clock."""
    rig = Rig(dataclasses.replace(JOINING, max_prefix_steps=10))
    rig.follow(rig.ask(0), -behind)
    assert rig.turn.planned_steps == 1
    question = rig.ask(8)
    np.testing.assert_allclose(question.committed[:, 0], [1e-4 * 9], atol=1e-12)
    rig.at(8 - behind)
    assert rig.turn.followed_until(question, rig.moment).shape == (2, 3)


def test_the_longest_of_the_last_twenty_delays_counts() -> None:
    rig = Rig()
    assert rig.turn.planned_steps == 10
    for index in range(25):
        delay = 6.5 if index == 2 else 1.5
        rig.follow(rig.ask(8 * index), 8 * index + delay)
        assert rig.turn.planned_steps == (8 if 2 <= index < 22 else 3)


def test_a_hold_is_answered_at_once_and_told() -> None:
    """The guard reports from step 3.2 on, standing: the next picture is answered, not the 8th."""
    rig = Rig()
    first = rig.ask(0)
    rig.at(3.2)
    assert rig.turn.send(first, rig.targets(first, 1.0))
    rig.turn.free(rig.moment)
    held = JointTrajectory(JOINTS, 0.05 * (3.2 + np.arange(19)), np.full((19, 3), 0.3))
    rig.turn.take_executed_actions(first.pending.stamp_ns, held, rig.moment, holds=True)
    question = rig.ask(4)
    # Steps 1 to 3 are not known: nothing was reported of them.
    assert question.starts_anew
    later = rig.show(5)
    assert later is None


def test_a_hold_that_is_reported_within_a_step_of_the_picture_is_answered_at_once() -> None:
    """The guard holds the chunk 40 ms after its picture: its report begins as that of a chunk that
    is followed would."""
    rig = Rig()
    first = rig.ask(0)
    rig.at(0.8)
    assert rig.turn.send(first, rig.targets(first, 1.0))
    rig.turn.free(rig.moment)
    held = JointTrajectory(JOINTS, 0.05 * (0.8 + np.arange(19)), np.full((19, 3), 0.3))
    rig.turn.take_executed_actions(first.pending.stamp_ns, held, rig.moment, holds=True)
    assert isinstance(rig.show(1), Question)


def hold(rig: Rig, question: Question, at_step: float, rows: np.ndarray) -> None:
    """The chunk is sent, and held: `rows` [19, 3] are what is followed from then on."""
    rig.at(at_step)
    step = (question.pending.stamp_ns - START_NS) / STEP_NS
    assert rig.turn.send(question, rig.targets(question, 1.0))
    rig.turn.free(rig.moment)
    held = JointTrajectory(JOINTS, 0.05 * (at_step - step + np.arange(19)), rows)
    rig.turn.take_executed_actions(question.pending.stamp_ns, held, rig.moment, holds=True)


@pytest.mark.parametrize(("arm", "expected"), [(0.3, 0.1), (0.105, 0.105)])
def test_an_arm_that_is_held_standing_is_where_it_is_measured(arm: float, expected: float) -> None:
    """At 0.1: told is the pose in which it was held, unless that is more than 0.01 rad away."""
    rig = Rig(JOINING)
    pose = np.array([arm, 0.2, 0.01])
    told = np.array([0.1, 0.2, 0.04]) if expected == 0.1 else pose
    rig.follow(rig.ask(0), 1)
    hold(rig, rig.ask(8), 9.5, np.tile(pose, (19, 1)))
    for step in (11, 13):
        question = rig.ask(step)
        assert question.starts_anew
        assert question.assembled.executed_actions is None
        np.testing.assert_array_equal(
            question.committed, np.tile(told, (len(question.committed), 1))
        )
        assert len(question.committed) > 1
        rig.at(step + 1.2)
        if step == 13:
            followed = rig.turn.followed_until(question, rig.moment)
            np.testing.assert_array_equal(followed, np.tile(told, (3, 1)))
        hold(rig, question, step + 1.2, np.tile(pose, (19, 1)))


@pytest.mark.parametrize(("step", "is_lost"), [(14, False), (20, False), (21, True)])
def test_a_hold_that_ends_in_rest_is_the_past_for_a_slot_more(step: int, is_lost: bool) -> None:
    """Held from step 10 on, at rest from step 12 on; the picture of step 10 is the last one shown
    before."""
    rig = Rig()
    rig.follow(rig.ask(0), 1)
    question = rig.ask(8)
    rows = np.tile([1.2e-3, 1.2e-3, 0.04], (19, 1))
    rows[:2, :2] = [[1.0e-3], [1.1e-3]]
    hold(rig, question, 10, rows)
    later = rig.ask(step)
    assert later.starts_anew == is_lost
    assert (later.assembled.executed_actions is None) == is_lost


@pytest.mark.parametrize(("late", "is_lost"), [(18.45, False), (18.6, True)])
def test_no_more_is_told_than_the_policy_takes(late: float, is_lost: bool) -> None:
    """It takes 18 steps, to the nearest whole number."""
    rig = Rig()
    rig.follow(rig.ask(0), 1)
    question = rig.ask(late)
    assert question.starts_anew == is_lost
    executed = question.assembled.executed_actions
    assert executed is None if is_lost else len(executed) == 18


def test_without_a_report_nothing_is_asked_and_then_the_policy_starts_anew() -> None:
    """Horizon and slot are 26 steps."""
    rig = Rig()
    rig.follow(rig.ask(0), 2)
    lost = rig.ask(8)
    assert rig.turn.send(lost, rig.targets(lost, 1.0))
    rig.turn.free(rig.moment)
    for step in range(16, 35):
        assert rig.show(step) is None
    question = rig.ask(35)
    assert question.starts_anew
    assert question.assembled.executed_actions is None
    assert question.committed.shape == (0, 3)


def test_a_report_of_another_motion_than_was_believed_is_a_lost_context() -> None:
    rig = Rig()
    first = rig.ask(0)
    rig.follow(first, 2)
    rig.at(6)
    moved = JointTrajectory(JOINTS, 0.05 * (6 + np.arange(18)), np.full((18, 3), 0.2))
    rig.turn.take_executed_actions(first.pending.stamp_ns, moved, rig.moment)
    assert rig.ask(8).starts_anew


def test_doubled_and_reordered_reports_change_nothing() -> None:
    rig = Rig()
    first = rig.ask(0)
    rig.follow(first, 2)
    second = rig.ask(8)
    rig.follow(second, 10)
    assert rig.report(second) is None
    assert not rig.turn.awaits_executed_actions(first.pending.stamp_ns)
    assert rig.report(first) is None
    question = rig.ask(16)
    np.testing.assert_allclose(
        question.assembled.executed_actions[:, 0], 1e-4 * np.arange(9, 17), atol=1e-12
    )


def test_the_age_of_a_picture_comes_from_the_horizon() -> None:
    """16 steps: two less than the chunk has, so that something is left to follow."""
    assert pytest.approx(0.8) == OVERLAP.max_image_age_s
    rig = Rig()
    rig.at(17)
    reading = JointReading(START_NS, JOINTS, np.zeros(3), None)
    rig.turn.take_joint_state(reading, rig.moment)
    picture = np.full((8, 8, 3), 90, np.uint8)
    refusal = rig.turn.take_picture(picture, picture.reshape(-1), START_NS, rig.moment)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "stale"


def test_another_robots_report_is_refused() -> None:
    rig = Rig()
    first = rig.ask(0)
    rig.follow(first, 2)
    wrong = JointTrajectory(("a", "b", "c"), np.array([0.05]), np.zeros((1, 3)))
    refusal = rig.turn.take_executed_actions(first.pending.stamp_ns, wrong, rig.moment)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "executed_actions"


def test_a_horizon_is_a_slot_and_the_largest_delay() -> None:
    assert OVERLAP.horizon == 18
    assert dataclasses.replace(OVERLAP, max_delay_steps=4).horizon == 12


def test_after_a_clock_that_was_set_back_the_policy_starts_anew() -> None:
    """From step 2000 to step 100, while a chunk is followed; the next slots are as ever."""
    rig = Rig()
    rig.follow(rig.ask(2000), 2003.4)
    refusal = rig.show(100)
    assert isinstance(refusal, Refusal) and refusal.kind == "clock"
    question = rig.ask(101)
    assert question.starts_anew
    assert question.assembled.executed_actions is None
    # What the arm follows has times of the other clock.
    assert question.committed.shape == (0, 3)
    rig.follow(question, 104.4)
    assert rig.ask(109).assembled.executed_actions is not None


def test_before_the_first_chunk_an_answer_goes_on_from_standing() -> None:
    """Sent 3.4 steps after the picture: the steps up to the picture and 3 after it."""
    rig = Rig(JOINING)
    question = rig.ask(0)
    rig.at(3.4)
    followed = rig.turn.followed_until(question, rig.moment)
    np.testing.assert_array_equal(followed, np.tile([0.1, 0.2, 0.04], (5, 1)))


@pytest.mark.parametrize("late", [0.0, 1.0, 3.4, 9.9, 30.0])
@pytest.mark.parametrize("is_lost", [False, True])
def test_an_answer_goes_on_from_what_was_reported_until_it_is_sent(
    late: float, is_lost: bool
) -> None:
    """Picture at step 8; also where the policy refused an observation and starts anew."""
    rig = Rig(JOINING)
    rig.follow(rig.ask(0), 3.4)
    if is_lost:
        rig.turn.lose_context()
    question = rig.ask(8)
    assert question.starts_anew == is_lost
    rig.at(8 + late)
    followed = rig.turn.followed_until(question, rig.moment)
    assert followed is not None
    expected = 1e-4 * np.minimum(np.arange(7, 9 + min(int(late), 18)), 18)
    np.testing.assert_allclose(followed[:, 0], expected, atol=1e-12)


def test_where_reports_were_lost_nothing_is_joined() -> None:
    """None of the second chunk until 27 steps after its picture."""
    rig = Rig(JOINING)
    rig.follow(rig.ask(0), 3.4)
    second = rig.ask(8)
    assert rig.turn.send(second, rig.targets(second, 1.0))
    assert rig.turn.free(rig.moment) is None
    question = rig.ask(35)
    assert question.starts_anew
    assert rig.turn.followed_until(question, rig.moment) is None


def test_chunks_are_joined_where_that_is_asked_for_only() -> None:
    rig = Rig()
    assert rig.turn.followed_until(rig.ask(0), rig.moment) is None


def test_an_episode_that_begins_in_motion_knows_nothing_of_it() -> None:
    """A chunk of 18 steps runs, and rests from step 18 on."""
    rig = Rig(JOINING)
    rig.follow(rig.ask(0), 1)
    rig.at(3)
    rig.turn.begin_episode(rig.moment)
    question = rig.ask(4)
    assert not question.starts_anew
    assert question.assembled.executed_actions is None
    assert question.committed.shape == (0, 3)
    assert rig.turn.followed_until(question, rig.moment) is None


@pytest.mark.parametrize(
    ("is_reported", "step", "stands", "stood"),
    [
        (True, 17, False, False),
        (True, 18, True, False),
        (True, 19, True, True),
        (False, 25, False, False),
        (False, 26, True, False),
        (False, 27, True, True),
    ],
)
def test_an_episode_that_begins_after_the_motion_begins_with_standing(
    is_reported: bool, step: int, stands: bool, stood: bool
) -> None:
    """Without a report, the motion is over a horizon and a slot after its picture. An answer is
    joined to the step before its picture, too."""
    rig = Rig(JOINING)
    question = rig.ask(0)
    rig.at(1)
    assert rig.turn.send(question, rig.targets(question, 1.0))
    rig.turn.begin_episode(rig.moment)
    rig.turn.free(rig.moment)
    if is_reported:
        assert rig.report(question) is None
    first = rig.ask(step)
    assert len(first.committed) == (10 if stands else 0)
    followed = rig.turn.followed_until(first, rig.moment)
    assert (followed is not None) == stood


def test_a_stop_that_is_reported_after_deactivate_ends_the_motion() -> None:
    """As between two episodes of the simulator: the policy is deactivated, then the guard stops
    the arm, which rests from step 5 on."""
    rig = Rig()
    question = rig.ask(0)
    rig.follow(question, 1)
    rig.at(3)
    rig.turn.deactivate()
    rig.turn.begin_episode(rig.moment)
    rows = np.tile([5e-4, 5e-4, 0.04], (19, 1))
    rows[:2, :2] = [[3e-4], [4e-4]]
    stop = JointTrajectory(JOINTS, 0.05 * (3 + np.arange(19)), rows)
    assert rig.turn.awaits_executed_actions(question.pending.stamp_ns)
    assert not rig.turn.awaits_executed_actions(question.pending.stamp_ns - 1)
    told = rig.turn.take_executed_actions(question.pending.stamp_ns, stop, rig.moment, holds=True)
    assert told is None
    rig.turn.activate()
    np.testing.assert_array_equal(rig.ask(6).committed[0], [0.1, 0.2, 0.04])
