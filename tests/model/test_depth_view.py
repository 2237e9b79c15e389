# SPDX-License-Identifier: Apache-2.0
"""Distances as grey levels: 255 is near, 1 far, 0 no measurement; a level is 5.9 mm for 0.3 to
1.8 m, so half of it, 3.0 mm, is the most that a distance within the range is off.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from par_model.camera_fit import CameraFit
from par_model.config import from_values, to_json
from par_model.depth_view import DepthView, fit_grey, require_depth_views
from par_model.presets import preset
from par_model.training.checkpoint_card import cameras
from par_model.video_file import LOSSLESS, read_video, write_video

VIEW = DepthView("front_depth", 0.3, 1.8)
DEPTH = dataclasses.replace(preset("par_tiny"), views=("front", "front_depth"), depth_views=(VIEW,))
# On a loaded machine drawing the examples takes long.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
RANGES = st.tuples(st.floats(0.0, 5.0), st.floats(0.05, 10.0)).map(
    lambda ends: DepthView("any", ends[0], ends[0] + ends[1])
)


@calm
@given(RANGES, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_a_distance_in_the_range_is_off_by_half_a_level_at_most(
    view: DepthView, shares: list[float]
) -> None:
    distances_m = np.array([shares]) * (view.far_m - view.near_m) + view.near_m
    distances_m = np.maximum(distances_m, 1e-9)
    grey = view.to_grey(distances_m)
    assert grey.dtype == np.uint8
    assert grey.shape == (1, len(shares), 3)
    assert (grey == grey[:, :, :1]).all()
    assert grey.min() >= 1
    assert np.abs(view.to_metres(grey) - distances_m).max() <= view.level_m / 2 * 1.001 + 1e-6


@calm
@given(RANGES, st.lists(st.floats(0.001, 100.0), min_size=2, max_size=20))
def test_what_is_nearer_is_never_darker(view: DepthView, distances_m: list[float]) -> None:
    levels = view.to_grey(np.array([sorted(distances_m)]))[0, :, 0].astype(int)
    assert (np.diff(levels) <= 0).all()


@calm
@given(st.lists(st.sampled_from([0.0, -0.5, np.nan, np.inf, -np.inf]), min_size=1, max_size=9))
def test_what_is_no_measurement_is_0_and_nothing_else(distances_m: list[float]) -> None:
    grey = VIEW.to_grey(np.array([distances_m], np.float32))
    assert (grey == 0).all()
    assert np.isnan(VIEW.to_metres(grey)).all()


def test_the_ends_of_the_range_and_what_is_beyond_them() -> None:
    levels = VIEW.to_grey(np.array([[0.01, 0.3, 1.05, 1.8, 9.0]]))[0, :, 0]
    assert levels.tolist() == [255, 255, 128, 1, 1]


def test_millimetres_and_metres_give_the_same_levels() -> None:
    """As the simulator's own loop and a 16UC1 message that is read in float32."""
    millimetres = np.arange(1, 4000, dtype=np.uint16)[None]
    in_float32 = millimetres.astype(np.float32) * np.float32(1e-3)
    np.testing.assert_array_equal(VIEW.to_grey(in_float32), VIEW.to_grey(millimetres * 1e-3))


def test_holes_do_not_darken_the_means_of_a_smaller_picture() -> None:
    """Of 4 x 4 pixels at level 200, three without measurement: 200. With nine: no measurement."""
    picture = np.full((8, 8, 3), 200, np.uint8)
    picture[0, :3] = 0
    picture[4:7, 4:7] = 0
    fitted = fit_grey(CameraFit(), picture, 2, 2)[:, :, 0]
    assert fitted.tolist() == [[200, 200], [200, 0]]
    assert fit_grey(CameraFit(), picture, 8, 8) is picture
    with pytest.raises(ValueError, match="at least 16 x 16 is"):
        fit_grey(CameraFit(), picture, 16, 16)


def test_a_data_set_s_video_changes_no_level_by_more_than_one(tmp_path: Path) -> None:
    """All levels, in a picture that no predictor can guess; 1 level is 5.9 mm."""
    grey = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 1), np.uint8).repeat(3, axis=3)
    write_video(tmp_path / "depth.mp4", grey, 20, LOSSLESS)
    back = read_video(tmp_path / "depth.mp4", 0, 5, 20)
    assert np.abs(back.astype(int) - grey).max() <= 1


def test_a_configuration_keeps_its_depth_views() -> None:
    DEPTH.validate()
    assert from_values(json.loads(to_json(DEPTH))) == DEPTH
    assert json.loads(to_json(DEPTH))["depth_views"] == [
        {"name": "front_depth", "near_m": 0.3, "far_m": 1.8}
    ]
    assert cameras(DEPTH) == (
        "2 cameras (front, front_depth (depth, 0.3 to 1.8 m)) of 32x32 pixels each"
    )


def test_a_configuration_without_depth_is_written_as_before() -> None:
    values = json.loads(to_json(preset("par_small")))
    assert "depth_views" not in values
    assert from_values(values) == preset("par_small")


@pytest.mark.parametrize(
    ("depth_views", "sentence"),
    [
        ((DepthView("wrist", 0.3, 1.8),), r"each must be one of the views \['front', "),
        ((VIEW, VIEW), "once"),
        ((DepthView("front", 1.8, 0.3),), "near_m must be below far_m, got 1.8 and 0.3"),
        ((DepthView("front", -1.0, 0.3),), r"depth_views\[0\].near_m is -1.0; it must be"),
        ((DepthView("front", float("nan"), 0.3),), "near_m is nan; it must be"),
        ("front", "must be a list of 0 to 8"),
    ],
)
def test_depth_views_that_cannot_be_are_refused(depth_views: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(DEPTH, depth_views=depth_views).validate()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entry", [{"name": "front_depth", "near_m": 0.3}, "front_depth", {"nome": 1}]
)
def test_a_damaged_file_is_refused(entry: object) -> None:
    values = json.loads(to_json(DEPTH)) | {"depth_views": [entry]}
    with pytest.raises(ValueError, match=r"config\.depth_views"):
        from_values(values)


def test_other_encodings_are_refused_by_view() -> None:
    with pytest.raises(ValueError, match="view 'front_depth' is colour and the policy takes depth"):
        require_depth_views("the set", (), (VIEW,))
    with pytest.raises(ValueError, match=r"is depth of 0.3 to 1.8 m and the policy takes colour"):
        require_depth_views("the set", (VIEW,), ())
    other = DepthView("front_depth", 0.3, 2.0)
    with pytest.raises(ValueError, match=r"depth of 0.3 to 2 m and the policy takes depth of 0.3"):
        require_depth_views("the set", (other,), (VIEW,))
    require_depth_views("the set", (VIEW,), (VIEW,))
