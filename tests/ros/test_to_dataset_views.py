# SPDX-License-Identifier: Apache-2.0
"""Bags of several cameras, and of depth cameras, become a data set with a video for each view.

The arm of recorded.py at 20 Hz; pictures of 48 x 64 at 30 Hz, made 32 x 32. The right camera's
stamps are 8 ms behind the front camera's. Videos change a level by at most 3.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from par_model.depth_view import DepthView
from par_model.interface import split_views
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.lerobot_dataset import open_episodes
from tests.ros.recorded import Sent, depth_pictures, distance_m, pictures, write_bag
from tests.ros.test_to_dataset import converted, drive, mapping, refused, times

TOPICS = {"front": "/camera/image_raw", "right": "/right/image_raw"}
BEHIND_S = 0.008
DEPTH = {"topic": "/depth/image_raw", "depth_range_m": [0.3, 1.8]}


def right(shown_s: np.ndarray) -> list[Sent]:
    return pictures(shown_s + BEHIND_S, TOPICS["right"])


def reds(out: Path, *views: str) -> list[np.ndarray]:
    """Numbers of the pictures that each view shows at the steps."""
    frames = DemonstrationSet(out).read_frames(0, views)
    return [f[..., 0].mean(axis=(1, 2)) for f in split_views(frames, views).values()]


@pytest.mark.parametrize(
    ("max_skew_s", "partner", "said"),
    [
        # Only its own partner is near enough, and the node waits for it.
        (0.01, 0, ""),
        # When a front picture comes, the right one 25 ms ago is near enough: the node does not
        # wait for a nearer one. So the last right picture is in no moment.
        (0.03, -1, "1 of 121 pictures of view 'right' have no partner within 0.03 s"),
    ],
)
def test_pictures_are_matched_as_the_node_matches_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    max_skew_s: float,
    partner: int,
    said: str,
) -> None:
    sent = drive(right=right(times(30)))
    out = converted(tmp_path, sent, image=TOPICS, max_view_skew_s=max_skew_s)
    assert DemonstrationSet(out).views == ("front", "right")
    shown, beside = reds(out, "front", "right")
    expected = np.floor(np.arange(len(shown)) / 20 * 30 + 1e-6)
    np.testing.assert_allclose(shown, expected, atol=3)
    np.testing.assert_allclose((shown - expected).mean(), 0.0, atol=0.4)
    # Pictures are 1 apart: the mean tells a partner from its neighbour.
    np.testing.assert_allclose((beside - shown)[1:].mean(), partner, atol=0.4)
    reported = capsys.readouterr().err
    assert said in reported
    assert ("no partner" in reported) == bool(said)


def test_each_view_is_a_video_of_its_own_as_collect_writes_it(tmp_path: Path) -> None:
    out = converted(tmp_path, drive(right=right(times(30))), image=TOPICS)
    info = json.loads((out / "meta" / "info.json").read_text())
    for view in TOPICS:
        key = f"observation.images.{view}"
        assert info["features"][key]["shape"] == [32, 32, 3]
        assert (out / "videos" / key / "chunk-000" / "file-000.mp4").is_file()
    assert "right, as large" in (out / "README.md").read_text()


def test_a_camera_that_pauses_leaves_a_hole_and_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown_s = times(30)
    sent = drive(right=right(shown_s[(shown_s < 1.0) | (shown_s > 1.5)]))
    bag = write_bag(tmp_path / "bag", sent)
    words = (str(bag), "--mapping", str(mapping(tmp_path, image=TOPICS, max_view_skew_s=0.01)))
    said = refused(tmp_path, capsys, *words)
    assert "no pictures of all views for more than 0.2 s" in said
    assert "16 of 121 pictures of view 'front' have no partner within 0.01 s" in said


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "16UC1; compressedDepth png"])
def test_a_depth_view_holds_levels_of_its_range(tmp_path: Path, encoding: str) -> None:
    """In a bag of two views the second is depth."""
    image = {"front": TOPICS["front"], "front_depth": DEPTH}
    out = converted(tmp_path, drive(depth=depth_pictures(times(30), encoding)), image=image)
    found, depth = DemonstrationSet(out), DepthView("front_depth", 0.3, 1.8)
    assert found.depth_of(("front", "front_depth")) == (depth,)
    frames = split_views(found.read_frames(0, found.views), found.views)["front_depth"]
    assert (frames[:, :10] <= 3).all()
    at_step = np.floor(np.arange(len(frames)) / 20 * 30 + 1e-6).astype(int)
    expected_m = np.array([distance_m(number) for number in at_step])
    measured_m = np.stack([depth.to_metres(frame) for frame in frames])[:, 12:]
    # Millimetres were sent, a level is 5.9 mm, and the video moves a level by at most 1 (views.md).
    assert np.abs(measured_m - expected_m[:, None, None]).max() < 1.6 * depth.level_m
    assert "0.3 m" in (out / "README.md").read_text()
    assert open_episodes(out).read(0, with_frames=False).num_steps == 80


def test_a_first_view_may_be_depth(tmp_path: Path) -> None:
    sent = drive(pictures=depth_pictures(times(30), "16UC1"))
    out = converted(tmp_path, sent, image={"over": DEPTH})
    assert DemonstrationSet(out).depth_of(("over",)) == (DepthView("over", 0.3, 1.8),)


@pytest.mark.parametrize(
    ("image", "more", "sentence"),
    [
        (
            TOPICS | {"wrist": "/wrist"},
            right(times(30)),
            r"has no topic /wrist \(view 'wrist'\); it has",
        ),
        (
            TOPICS,
            pictures(times(30) + 10.0, TOPICS["right"]),
            r"no picture of view 'right' is within 0.03 s of one of view 'front', .*check both",
        ),
        (
            {"front": TOPICS["front"], "front_depth": {**DEPTH, "topic": TOPICS["right"]}},
            right(times(30)),
            "a picture of view 'front_depth' cannot be used: image encoding must be depth",
        ),
        (
            {"front": TOPICS["front"], "front_depth": DEPTH["topic"]},
            depth_pictures(times(30), "16UC1"),
            "a picture of view 'front_depth' cannot be used: image encoding must be a colour",
        ),
        (
            {"front": TOPICS["front"], "front_depth": DEPTH},
            depth_pictures(times(30), "16UC1; compressedDepth rvl"),
            "format '16UC1; compressedDepth rvl' is not read; set the camera driver's "
            "compressedDepth format to png",
        ),
        (
            {"front": TOPICS["front"], "right": TOPICS["front"]},
            [],
            "each view needs a topic of its own",
        ),
        ({"Front camera": "/a"}, [], "a view's name has at most 32 small letters"),
        ({"front": 3}, [], "the topic of view 'front' must be a text, got 3"),
        ([TOPICS["front"]], [], "image must be a topic, or a mapping of the policy's views"),
        ({"front": {"topic": "/a"}}, [], r"missing keys .'depth_range_m'."),
        ({"front": {**DEPTH, "depth_range_m": [1.8, 0.3]}}, [], "the nearer one first"),
        ({"front": {**DEPTH, "depth_range_m": 1.8}}, [], "two distances in metres"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_with_the_view(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    image: Any,
    more: list[Sent],
    sentence: str,
) -> None:
    bag = write_bag(tmp_path / "bag", drive(more=more))
    said = refused(tmp_path, capsys, str(bag), "--mapping", str(mapping(tmp_path, image=image)))
    assert re.search(sentence, said), said


def test_a_wrong_skew_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "bag", drive())
    file = mapping(tmp_path, max_view_skew_s="much")
    said = refused(tmp_path, capsys, str(bag), "--mapping", str(file))
    assert "max_view_skew_s must be a number from 0 to 1 s, got 'much'" in said


def test_the_example_reads_one_view() -> None:
    from par_ros.dataset.bag_mapping import read_bag_mapping

    example = Path(__file__).parents[2] / "config" / "datasets" / "rosbag2.yaml"
    assert read_bag_mapping(example).views.names == ("front",)
