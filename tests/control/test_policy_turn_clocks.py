# SPDX-License-Identifier: Apache-2.0
"""Clocks that are set, stamps of another clock, and joint states that lag: what is reported, and
that the policy goes on by itself. Times as in test_policy_turn; a picture may be 0.4 s old."""

import numpy as np
import pytest

from par_ros.control.joint_states import JointReading
from par_ros.control.timeline import Moment
from tests.control.test_policy_turn import (
    CHUNK_NS,
    JOINTS,
    LOCKSTEP,
    REALTIME,
    START_NS,
    STEP_NS,
    Rig,
    asked,
    is_shown,
    refused,
)

S = 1_000_000_000
# A day's time, so that an hour can be taken off.
DAY_NS = 86_400 * S


class Clocks(Rig):
    """The ROS clock and the camera's can be set; the steady clock goes on."""

    def __init__(self, settings=REALTIME) -> None:
        self.steady_ns = START_NS
        super().__init__(settings)
        self.now_ns = DAY_NS

    def now(self) -> Moment:
        return Moment(self.now_ns, self.steady_ns)

    def step(self, camera_ns: int = 0, joints_ns: int = 0):
        """0.05 s later: joint states and a picture, their stamps so far off."""
        self.now_ns += STEP_NS
        self.steady_ns += STEP_NS
        positions = np.full(3, 0.5)
        self.turn.take_joint_state(
            JointReading(self.now_ns + joints_ns, JOINTS, positions, None), self.now()
        )
        picture = self.picture()
        return self.turn.take_picture(
            picture, picture.reshape(-1), self.now_ns + camera_ns, self.now()
        )

    def run(self) -> None:
        """One chunk, answered and executed."""
        question = asked(self.step())
        self.answer(question)
        assert self.execute(question.pending.stamp_ns) is None


@pytest.mark.parametrize("back_s", [1, 60, 3600])
def test_a_clock_that_is_set_back_is_reported_once_and_the_policy_starts_anew(back_s: int) -> None:
    rig = Clocks()
    rig.run()
    rig.now_ns -= back_s * S
    refusal = refused(rig.step())
    assert refusal.kind == "clock"
    assert f"went back by {back_s - 0.05:.3f} s or more; the policy starts anew" in refusal.reason
    question = asked(rig.step())
    assert question.starts_anew
    assert is_shown(question, None)
    rig.answer(question)


@pytest.mark.parametrize("ahead_s", [1, 60, 3600])
def test_after_a_clock_that_is_set_ahead_the_policy_starts_anew(ahead_s: int) -> None:
    rig = Clocks()
    rig.run()
    rig.now_ns += ahead_s * S
    question = asked(rig.step())
    assert question.starts_anew


@pytest.mark.parametrize(("camera_s", "kind"), [(-60, "stale"), (-3600, "stale"), (3600, "future")])
def test_a_cameras_clock_that_is_set_is_the_cameras_fault_until_it_is_right_again(
    camera_s: int, kind: str
) -> None:
    rig = Clocks()
    rig.run()
    for _ in range(20):
        outcome = rig.step(camera_ns=camera_s * S)
        if rig.now_ns > DAY_NS + CHUNK_NS + 2 * STEP_NS:
            refusal = refused(outcome)
            assert refusal.kind == kind
            assert "check which clock the camera's driver stamps with" in refusal.reason
    asked(rig.step())


def test_a_delay_is_no_clock_that_was_set() -> None:
    """Pictures of before the answered one, up to 0.4 s, come late and are left out."""
    rig = Clocks()
    rig.run()
    for late_ns in (STEP_NS, 4 * STEP_NS, 9 * STEP_NS):
        assert rig.step(camera_ns=-late_ns) is None


@pytest.mark.parametrize("settings", [REALTIME, LOCKSTEP])
def test_a_stamp_of_zero_is_named_first_and_last(settings) -> None:
    """Also when its stamps have not gone on for longer than the 0.3 s that they may stall."""
    rig = Clocks(settings)
    for _ in range(20):
        refusal = refused(rig.step(camera_ns=-rig.now_ns - STEP_NS))
        assert refusal.kind == "unstamped"
        assert "this one's stamp is 0; check the camera's driver" in refusal.reason
    asked(rig.step())


