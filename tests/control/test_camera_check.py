# SPDX-License-Identifier: Apache-2.0
"""Pictures every 0.05 s of made-up time; 0.3 s of stalled stamps and 0.1 rad are allowed."""

import numpy as np
import pytest

from par_ros.control.camera_check import CameraCheck, CameraCheckSettings

PERIOD_S = 0.05
NUM_PICTURES = 40
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (NUM_PICTURES, 300), dtype=np.uint8)
SPEED_RAD_S = 0.6


def play(pictures, stamps_s, positions, settings=None):
    """What check_stream says after each picture: a list of kinds, None where all is well."""
    camera = CameraCheck(settings or CameraCheckSettings(), 0.0)
    kinds = []
    for index, pixels in enumerate(pictures):
        now_s = index * PERIOD_S
        position = positions[index]
        joints = None if position is None else np.array([0.0, position])
        camera.see(pixels, round(stamps_s[index] * 1e9), joints, now_s)
        refusal = camera.check_stream(now_s)
        kinds.append(None if refusal is None else refusal.kind)
    return kinds


TIMES_S = [1.0 + index * PERIOD_S for index in range(NUM_PICTURES)]
MOVING = [SPEED_RAD_S * index * PERIOD_S for index in range(NUM_PICTURES)]


def test_a_live_camera_is_trusted():
    assert play(PICTURES, TIMES_S, MOVING) == [None] * NUM_PICTURES


def test_one_picture_is_fine_while_the_arm_stands():
    still = np.repeat(PICTURES[:1], NUM_PICTURES, axis=0)
    assert play(still, TIMES_S, [0.3] * NUM_PICTURES) == [None] * NUM_PICTURES


def test_frozen_is_found_once_the_arm_has_moved_and_forgotten_with_a_new_picture():
    """0.03 rad a picture: frozen at picture 10, 0.1 rad later is four; new ones from 20 on."""
    pictures = PICTURES.copy()
    pictures[10:20] = pictures[10]
    kinds = play(pictures, TIMES_S, MOVING)
    assert kinds == [None] * 14 + ["frozen"] * 6 + [None] * 20


def test_there_and_back_again_is_motion_too():
    pictures = np.repeat(PICTURES[:1], NUM_PICTURES, axis=0)
    positions = [0.0] * 5 + [0.2] * 5 + [0.0] * 30
    assert play(pictures, TIMES_S, positions)[-1] == "frozen"


def test_frozen_waits_for_the_first_joint_state():
    pictures = np.repeat(PICTURES[:1], NUM_PICTURES, axis=0)
    positions = [None] * 10 + [0.7] * 20 + [0.9] * 10
    assert play(pictures, TIMES_S, positions) == [None] * 30 + ["frozen"] * 10


def test_stalled_stamps():
    """Stamps stand from picture 10 to 19: more than 0.3 s at picture 16 (0.05 s each)."""
    stamps = list(TIMES_S)
    stamps[9:20] = [stamps[9]] * 11
    assert play(PICTURES, stamps, MOVING) == [None] * 16 + ["stalled"] * 4 + [None] * 20
    waiting = CameraCheckSettings(max_stall_s=None)
    assert play(PICTURES, stamps, MOVING, waiting) == [None] * NUM_PICTURES


def test_stamps_that_step_back_once_go_on_from_there():
    stamps = [*TIMES_S[:20], *(time_s - 30.0 for time_s in TIMES_S[20:])]
    assert play(PICTURES, stamps, MOVING) == [None] * NUM_PICTURES


def test_silence():
    camera = CameraCheck(CameraCheckSettings(max_silence_s=1.0), 5.0)
    assert camera.check_silence(6.0) is None
    refusal = camera.check_silence(6.1)
    assert refusal is not None
    assert "none has come at all" in refusal.reason
    camera.see(PICTURES[0], 1, None, 7.0)
    assert camera.check_silence(8.0) is None
    refusal = camera.check_silence(8.5)
    assert refusal is not None
    assert refusal.kind == "silent"
    assert "for 1.5 s" in refusal.reason
    assert CameraCheck(CameraCheckSettings(max_silence_s=None), 0.0).check_silence(1e6) is None


def test_a_size_that_changes_is_refused_while_the_old_one_is_seen():
    """A size counts once a picture of it was answered; 1 s without one, and another may follow."""
    camera = CameraCheck(CameraCheckSettings(max_silence_s=1.0), 0.0)
    assert camera.check_size(720, 1280, 0.0) is None
    assert camera.check_size(480, 640, 0.1) is None
    assert not camera.accept_size()
    refusal = camera.check_size(720, 1280, 0.2)
    assert refusal is not None
    assert "were 640 x 480 before and are 1280 x 720 now" in refusal.reason
    assert camera.check_size(480, 640, 0.9) is None
    assert not camera.accept_size()
    assert camera.check_size(720, 1280, 1.9) is not None
    assert camera.check_size(720, 1280, 2.0) is None
    assert camera.accept_size()
    assert camera.check_size(480, 640, 2.1) is not None
    camera.reset(3.0)
    assert camera.check_size(480, 640, 3.0) is None


def test_where_physics_waits_a_size_stays():
    camera = CameraCheck(CameraCheckSettings(max_silence_s=None), 0.0)
    camera.check_size(480, 640, 0.0)
    camera.accept_size()
    assert camera.check_size(720, 1280, 1e6) is not None


def sources_seen(sources):
    """The kind of fault at each picture, 0.05 s apart."""
    camera = CameraCheck(CameraCheckSettings(), 0.0)
    kinds = []
    for index, source in enumerate(sources):
        camera.see(PICTURES[index % 40], 1 + index, None, 0.05 * index, source)
        refusal = camera.check_stream(0.05 * index)
        kinds.append("" if refusal is None else refusal.kind)
    return kinds


def test_two_publishers_in_turn_are_named():
    assert sources_seen("ababab") == ["", "", *["two_cameras"] * 4]
    camera = CameraCheck(CameraCheckSettings(), 0.0)
    for index, source in enumerate(("/left", "/right", "/left")):
        camera.see(PICTURES[index], 1 + index, None, 0.0, source)
    refusal = camera.check_stream(0.0)
    assert refusal is not None
    assert "they come from /left and /right on one topic" in refusal.reason


def test_what_to_do_about_two_publishers_can_be_done_however_the_node_was_started():
    camera = CameraCheck(CameraCheckSettings(), 0.0, "camera/wrist/image_raw")
    for index, source in enumerate(("/left", "/right", "/left")):
        camera.see(PICTURES[index], 1 + index, None, 0.0, source)
    refusal = camera.check_stream(0.0)
    assert refusal is not None
    for way in ("camera_topic:= or further_cameras:=", "by remapping camera/wrist/image_raw."):
        assert way in refusal.reason


def test_a_driver_that_was_started_again_is_no_second_camera():
    assert set(sources_seen("aaaabbbb")) == {""}


def test_three_seconds_of_one_publisher_end_the_mixture():
    """60 pictures after the one that came back."""
    kinds = sources_seen("aba" + 62 * "a")
    assert kinds[2:63] == ["two_cameras"] * 61
    assert set(kinds[63:]) == {""}


@pytest.mark.parametrize(("level", "kind"), [(0, "black"), (7, "black"), (8, None), (90, None)])
def test_black(level, kind):
    camera = CameraCheck(CameraCheckSettings(min_brightness=8.0), 0.0)
    refusal = camera.check_brightness(np.full((12, 16, 3), level, np.uint8))
    assert (None if refusal is None else refusal.kind) == kind
