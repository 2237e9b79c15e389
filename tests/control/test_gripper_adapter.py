# SPDX-License-Identifier: Apache-2.0
"""When the gripper's action gets a goal: on real changes, when they are due, one at a time.

The FR3's hand: fingers 0 to 0.04 m, a grasp at targets of 0 and below, dead band 2 mm. Chunks of 8
targets, 0.05 s apart, every 0.4 s. A target counts as due 20 ms early, for 0.5 s.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.gripper_adapter import (
    AdapterSettings,
    GripperAdapter,
    GripperGoal,
    Outcome,
    Phase,
    Server,
)
from par_ros.control.joint_trajectory import JointTrajectory
from tests.control.arms import arm

SETTINGS = AdapterSettings(
    look_ahead_s=0.02, max_target_age_s=0.5, answer_timeout_s=0.5, retry_period_s=1.0
)
OPEN_M, SQUEEZE_M = 0.04, -0.01
STEP_S = 0.01


def trajectory(*targets_m: float, name: str = "fr3_finger_joint1") -> JointTrajectory:
    """Targets due 0.05 s, 0.1 s, ... after the start; one target stands for eight of it."""
    rows = targets_m if len(targets_m) > 1 else targets_m * 8
    return JointTrajectory((name,), 0.05 * np.arange(1, len(rows) + 1), np.array(rows)[:, None])


class Rig:
    """An adapter, a clock, and an action server that accepts unless told otherwise."""

    def __init__(self, name: str = "fr3") -> None:
        self.adapter = GripperAdapter(arm(name).gripper, SETTINGS)
        self.now_s = 100.0
        self.server = Server.READY
        self.accepts: bool | None = True
        self.ends: Outcome | None = Outcome.SUCCEEDED
        self.sent: list[tuple[float, GripperGoal]] = []
        self.cancelled: list[int] = []
        self.in_flight: set[int] = set()
        self.most_in_flight = 0

    def take(self, *targets_m: float) -> None:
        self.adapter.take(trajectory(*targets_m), self.now_s, self.now_s)

    def run(self, duration_s: float) -> None:
        for _ in range(round(duration_s / STEP_S)):
            self.now_s += STEP_S
            self._step()

    def chunk(self, *targets_m: float) -> None:
        """One chunk as the guard sends it, and the 0.4 s in which it runs."""
        self.take(*targets_m)
        self.run(0.4)

    def _step(self) -> None:
        wanted = self.adapter.step(self.now_s, self.server)
        if wanted == "cancel":
            assert self.adapter.goal is not None
            self.cancelled.append(self.adapter.goal.number)
            self.end(Outcome.CANCELED)
        elif wanted is not None:
            self.sent.append((self.now_s, wanted))
            self._answer(wanted)

    def _answer(self, goal: GripperGoal) -> None:
        if self.accepts is None:
            return
        self.adapter.on_answer(goal.number, self.accepts)
        if self.accepts:
            self.in_flight.add(goal.number)
            self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
            if self.ends is not None:
                self.end(self.ends)

    def end(self, outcome: Outcome) -> None:
        assert self.adapter.goal is not None
        self.in_flight.discard(self.adapter.goal.number)
        self.adapter.on_result(self.adapter.goal.number, outcome)

    @property
    def targets(self) -> list[float]:
        return [goal.target_m for _, goal in self.sent]

    @property
    def problem(self) -> str:
        return self.adapter.problem(self.now_s, self.server)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# A goal for each real change, and none else.


def test_equal_targets_are_one_goal(rig: Rig) -> None:
    for _ in range(5):
        rig.chunk(OPEN_M)
    assert rig.targets == [OPEN_M]


def test_a_grasp_is_not_restarted_by_what_squeezes_more_or_less(rig: Rig) -> None:
    rig.chunk(OPEN_M)
    for target_m in (SQUEEZE_M, -0.002, -0.0105, 0.0, 0.0015, SQUEEZE_M):
        rig.chunk(target_m, target_m + 1e-5)
    assert rig.targets == [OPEN_M, SQUEEZE_M]
    assert rig.sent[-1][1].grasp


def test_a_grasp_is_left_beyond_the_dead_band_only(rig: Rig) -> None:
    rig.chunk(SQUEEZE_M)
    rig.chunk(0.001, 0.0019)
    assert len(rig.sent) == 1
    rig.chunk(0.0019, 0.0021)
    assert rig.targets[-1] == 0.0021
    assert not rig.sent[-1][1].grasp


def test_a_grasp_begins_within_the_dead_band_too(rig: Rig) -> None:
    rig.chunk(0.0009, 0.001)
    rig.chunk(0.0009, 0.0)
    assert [goal.grasp for _, goal in rig.sent] == [False, True]


def test_a_slow_change_is_a_goal_each_dead_band(rig: Rig) -> None:
    rig.chunk(OPEN_M)
    rig.chunk(*(OPEN_M - 0.0011 * np.arange(1, 9)))
    np.testing.assert_allclose(rig.targets, [0.04, 0.0378, 0.0356, 0.0334, 0.0312], atol=1e-9)


def test_a_turn_is_a_goal_from_a_quarter_of_the_dead_band_on(rig: Rig) -> None:
    rig.chunk(OPEN_M, 0.02)
    rig.chunk(0.0203, 0.0204)
    assert len(rig.sent) == 2
    rig.chunk(0.0204, 0.0206)
    assert rig.targets[-1] == 0.0206


def test_goals_are_within_the_finger_s_reach(rig: Rig) -> None:
    rig.chunk(OPEN_M)
    rig.chunk(SQUEEZE_M)
    assert [goal.finger_m for _, goal in rig.sent] == [0.04, 0.0]
    assert [goal.position for _, goal in rig.sent] == [0.04, 0.0]


def test_a_knuckle_is_given_its_angle() -> None:
    rig = Rig("ur5e")
    for target_m in (0.0425, 0.0):
        rig.adapter.take(
            trajectory(target_m, name="robotiq_85_finger_opening"), rig.now_s, rig.now_s
        )
        rig.run(0.4)
    assert [goal.position for _, goal in rig.sent] == pytest.approx([0.0, 0.7929], abs=1e-9)


def test_a_grasp_closes_the_finger_wherever_its_target_lies() -> None:
    rig = Rig("ur5e")
    rig.adapter.take(trajectory(0.0008, name="robotiq_85_finger_opening"), rig.now_s, rig.now_s)
    rig.run(0.4)
    goal = rig.sent[0][1]
    assert (goal.target_m, goal.finger_m, goal.position) == (0.0008, 0.0, 0.7929)


# When they are due.


def test_a_target_is_sent_when_it_is_due_within_the_look_ahead(rig: Rig) -> None:
    rig.chunk(OPEN_M)
    start_s = rig.now_s
    rig.chunk(*[OPEN_M] * 4, *[SQUEEZE_M] * 4)
    assert rig.sent[-1][1].target_m == SQUEEZE_M
    assert rig.sent[-1][0] - start_s == pytest.approx(0.25 - 0.02, abs=STEP_S)


def test_what_a_new_trajectory_replaces_is_not_sent(rig: Rig) -> None:
    rig.chunk(OPEN_M)
    rig.take(*[OPEN_M] * 4, *[SQUEEZE_M] * 4)
    rig.run(0.1)
    rig.chunk(OPEN_M)
    assert rig.targets == [OPEN_M]


def test_a_trajectory_of_the_past_is_not_sent(rig: Rig) -> None:
    rig.adapter.take(trajectory(SQUEEZE_M), rig.now_s - 2.0, rig.now_s)
    rig.run(0.4)
    assert rig.sent == []


# Stops keep the goal.


def stop(rig: Rig, at_m: float) -> None:
    """The guard's stop: equal targets, the first due at the stamp itself; then silence."""
    times_s = 0.05 * np.arange(9)
    told = JointTrajectory(("fr3_finger_joint1",), times_s, np.full((9, 1), at_m))
    rig.adapter.take(told, rig.now_s, rig.now_s)
    rig.run(3.0)