def test_stamps_of_another_clock_show_both_readings() -> None:
    """Seconds since the start of a computer, where the node has those since 1970."""
    rig = Clocks()
    refusal = refused(rig.step(camera_ns=-DAY_NS + 7 * S))
    assert refusal.kind == "stale"
    assert "its stamp is 7.050 s where the clock shows 86400.050 s" in refusal.reason


def test_simulated_time_without_a_clock_is_named() -> None:
    rig = Clocks()
    rig.now_ns = 0
    picture = rig.picture()
    rig.turn.take_joint_state(JointReading(DAY_NS, JOINTS, np.full(3, 0.5), None), rig.now())
    outcome = rig.turn.take_picture(picture, picture.reshape(-1), DAY_NS, rig.now())
    refusal = refused(outcome)
    assert refusal.kind == "future"
    assert "use_sim_time is true and nothing has come on /clock" in refusal.reason


@pytest.mark.parametrize(("joints_s", "side"), [(-0.5, "behind"), (3600.0, "ahead of")])
def test_joint_states_that_lag_are_the_cause_however_old_the_picture_becomes(
    joints_s: float, side: str
) -> None:
    rig = Clocks()
    joints_ns = round(joints_s * S)
    refusal = refused(rig.step(joints_ns=joints_ns))
    assert refusal.kind == "skew"
    assert f"stamp is {abs(joints_s):.3f} s {side} the clock: check the clock of" in refusal.reason
    # No other picture comes; joint states do, and the picture becomes older than it may be.
    for _ in range(12):
        rig.now_ns += STEP_NS
        rig.steady_ns += STEP_NS
        reading = JointReading(rig.now_ns + joints_ns, JOINTS, np.full(3, 0.5), None)
        assert rig.turn.take_joint_state(reading, rig.now()) is None
    asked(rig.step())


def test_pictures_at_60_hz_and_dropped_ones_are_answered() -> None:
    """Every second picture is lost; each chunk answers the first one after the chunk before."""
    rig = Clocks()
    answered = []
    for index in range(120):
        rig.now_ns += S // 60
        rig.steady_ns += S // 60
        reading = JointReading(rig.now_ns, JOINTS, np.full(3, 0.5), None)
        rig.turn.take_joint_state(reading, rig.now())
        if index % 2:
            continue
        picture = rig.picture()
        outcome = rig.turn.take_picture(picture, picture.reshape(-1), rig.now_ns, rig.now())
        if outcome is not None:
            answered.append(rig.now_ns)
            rig.answer(outcome)
            rig.execute(rig.now_ns)
    gaps_s = np.diff(answered) / S
    assert len(answered) == 5
    assert gaps_s.min() > 0.399 and gaps_s.max() <= 0.4 + 2 / 60 + 1e-6


def test_a_picture_of_an_odd_size_before_the_first_answer_changes_nothing() -> None:
    rig, untouched = Rig(REALTIME), Rig(REALTIME)
    rig.show_picture(START_NS, np.full((9, 9, 3), 90, np.uint8))
    question, expected = (asked(each.show(START_NS + 4 * STEP_NS)) for each in (rig, untouched))
    assert question.pending.stamp_ns == START_NS + 4 * STEP_NS
    assert question.starts_anew == expected.starts_anew
    assert np.array_equal(question.assembled.image, expected.assembled.image)


def test_a_camera_that_changes_its_size_for_good_is_followed_anew() -> None:
    rig = Clocks()
    rig.run()
    wide = rig.picture

    def bigger():
        return np.pad(wide(), ((0, 1), (0, 1), (0, 0)), constant_values=90)

    rig.picture = bigger  # type: ignore[method-assign]
    kinds = []
    for _ in range(40):
        outcome = rig.step()
        if outcome is not None and not hasattr(outcome, "kind"):
            break
        kinds.append(None if outcome is None else outcome.kind)
    assert kinds[-1] == "size"
    assert asked(outcome).starts_anew
