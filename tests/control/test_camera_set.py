# SPDX-License-Identifier: Apache-2.0
"""Several cameras of one policy: whose pictures are answered together, and who is missing.

Pictures are numbers; 30 Hz is 33.3 ms; two views may be 30 ms apart and a camera silent for 1 s.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from par_ros.control.camera_check import CAMERA_FAULTS, CameraCheckSettings
from par_ros.control.camera_set import CameraSet, ViewSettings
from par_ros.control.observation_assembler import Refusal
from par_ros.control.view_match import MatchedPictures
from par_ros.topics import camera_topics

MS = 1_000_000
VIEWS = ("front", "right")
SETTINGS = CameraCheckSettings(max_silence_s=1.0, max_stall_s=0.3)


def read(number: int, view: str) -> np.ndarray:
    """A grey picture of that value, uint8 [4, 4, 3]; negative numbers have no known encoding."""
    if number < 0:
        raise ValueError("the encoding is unknown.")
    return np.full((4, 4, 3), number, np.uint8)


def cameras(views=VIEWS, settings=SETTINGS, max_skew_s=0.03) -> CameraSet[int]:
    return CameraSet(
        ViewSettings(views, max_skew_s), settings, read, lambda image, view: image, 0.0
    )


def take(camera_set, view, stamp_ms, number=100, now_s=None):
    """See and match one picture, as the policy's turn does."""
    now_s = stamp_ms / 1000 if now_s is None else now_s
    stamp_ns = stamp_ms * MS
    pixels = np.array([stamp_ms % 251, number % 251], np.uint8)
    refusal = camera_set.see(view, pixels, stamp_ns, None, now_s, "")
    return refusal or camera_set.match(view, number, stamp_ns, now_s)


def test_one_view_is_answered_at_once() -> None:
    assert take(cameras(("front",)), "front", 40, 7) == MatchedPictures((7,), (40 * MS,))


@pytest.mark.parametrize("order", [VIEWS, VIEWS[::-1]])
def test_pictures_of_one_moment_are_answered_together_in_the_order_of_the_views(order) -> None:
    camera_set = cameras()
    numbers = {"front": 1, "right": 2}
    assert take(camera_set, order[0], 40, numbers[order[0]]) is None
    matched = take(camera_set, order[1], 40, numbers[order[1]])
    assert matched == MatchedPictures((1, 2), (40 * MS, 40 * MS))
    assert take(camera_set, "right", 41, 3) is None


def test_the_nearest_partner_within_the_skew_is_taken() -> None:
    camera_set = cameras()
    for stamp_ms, number in ((60, 1), (85, 2), (140, 3)):
        assert take(camera_set, "right", stamp_ms, number) is None
    assert take(camera_set, "front", 100, 9) == MatchedPictures((9, 2), (100 * MS, 85 * MS))


@given(st.lists(st.tuples(st.sampled_from(VIEWS), st.integers(1, 400)), max_size=60))
def test_what_is_answered_is_close_new_and_in_order(arrivals) -> None:
    """Whatever comes: pairs lie within the skew, and each front picture is answered once, later
    than those before it."""
    camera_set = cameras()
    answered = []
    for view, stamp_ms in arrivals:
        matched = camera_set.match(view, 1, stamp_ms * MS, 0.0)
        if isinstance(matched, MatchedPictures):
            front_ns, right_ns = matched.stamps_ns
            assert abs(front_ns - right_ns) <= 30 * MS
            answered.append((front_ns, view))
    times = [front_ns for front_ns, _ in answered]
    fronts = [stamp_ms * MS for view, stamp_ms in arrivals if view == "front"]
    for front_ns in set(times):
        assert times.count(front_ns) <= fronts.count(front_ns)


def test_a_view_that_never_came_is_named_with_its_topic() -> None:
    camera_set = cameras()
    outcomes = [take(camera_set, "front", stamp_ms) for stamp_ms in range(0 + 33, 1400, 33)]
    refusal = outcomes[-1]
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "silent"
    assert refusal.reason.startswith("view 'right': a picture must come at least every 1 s")
    assert "none has come at all" in refusal.reason
    assert "camera/right/image_raw" in refusal.reason
    assert camera_set.check_silence(1.4) == refusal
    assert outcomes[0] is None
    # The topic is the one that the node listens to.
    assert camera_topics(VIEWS)["right"][0].name in refusal.reason


def test_a_view_that_stops_is_named() -> None:
    camera_set = cameras()
    for stamp_ms in range(33, 500, 33):
        take(camera_set, "right", stamp_ms)
        take(camera_set, "front", stamp_ms)
    for stamp_ms in range(500, 2000, 33):
        outcome = take(camera_set, "front", stamp_ms)
    assert outcome.reason.startswith("view 'right'")
    assert "none has come for 1.5 s" in outcome.reason


def test_a_view_with_another_clock_is_named_with_how_far_it_is() -> None:
    """200 ms late, for longer than a camera may be silent."""
    camera_set = cameras()
    outcomes = []
    for stamp_ms in range(300, 2000, 100):
        outcomes.append(take(camera_set, "right", stamp_ms - 250))
        outcomes.append(take(camera_set, "front", stamp_ms))
    assert not any(isinstance(outcome, MatchedPictures) for outcome in outcomes)
    last = outcomes[-1]
    assert last.kind == "views"
    assert last.kind in CAMERA_FAULTS
    assert "view 'right': a picture must be within 0.03 s of view 'front's" in last.reason.replace(
        "''", "'"
    )
    assert "-0.250 s away" in last.reason


def test_each_camera_is_checked_by_itself() -> None:
    """The right one freezes, is black, has an unknown encoding, or another size."""
    camera_set = cameras()
    assert take(camera_set, "right", 0).reason.startswith("view 'right': a picture must be stamped")
    pixels = np.zeros(2, np.uint8)
    camera_set.see("right", pixels, MS, np.zeros(7), 0.0, "")
    refusal = camera_set.see("right", pixels, 2 * MS, np.full(7, 0.5), 0.0, "")
    assert refusal.kind == "frozen"
    assert refusal.reason.startswith("view 'right'")
    assert camera_set.see("front", np.ones(2, np.uint8), MS, np.zeros(7), 0.0, "") is None
    for number, kind in ((0, "black"), (-1, "encoding")):
        refused = camera_set.image((100, number), 0.0)
        assert refused.kind == kind
        assert refused.reason.startswith("view 'right'")
    image = camera_set.image((100, 50), 0.0)
    assert image.shape == (8, 4, 3)
    assert (image[:4] == 100).all()
    assert (image[4:] == 50).all()


def test_nothing_from_before_a_reset_is_answered() -> None:
    camera_set = cameras()
    take(camera_set, "right", 40)
    camera_set.reset(0.05)
    assert take(camera_set, "front", 50) is None


def test_in_lockstep_a_view_is_waited_for_without_a_limit() -> None:
    settings = CameraCheckSettings(max_silence_s=None, max_stall_s=None)
    camera_set = cameras(settings=settings, max_skew_s=0.0)
    assert take(camera_set, "front", 100, now_s=0.0) is None
    assert take(camera_set, "front", 100, now_s=100.0) is None
    assert take(camera_set, "right", 101, now_s=100.0) is None
    assert isinstance(take(camera_set, "right", 100, now_s=101.0), MatchedPictures)
