# SPDX-License-Identifier: Apache-2.0
"""Recordings of ours with several views become a data set that training takes.

The panda of test_own_recordings.py, with a colour camera and a depth camera of one stamp, 0.7 m.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from par_model.depth_view import DepthView
from par_model.interface import split_views
from par_model.presets import PRESETS
from par_model.train import main as train
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_ros.__main__ import main
from par_ros.recorded_views import RecordedViews
from par_ros.topics import EPISODE_MARKS, IMAGE, Topic, camera_topics
from tests.ros.recorded import depth_picture, mark
from tests.ros.test_own_recordings import converted, ns, policy_chunks, sensors, write

DEPTH = DepthView("front_depth", 0.3, 1.8)
VIEWS = RecordedViews(("front", "front_depth"), (DEPTH,))
(_, DEPTH_TOPIC) = (pair[0] for pair in camera_topics(VIEWS.names).values())


def depths() -> list[tuple[Topic, Any]]:
    metres = np.full((64, 64), 0.7, np.float32)
    return [
        (DEPTH_TOPIC, depth_picture(metres, "16UC1", ns(time_s))) for time_s in np.arange(120) / 20
    ]


def in_turn(sent: list[tuple[Topic, Any]]) -> list[tuple[Topic, Any]]:
    """As they came: by their stamps."""
    from par_ros import messages

    return sorted(sent, key=lambda one: messages.stamp_ns(one[1]))


def recording(path: Path, views: RecordedViews | None = VIEWS) -> Path:
    return write(path, in_turn(sensors() + depths() + policy_chunks(1.0, 5.4)), views)


def test_views_and_the_range_of_depth_are_those_of_the_recording(tmp_path: Path) -> None:
    found = DemonstrationSet(converted(recording(tmp_path / "two.mcap")))
    assert found.views == VIEWS.names
    assert found.depth_of(VIEWS.names) == (DEPTH,)
    shown = split_views(found.read_frames(0, VIEWS.names), VIEWS.names)
    assert abs(shown["front"].astype(int) - 100).max() <= 3
    metres = [DEPTH.to_metres(frame) for frame in shown["front_depth"]]
    np.testing.assert_allclose(metres, 0.7, atol=1.6 * DEPTH.level_m)


def test_a_view_that_was_not_recorded_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its camera never ran."""
    path = write(tmp_path / "one.mcap", sensors() + policy_chunks(1.0, 5.4), VIEWS)
    assert main(["to_dataset", str(path), "--out", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().err
    assert "nothing was recorded of view 'front_depth' (topic camera/front_depth/image_raw" in said


def test_recordings_of_other_views_are_not_put_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one.mcap", sensors() + policy_chunks(1.0, 5.4))
    paths = [str(recording(tmp_path / "two.mcap")), str(one)]
    assert main(["to_dataset", *paths, "--out", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().err
    assert "one.mcap has the views front, " in said
    assert "two.mcap has front, front_depth (depth, 0.3 to 1.8 m); write two data sets" in said


def test_a_recording_of_before_names_its_further_views_by_their_topics(tmp_path: Path) -> None:
    """Two colour cameras."""
    from par_ros.dataset.own_streams import OwnStreams
    from par_ros.dataset.recorded_files import OwnRecording
    from par_ros.recorded_graph import RecordedGraph
    from par_ros.recording import read_settings

    path = recording(tmp_path / "two.mcap")
    settings = dict(read_settings(path))
    assert RecordedGraph.from_json(settings).views == VIEWS
    del settings["views"]
    older = OwnRecording(path)
    older.settings = settings
    assert OwnStreams(older).views == RecordedViews(("front", "front_depth"))


@pytest.mark.parametrize("views", [3, [], [{"name": "a"}, {"name": "a"}], [{"depth_range_m": 1}]])
def test_damaged_views_are_one_sentence(views: object) -> None:
    with pytest.raises(ValueError, match=r"the recording's setting views must .*record again"):
        RecordedViews.from_json(views)


def test_a_policy_of_one_view_may_call_it_otherwise(tmp_path: Path) -> None:
    sent = sensors() + policy_chunks(1.0, 5.4)
    out = converted(write(tmp_path / "wrist.mcap", sent, RecordedViews(("wrist",))))
    assert DemonstrationSet(out).views == ("wrist",)
    assert IMAGE in camera_topics(("wrist",))["wrist"]


@pytest.mark.long
def test_training_takes_the_views_and_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages of a tiny policy of both views, on four recordings of seven episodes each (the
    25th is held out); pictures of 32 x 32."""
    from par_model.checkpoint import load_checkpoint

    out = tmp_path / "set"
    # Each start ends the episode before.
    marks = [
        (EPISODE_MARKS, mark(1.2 + 0.55 * number, is_start=number < 7).message)
        for number in range(8)
    ]
    sent = in_turn(sensors() + depths() + policy_chunks(1.0, 5.4)) + marks
    paths = [str(write(tmp_path / f"{number}.mcap", sent, VIEWS)) for number in range(4)]
    assert main(["to_dataset", *paths, "--out", str(out), "--image-size", "32"]) == 0
    two = dataclasses.replace(PRESETS["par_tiny"], views=VIEWS.names)
    monkeypatch.setitem(PRESETS, "par_tiny", two)
    common = ["--data", str(out), "--codec", str(tmp_path / "codec"), "--preset", "par_tiny"]
    common += ["--variants", "1"]
    assert len(DemonstrationSet(out)) == 28
    codec = ["--codec-steps", "1", "--probe-tasks", "--out", str(tmp_path / "codec")]
    policy = ["--steps", "1", "--evaluation-episodes", "0", "--evaluate-every", "0"]
    policy += ["--scene-weight", "0", "--steps-after-success", "all"]
    for stage in (
        ["codec", *codec],
        ["latents"],
        ["policy", *policy, "--out", str(tmp_path / "p")],
    ):
        assert train([stage[0], *common, *stage[1:]]) == 0
    config = load_checkpoint(tmp_path / "p" / "checkpoint").config
    assert config.views == VIEWS.names
    assert config.depth_views == (DEPTH,)
