# SPDX-License-Identifier: Apache-2.0
"""Clips of 4 pictures 0.1 s apart, chosen to within 0.05 s."""

import pytest

from par_ros.control.observation_assembler import Refusal
from par_ros.control.recent_pictures import RecentPictures

MS = 1_000_000


def recent(stamps_ms, max_skew_s=0.05):
    pictures = RecentPictures(num_pictures=4, spacing_s=0.1, max_skew_s=max_skew_s, num_kept=60)
    for stamp_ms in stamps_ms:
        pictures.add(stamp_ms * MS, f"at {stamp_ms}")
    return pictures


def stamps_ms(chosen):
    assert not isinstance(chosen, Refusal), chosen
    assert all(picture == f"at {stamp // MS}" for stamp, picture in chosen)
    return [stamp // MS for stamp, _ in chosen]


def test_exact_pictures():
    pictures = recent(range(0, 801, 50), max_skew_s=0.0)
    assert stamps_ms(pictures.choose(800 * MS, 800 * MS)) == [500, 600, 700, 800]


def test_the_nearest_of_a_30_hz_camera():
    pictures = recent([0, 33, 67, 100, 133, 167, 200, 233, 267, 300, 333, 367, 400, 433])
    assert stamps_ms(pictures.choose(400 * MS, 433 * MS)) == [100, 200, 300, 433]


def test_a_gap_is_a_refusal():
    refusal = recent([0, 100, 300, 400]).choose(400 * MS, 400 * MS)
    assert isinstance(refusal, Refusal)
    assert "the nearest is +0.100 s away" in refusal.reason


def test_no_picture_is_used_twice():
    refusal = recent([150, 250, 350, 400], max_skew_s=0.05).choose(400 * MS, 400 * MS)
    assert stamps_ms(refusal) == [150, 250, 350, 400]
    refusal = recent([150, 300, 400], max_skew_s=0.1).choose(400 * MS, 400 * MS)
    assert isinstance(refusal, Refusal)
    assert "there is none" in refusal.reason


@pytest.mark.parametrize("resets", [False, True])
def test_reset_forgets(resets):
    pictures = recent([100, 200, 300, 400])
    if resets:
        pictures.reset()
        pictures.add(400 * MS, "at 400")
    chosen = pictures.choose(400 * MS, 400 * MS)
    assert isinstance(chosen, Refusal) is resets