ANY_TARGET = [SQUEEZE_M, 0.01, OPEN_M]


@pytest.mark.parametrize("late_s", [0.06, 0.08, 0.1])
@pytest.mark.parametrize("at_m", ANY_TARGET)
def test_a_stop_while_the_curve_closes_neither_opens_nor_cancels(
    rig: Rig, late_s: float, at_m: float
) -> None:
    """The curve runs from 0.04 to -0.01 m between 0.05 and 0.1 s; the goal is sent at 0.08 s."""
    rig.ends = None
    rig.chunk(OPEN_M)
    rig.end(Outcome.SUCCEEDED)
    rig.take(OPEN_M, *[SQUEEZE_M] * 7)
    rig.run(late_s)
    before = rig.targets
    stop(rig, at_m)
    assert rig.targets == before
    assert rig.cancelled == []


@pytest.mark.parametrize("repeats", [1, 4])
def test_a_stop_after_engage_at_the_measured_finger_keeps_the_grasp(rig: Rig, repeats: int) -> None:
    """Object held at 0.02 m; engaged again, the guard's stop stands at the measured 0.02 m."""
    rig.chunk(OPEN_M)
    rig.ends = None
    rig.chunk(SQUEEZE_M)
    rig.run(5.0)
    for _ in range(repeats):
        stop(rig, 0.02)
    assert rig.targets == [OPEN_M, SQUEEZE_M]
    assert rig.cancelled == []
    assert rig.adapter.phase is Phase.RUNNING


