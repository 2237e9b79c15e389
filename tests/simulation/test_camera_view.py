# SPDX-License-Identifier: Apache-2.0
"""Cameras as a command line spells them."""

import pytest

from par_model.simulation.camera_view import SHIPPED_VIEW, VIEWS, CameraView, read_view


@pytest.mark.parametrize("view", VIEWS.values(), ids=str)
def test_a_view_is_read_back_from_its_own_spelling_and_by_its_name(view):
    assert read_view(str(view)) == view
    assert read_view(view.name) == view


def test_a_spelling_without_a_size_has_128_pixels():
    assert read_view("side=0,-1,0.5:0,0,0.1:0.6") == CameraView(
        "side", (0.0, -1.0, 0.5), (0.0, 0.0, 0.1), 0.6, 128, 128
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fornt", "neither one of front,"),
        ("side=0,-1:0,0,0.1:0.6", "nor spelt NAME=EX,EY,EZ"),
        ("side=0,-1,0.5:0,0,0.1:3.5", "field of view of 0 to 3 rad"),
        ("side=0,0,0.1:0,0,0.1:0.6", "a target away from its eye"),
        ("side=0,-1,0.5:0,0,0.1:0.6:100x128", "multiples of 16 pixels, got 100 x 128"),
    ],
)
def test_what_is_no_camera_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_view(text)


def test_the_focal_length_is_half_the_height_over_the_half_angles_tangent():
    """128 pixels of 0.65 rad: 64 / tan(0.325) = 189.9 pixels."""
    assert SHIPPED_VIEW.focal_px == pytest.approx(189.9, abs=0.1)
