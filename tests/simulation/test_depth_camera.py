# SPDX-License-Identifier: Apache-2.0
"""A depth view of the simulator: distances along the optical axis in mm, aligned with the colours;
and recorded.

A level is 5.9 mm (0.3 to 1.8 m); the cube's top is 2 cm above its middle, its edge 4 cm.
"""

import json

import numpy as np
import pytest

from par_model.collect import main as collect
from par_model.depth_view import DepthView
from par_model.interface import split_views
from par_model.simulation.camera_view import FRONT_DEPTH, SHIPPED_VIEW, CameraView, read_view
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.robots import PANDA
from par_model.simulation.scene_cameras import SceneCameras, projected
from par_model.training.lerobot_dataset import DEPTH_RANGE, open_episodes

VIEWS = ("front", "front_depth")
DEPTH = DepthView("front_depth", 0.3, 1.8)


def test_a_depth_camera_is_spelt_and_read_again() -> None:
    assert read_view("front_depth") == FRONT_DEPTH
    assert read_view(str(FRONT_DEPTH)) == FRONT_DEPTH
    assert FRONT_DEPTH.depth_view == DEPTH
    assert SHIPPED_VIEW.depth_view is None
    with pytest.raises(ValueError, match="near_m must be below far_m"):
        CameraView("a", (1, 0, 0), (0, 0, 0), 1.0, depth_range_m=(1.0, 0.5))


def test_a_policy_s_kind_of_view_must_be_the_camera_s() -> None:
    wide = DepthView("front_depth", 0.2, 3.0)
    found = PANDA.named_views(VIEWS, 32, (wide,))
    assert [view.depth_view for view in found] == [None, wide]
    for depth_views, sentence in (
        ((), "view 'front_depth' is depth and the policy's is colour"),
        ((wide, DepthView("front", 0.2, 3.0)), "view 'front' is colour and the policy's is depth"),
    ):
        with pytest.raises(ValueError, match=sentence):
            PANDA.named_views(VIEWS, 32, depth_views)


@pytest.mark.long
@pytest.mark.sim
def test_distances_are_those_of_the_scene() -> None:
    """Of the cube's top and of four points of the table, within a pixel's extent."""
    with (
        ManiSkillArm("PushCube", views=VIEWS) as arm,
        ManiSkillArm("PushCube", views=("front_depth",)) as alone,
    ):
        arm.reset(11)
        arm.start_capture()
        drawn = arm.drawn_pictures()
        millimetres = drawn["front_depth"]
        assert millimetres.dtype == np.uint16
        cube_m = arm.environment_state()["cube"] + np.array([0.0, 0.0, 0.02])
        points = np.array([cube_m, [0.3, 0.0, 0.0], [-0.1, 0.3, 0.0], [0.2, 0.1, 0.0]])
        columns, rows, distances_m = projected(SHIPPED_VIEW, points)
        seen = millimetres[np.floor(rows).astype(int), np.floor(columns).astype(int)]
        np.testing.assert_allclose(seen, 1e3 * distances_m, atol=12)
        arm.start_capture()
        shown = split_views(arm.finish_capture(), VIEWS)
        np.testing.assert_array_equal(shown["front_depth"], DEPTH.to_grey(millimetres * 1e-3))
        np.testing.assert_array_equal(shown["front"], drawn["front"])
        alone.reset(11)
        np.testing.assert_array_equal(alone.capture(), shown["front_depth"])
        (look,) = SceneCameras(arm, (FRONT_DEPTH,)).capture()
        np.testing.assert_array_equal(look.image, shown["front_depth"])
        assert look.blobs["cube"].num_pixels > 0


@pytest.mark.long
@pytest.mark.sim
def test_depth_is_recorded(tmp_path) -> None:
    """One demonstration, pictures of 32; the data set says the range."""
    out = tmp_path / "Push"
    words = ["--task", "PushCube", "--num-demos", "1", "--out", str(out), "--image-size", "32"]
    assert collect([*words, "--views", *VIEWS, "--num-workers", "1"]) == 0
    info = json.loads((out / "meta/info.json").read_text())["features"]
    assert info["observation.images.front_depth"]["info"][DEPTH_RANGE] == [0.3, 1.8]
    assert DEPTH_RANGE not in info["observation.images.front"]["info"]
    card = (out / "README.md").read_text()
    assert "depth: grey 255 is 0.3 m, 1 is 1.8 m, 0 no measurement" in card
    source = open_episodes(out)
    assert source.depth_views == (DEPTH,)
    frames = split_views(source.read(0).frames, VIEWS)["front_depth"]
    assert (frames == frames[..., :1]).mean() > 0.99
    with ManiSkillArm("PushCube", image_size=32, views=VIEWS) as arm:
        arm.reset(source.seeds[0])
        first = split_views(arm.capture(), VIEWS)["front_depth"]
    assert np.abs(frames[0].astype(int) - first).max() <= 1
