# SPDX-License-Identifier: Apache-2.0
"""The sentences, numbers and rare orders of events of PolicyTurn; times as in test_policy_turn."""

import dataclasses

import numpy as np
import pytest

from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.policy_turn import ClipSettings
from tests.control.test_policy_turn import (
    ASKED,
    CHUNK_NS,
    JOINTS,
    LOCKSTEP,
    REALTIME,
    START_NS,
    STEP_NS,
    TIMES_S,
    Rig,
    asked,
    is_shown,
    refused,
)


def test_episodes_are_counted_from_one() -> None:
    rig = Rig()
    assert rig.turn.episode == 1
    rig.turn.begin_episode(rig.now())
    assert rig.turn.episode == 2
    assert asked(rig.show(START_NS)).episode == 2


def test_a_turn_is_inactive_until_it_is_activated() -> None:
    rig = Rig(is_active=False)
    assert rig.turn.is_active is False
    rig.turn.activate()
    assert rig.turn.is_active is True
    rig.turn.deactivate()
    assert rig.turn.is_active is False


def test_an_inactive_turn_awaits_and_frees_nothing() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    rig.turn.deactivate()
    assert not rig.turn.awaits_executed_actions(START_NS)
    assert rig.turn.check_silence(rig.now()) is None
    # a picture waits until the policy is free
    rig = Rig()
    asked(rig.show(START_NS))
    rig.show(START_NS + STEP_NS)
    rig.turn.deactivate()
    assert rig.turn.free(rig.now()) is None


def test_what_is_shown_is_the_picture_in_the_policys_size() -> None:
    rig = Rig()
    rig.show_joints(START_NS)
    picture = np.random.default_rng(1).integers(80, 100, (12, 8, 3), np.uint8)
    question = asked(rig.show_picture(START_NS, picture))
    assert question.pending.pictures[0] is picture
    np.testing.assert_array_equal(question.assembled.image, picture[:8])


def test_the_second_chunk_too_is_awaited_before_the_next_question() -> None:
    """The first chunk's end is known, and does not stand for the second's."""
    rig = Rig()
    rig.run_chunk()
    rig.answer(rig.show(START_NS + CHUNK_NS))
    assert rig.show(START_NS + CHUNK_NS + STEP_NS) is None
    assert rig.show(START_NS + 2 * CHUNK_NS) is None
    asked(rig.execute(START_NS + CHUNK_NS))


def test_a_picture_that_waited_is_as_old_as_it_is_when_it_is_asked() -> None:
    """For the guard's report, and for the policy: 0.1 s."""
    rig = Rig(REALTIME)
    rig.answer(rig.show(START_NS))
    assert rig.show(START_NS + CHUNK_NS) is None
    rig.now_ns += 100_000_000
    question = asked(rig.execute(START_NS))
    assert question.age_s == pytest.approx(0.1)
    assert rig.show(START_NS + CHUNK_NS + 2 * STEP_NS) is None
    rig.now_ns += 100_000_000
    assert asked(rig.turn.free(rig.now())).age_s == pytest.approx(0.1)


def test_a_context_is_lost_once() -> None:
    """The policy starts anew, fails, and is asked again about a later picture: not anew."""
    rig = Rig()
    rig.turn.lose_context()
    assert asked(rig.show(START_NS)).starts_anew is True
    rig.show(START_NS + STEP_NS)
    assert asked(rig.turn.free(rig.now())).starts_anew is False


def test_whether_the_policy_starts_anew_is_yes_or_no() -> None:
    question = asked(Rig().show(START_NS))
    assert question.starts_anew is False


def test_a_hold_is_one_whatever_the_joints_positions() -> None:
    """Three joints at three places, none of which moves; one that moves a little is no hold."""
    for moved, is_lost in ((0.0, True), (1e-6, False)):
        held = np.tile([0.1, 0.5, 0.04], (8, 1))
        held[7, 1] += moved
        rig = Rig()
        rig.run_chunk(positions=held)
        assert asked(rig.show(START_NS + CHUNK_NS)).starts_anew is is_lost


def test_what_was_lost_before_a_picture_is_due_stays_lost() -> None:
    rig = Rig()
    rig.run_chunk()
    rig.turn.lose_context()
    question = asked(rig.show(START_NS + CHUNK_NS))
    assert question.starts_anew is True
    assert is_shown(question, None)
    assert question.previous_stamp_ns is None


def test_a_picture_that_another_check_refused_is_gone() -> None:
    """Black, then joint states come: the black picture is not looked at again."""
    rig = Rig(REALTIME)
    rig.show_joints(START_NS)
    black = np.zeros((8, 8, 3), np.uint8)
    assert refused(rig.show_picture(START_NS, black)).kind == "black"
    assert rig.show_joints(START_NS + 1) is None


def test_a_picture_that_waits_for_joints_in_realtime_is_reported_each_time() -> None:
    rig = Rig(REALTIME)
    for _ in range(2):
        assert refused(rig.show_picture(START_NS)).kind == "joints"


# Sentences