@pytest.mark.parametrize("at_m", ANY_TARGET)
def test_after_a_stop_the_targets_ahead_are_not_sent(rig: Rig, at_m: float) -> None:
    """An object is held; the chunk lets it go from its sixth target on, the stop comes before."""
    rig.chunk(SQUEEZE_M)
    rig.take(*[SQUEEZE_M] * 5, *[OPEN_M] * 3)
    rig.run(0.12)
    stop(rig, at_m)
    assert rig.targets == [SQUEEZE_M]


def test_silence_keeps_the_goal_and_sends_nothing(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(SQUEEZE_M)
    rig.run(60.0)
    assert rig.targets == [SQUEEZE_M]
    assert rig.cancelled == []
    assert rig.problem == ""


def test_after_a_stop_the_next_chunk_counts_again(rig: Rig) -> None:
    rig.chunk(SQUEEZE_M)
    rig.take(OPEN_M, *[SQUEEZE_M] * 7)
    rig.run(0.07)
    stop(rig, 0.02)
    rig.chunk(0.02, *[OPEN_M] * 7)
    assert rig.targets[-1] == OPEN_M


def test_a_policy_s_equal_targets_are_no_stop(rig: Rig) -> None:
    """The first after a silence, between two chunks, and on the moving part of a curve."""
    rig.chunk(0.03)
    rig.run(5.0)
    rig.chunk(0.02)
    rig.take(0.02, *[0.01] * 7)
    rig.run(0.07)
    rig.chunk(0.015)
    assert rig.targets == [0.03, 0.02, 0.015]


def test_a_single_target_at_the_stamp_is_one_that_is_due(rig: Rig) -> None:
    """Somebody moves the gripper by hand, and leaves time_from_start out."""
    told = JointTrajectory(("fr3_finger_joint1",), np.zeros(1), np.full((1, 1), OPEN_M))
    rig.adapter.take(told, rig.now_s, rig.now_s)
    rig.run(0.1)
    assert rig.targets == [OPEN_M]


def test_what_became_due_before_a_stop_is_still_sent(rig: Rig) -> None:
    """The machine was busy from before the grasp was due until the stop on the way to open."""
    rig.chunk(OPEN_M)
    rig.take(*[SQUEEZE_M] * 7, OPEN_M)
    rig.now_s += 0.37
    stop(rig, 0.01)
    assert rig.targets == [OPEN_M, SQUEEZE_M]


@pytest.mark.parametrize("busy_s", [0.0, 0.015])
def test_a_stop_within_the_look_ahead_keeps_a_target_back_that_was_not_sent(
    rig: Rig, busy_s: float
) -> None:
    """The hand opens 0.1 s after the start; the stop comes 30 and 15 ms before."""
    rig.chunk(SQUEEZE_M)
    rig.take(SQUEEZE_M, *[OPEN_M] * 7)
    rig.run(0.07)
    rig.now_s += busy_s
    stop(rig, SQUEEZE_M)
    assert rig.targets == [SQUEEZE_M]


def test_a_stop_does_not_take_back_a_target_that_was_sent_ahead(rig: Rig) -> None:
    """The hand opens 0.1 s after the start, and is told so 10 ms before; so late comes the stop."""
    rig.chunk(SQUEEZE_M)
    rig.take(SQUEEZE_M, *[OPEN_M] * 7)
    rig.run(0.09)
    assert rig.targets == [SQUEEZE_M, OPEN_M]
    stop(rig, SQUEEZE_M)
    assert rig.targets == [SQUEEZE_M, OPEN_M]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([SQUEEZE_M, -0.003, 0.04]), min_size=16, max_size=16),
    st.integers(1, 39),
    st.sampled_from(ANY_TARGET),
)
def test_no_stop_at_any_moment_gives_an_opening_goal(
    targets: list[float], tick: int, at_m: float
) -> None:
    """Two chunks of any closing and opening targets; a stop at any 10 ms of the second."""
    rig = Rig()
    rig.chunk(*targets[:8])
    rig.take(*targets[8:])
    rig.run(tick * STEP_S)
    num_sent = len(rig.sent)
    stop(rig, at_m)
    assert len(rig.sent) == num_sent