def test_refusals_say_what_the_readers_said() -> None:
    rig = Rig()
    rig.show_joints(START_NS)
    noise = rig.picture()
    refusal = refused(rig.show_picture(START_NS, noise[..., 0]))
    assert (refusal.kind, refusal.reason) == ("encoding", "a picture must be rgb8.")
    rig = Rig()
    rig.show_joints(START_NS)
    refusal = refused(rig.show_picture(START_NS, noise[:4]))
    assert (refusal.kind, refusal.reason) == ("size", "a picture must be at least 8 high.")


def test_a_bad_joint_state_s_refusal_names_it() -> None:
    refusal = refused(Rig().show_joints(START_NS, position=float("inf")))
    assert refusal.kind == "joints"
    assert refusal.reason.startswith("joint state positions must be finite, got [inf, inf, inf];")


def test_executed_actions_of_another_shape_name_both_lengths() -> None:
    rig = Rig()
    rig.answer(rig.show(START_NS))
    short = JointTrajectory(JOINTS, TIMES_S[:5], ASKED[:5])
    refusal = refused(rig.turn.take_executed_actions(START_NS, short, rig.now()))
    assert refusal.reason == (
        "executed_actions has 5 points and the chunk it answers 8; check the guard's num_actions."
    )
    strangers = JointTrajectory(("a", "b", "c"), TIMES_S, ASKED)
    refusal = refused(rig.turn.take_executed_actions(START_NS, strangers, rig.now()))
    assert refusal.kind == "executed_actions"
    assert "shoulder" in refusal.reason
    # neither was taken for the answer
    assert rig.show(START_NS + CHUNK_NS) is None
    asked(rig.execute(START_NS))


# Clocks


def test_silence_counts_from_the_beginning_of_the_episode_by_the_steady_clock() -> None:
    """1 s without a picture is allowed."""
    rig = Rig(REALTIME)
    rig.now_ns = START_NS + 900_000_000
    rig.turn.restart_camera(rig.now())
    rig.now_ns += 1_000_000_000
    assert rig.turn.check_silence(rig.now()) is None
    rig.now_ns += 1_000_000
    refusal = rig.turn.check_silence(rig.now())
    assert refusal is not None and refusal.kind == "silent"
    rig.turn.begin_episode(rig.now())
    assert rig.turn.check_silence(rig.now()) is None


def test_age_is_the_ros_clocks_in_realtime_and_nothing_in_lockstep() -> None:
    for settings, expected in ((REALTIME, 0.1), (LOCKSTEP, 0.0)):
        rig = Rig(settings)
        rig.show_joints(START_NS)
        rig.now_ns = START_NS + 100_000_000
        assert asked(rig.show_picture(START_NS)).age_s == pytest.approx(expected)


def test_the_next_episodes_pictures_may_have_another_size() -> None:
    rig = Rig()
    rig.show_joints(START_NS)
    first = asked(rig.show_picture(START_NS))
    rig.turn.begin_episode(rig.now())
    rig.turn.free(rig.now())
    rig.show_joints(START_NS)
    wide = np.full((16, 8, 3), 90, np.uint8)
    another = Rig()
    another.show_joints(START_NS)
    asked(another.show_picture(START_NS, wide))
    next_one = asked(rig.show_picture(START_NS, wide))
    # Both are fitted to what the policy takes.
    assert next_one.assembled.image.shape == first.assembled.image.shape != wide.shape
    assert (next_one.assembled.image == 90).all()


# Clips

CLIP = dataclasses.replace(
    LOCKSTEP, clip=ClipSettings(num_pictures=4, spacing_s=0.1, max_skew_s=0.01)
)


def test_sixty_pictures_are_kept_for_a_clip() -> None:
    """4 pictures 0.1 s apart; of those at 0.1, 0.2 and 0.3 s after the chunk's start, the first
    is the 60th newest in one case and the 61st in the other."""
    for num_more, is_kept in ((57, True), (58, False)):
        rig = Rig(CLIP)
        rig.run_chunk()
        for step in (2, 4, 6):
            rig.show(START_NS + step * STEP_NS)
        # the one at 0.1 s, these at 0.2 and 0.3 s, the fillers and the last one
        for index in range(num_more - 1):
            rig.show_picture(START_NS + 6 * STEP_NS + 1 + index)
        outcome = rig.show(START_NS + CHUNK_NS)
        if is_kept:
            assert asked(outcome).assembled.recent_images is not None
        else:
            assert refused(outcome).kind == "clip"


def test_a_faulty_picture_of_a_clip_refuses_the_clip() -> None:
    """The picture at 0.2 s is too small for the policy."""
    rig = Rig(CLIP)
    rig.run_chunk()
    for step in (2, 4, 6):
        small = rig.picture()[:4] if step == 4 else None
        rig.show_joints(START_NS + step * STEP_NS)
        rig.show_picture(START_NS + step * STEP_NS, small)
    assert refused(rig.show(START_NS + CHUNK_NS)).kind == "size"


def test_settings_without_a_limit_never_call_a_camera_silent() -> None:
    settings = dataclasses.replace(REALTIME, camera=CameraCheckSettings(max_silence_s=None))
    rig = Rig(settings)
    rig.now_ns += 1_000_000_000_000
    assert rig.turn.check_silence(rig.now()) is None