# One goal in flight; the newest wins.


def test_a_running_goal_is_cancelled_before_the_next_is_sent(rig: Rig) -> None:
    rig.ends = None
    for target_m in (OPEN_M, SQUEEZE_M, OPEN_M):
        rig.chunk(target_m)
    assert rig.targets == [OPEN_M, SQUEEZE_M, OPEN_M]
    assert rig.cancelled == [1, 2]
    assert rig.most_in_flight == 1


def test_a_goal_that_was_cancelled_for_the_next_is_no_fault(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(OPEN_M)
    rig.take(SQUEEZE_M)
    rig.now_s += 0.05
    assert rig.adapter.step(rig.now_s, Server.READY) == "cancel"
    rig.end(Outcome.CANCELED)
    assert (rig.adapter.phase, rig.problem) == (Phase.IDLE, "")


def test_a_goal_that_others_cancelled_is_named(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(OPEN_M)
    rig.end(Outcome.CANCELED)
    assert "goal 1 (move to 0.0400 m) was canceled; it is not repeated" in rig.problem


def test_the_newest_target_is_sent_when_the_server_answers_late(rig: Rig) -> None:
    rig.accepts = None
    rig.chunk(OPEN_M)
    rig.chunk(0.02, 0.021)
    rig.chunk(SQUEEZE_M)
    assert rig.targets == [OPEN_M]
    assert "has not answered for" in rig.problem
    rig.accepts = True
    rig.adapter.on_answer(1, True)
    rig.adapter.on_result(1, Outcome.SUCCEEDED)
    rig.chunk(SQUEEZE_M)
    assert rig.targets == [OPEN_M, SQUEEZE_M]
    assert rig.problem == ""


# What goes wrong is said, and not repeated for ever.


def test_an_absent_server_is_named_at_once_and_gets_the_goal_when_it_comes(rig: Rig) -> None:
    rig.server = Server.ABSENT
    assert rig.problem.startswith("action server fr3_gripper is not available")
    rig.chunk(SQUEEZE_M)
    assert rig.sent == []
    rig.server = Server.READY
    rig.chunk(SQUEEZE_M)
    assert rig.targets == [SQUEEZE_M]


def test_a_server_that_comes_after_the_guard_fell_silent_gets_nothing(rig: Rig) -> None:
    rig.server = Server.ABSENT
    rig.chunk(SQUEEZE_M)
    rig.run(1.0)
    rig.server = Server.READY
    rig.run(5.0)
    assert rig.sent == []


def test_a_goal_lost_with_its_server_is_sent_again(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(SQUEEZE_M)
    rig.server = Server.ABSENT
    rig.chunk(SQUEEZE_M)
    rig.server = Server.READY
    assert "was lost with fr3_gripper" in rig.problem
    for _ in range(3):
        rig.chunk(SQUEEZE_M)
    assert rig.targets == [SQUEEZE_M, SQUEEZE_M]


def test_a_silent_server_is_named_gets_nothing_and_loses_nothing(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(SQUEEZE_M)
    rig.server = Server.SILENT
    assert rig.problem.startswith("action server fr3_gripper does not answer")
    rig.chunk(OPEN_M)
    rig.run(1.0)
    rig.server = Server.READY
    rig.chunk(SQUEEZE_M)
    assert (rig.targets, rig.cancelled, rig.problem) == ([SQUEEZE_M], [], "")


def test_a_goal_that_a_new_server_does_not_know_is_sent_again(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(SQUEEZE_M)
    rig.adapter.on_unknown(1)
    assert "goal 1 (grasp to 0.0000 m) was lost with fr3_gripper" in rig.problem
    for _ in range(3):
        rig.chunk(SQUEEZE_M)
    assert rig.targets == [SQUEEZE_M, SQUEEZE_M]


def test_the_next_goal_does_not_wait_for_one_that_a_new_server_does_not_know(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(SQUEEZE_M)
    rig.take(OPEN_M)
    rig.now_s += 0.05
    assert rig.adapter.step(rig.now_s, Server.READY) == "cancel"
    rig.run(0.1)
    assert rig.targets == [SQUEEZE_M]
    rig.adapter.on_unknown(1)
    rig.run(0.1)
    assert rig.targets == [SQUEEZE_M, OPEN_M]


def test_a_rejected_goal_is_named_and_tried_once_a_second(rig: Rig) -> None:
    rig.accepts = False
    for _ in range(8):
        rig.chunk(SQUEEZE_M)
    assert len(rig.sent) == 4
    assert rig.problem.startswith(
        "goal 4 (grasp to 0.0000 m) was rejected by fr3_gripper; check that"
    )


def test_an_aborted_goal_is_named_and_not_repeated(rig: Rig) -> None:
    rig.ends = Outcome.ABORTED
    for _ in range(8):
        rig.chunk(SQUEEZE_M)
    assert len(rig.sent) == 1
    assert "goal 1 (grasp to 0.0000 m) was aborted; it is not repeated" in rig.problem
    rig.ends = Outcome.SUCCEEDED
    rig.chunk(OPEN_M)
    assert rig.problem == ""


@pytest.mark.parametrize(("target_m", "is_fault"), [(SQUEEZE_M, False), (OPEN_M, True)])
def test_a_grasp_that_meets_an_object_is_done_and_a_blocked_move_is_not(
    rig: Rig, target_m: float, is_fault: bool
) -> None:
    rig.ends = Outcome.STALLED
    rig.chunk(target_m)
    assert bool(rig.problem) is is_fault


def test_answers_of_older_goals_change_nothing(rig: Rig) -> None:
    rig.ends = None
    rig.chunk(OPEN_M)
    rig.chunk(SQUEEZE_M)
    rig.adapter.on_answer(1, False)
    rig.adapter.on_result(1, Outcome.ABORTED)
    assert rig.problem == ""
    assert rig.adapter.phase is Phase.RUNNING


# What cannot be used is refused, and changes nothing.


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (trajectory(OPEN_M, float("nan")), "positions must be finite"),
        (trajectory(OPEN_M, float("inf")), "positions must be finite"),
        (trajectory(OPEN_M, name="panda_finger_joint1"), "joints must be ['fr3_finger_joint1']"),
        (
            JointTrajectory(("fr3_finger_joint1",), np.empty(0), np.empty((0, 1))),
            "at least one point",
        ),
        (
            JointTrajectory(("fr3_finger_joint1",), np.array([0.1, 0.1]), np.zeros((2, 1))),
            "strictly increasing",
        ),
    ],
)
def test_a_bad_trajectory_is_refused_and_the_old_one_goes_on(
    rig: Rig, bad: JointTrajectory, sentence: str
) -> None:
    rig.chunk(OPEN_M)
    rig.take(*[OPEN_M] * 4, *[SQUEEZE_M] * 4)
    rig.run(0.1)
    with pytest.raises(ValueError) as error:
        rig.adapter.take(bad, rig.now_s, rig.now_s)
    assert sentence in str(error.value)
    rig.run(0.3)
    assert rig.targets == [OPEN_M, SQUEEZE_M]
