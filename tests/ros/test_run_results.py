# SPDX-License-Identifier: Apache-2.0
"""results.json, report.html and the videos of a made-up run: 3 episodes of 8, 16 and 24 steps, two
successes, the first with predicted pictures."""

import dataclasses
import json
import math
import re
from pathlib import Path

import av
import numpy as np
import pytest

from par_model.evaluation.limit_shares import LimitShares
from par_model.simulation.tasks import task
from par_model.weights_hash import weights_hash
from par_ros.episode_motion import motion_of
from par_ros.episode_story import stories, story
from par_ros.episode_video import CAPTION_PX, PANEL_PX, write_episode_video
from par_ros.report import summary_rows, write_report
from par_ros.run_results import (
    EpisodeResult,
    GuardChange,
    GuardEvent,
    RunResults,
    SurpriseValue,
    percentiles,
)


def made_up_episode(index: int) -> EpisodeResult:
    steps = 8 * (index + 1)
    return EpisodeResult(
        seed=100 + index,
        policy_seed=index,
        success=index < 2,
        steps=steps,
        joint_names=("a", "b"),
        joint_targets=[[0.1 * step, math.pi] for step in range(steps)],
        chunks=index + 1,
        holds=0,
        guard_changes=(GuardChange(3, "a", 1.0, 0.9),) if index == 1 else (),
        guard_reasons=("<b>velocity</b> limit",) if index == 1 else (),
        guard_events=(GuardEvent(0.1, "change", "<b>velocity</b> limit"),) if index == 1 else (),
        chunk_times_s=tuple(0.4 * chunk for chunk in range(index + 1)),
        policy_latency_ms=(500.0,) if index == 0 else (10.0, 20.0),
        camera_to_trajectory_ms=(600.0,) if index == 0 else (12.0, 22.0),
        ledger_ms=((1.0, 2.0, 12.0, 13.0, 20.0, 50.0), (1.0, 2.0, 22.0, 23.0, 30.0, None)),
        missed_chunks=1 if index == 2 else 0,
        seams=(5,) if steps > 5 else (),
        motion=motion_of(np.array([[0.1 * step, math.pi] for step in range(steps)]), 0.05, (5,)),
        limit_shares=(LimitShares(0.5, 0.1), LimitShares(1.5, 0.1))[: index + 1],
        predicted=index == 0,
        step_rate_hz=50.0,
        video=f"episode_{100 + index}.mp4",
        video_times_s=tuple(0.1 * frame for frame in range(4 * (index + 1))),
        surprises=(SurpriseValue(0.4, 0.25, 0.2, 0.3),) if index == 1 else (),
    )


@pytest.fixture
def results() -> RunResults:
    return RunResults(
        task="PushCube",
        instruction="Push it.",
        mode="lockstep",
        checkpoint="/somewhere",
        command="python -m par_ros sim task:=PushCube",
        started="2026-01-01T00:00:00+00:00",
        episodes_asked=3,
        step_s=0.05,
        gripper_unit="rad",
        episodes=tuple(made_up_episode(index) for index in range(3)),
    )


def test_percentiles_of_nothing_are_none() -> None:
    nothing = {"count": 0, "p50": None, "p99": None, "p99.9": None, "worst": None}
    assert percentiles([]) == nothing
    assert percentiles([1.0, 2.0, 3.0])["p50"] == 2.0


def test_json_keeps_every_target_exactly(results: RunResults, tmp_path: Path) -> None:
    results.write(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["num_successes"] == 2
    assert content["interval"]["low"] == pytest.approx(0.2077, abs=1e-4)
    assert content["num_episodes"] == content["episodes_asked"] == 3
    assert content["episodes"][2]["joint_targets"] == results.episodes[2].joint_targets
    assert content["episodes"][1]["guard_changes"] == [
        {"step": 3, "joint": "a", "asked": 1.0, "sent": 0.9}
    ]
    assert content["versions"]["python"]
    assert content["hardware"]["cores"] >= 1
    assert not list(tmp_path.glob("*.part"))


def test_results_say_which_weights_the_run_began_with(results: RunResults, tmp_path: Path) -> None:
    """Also when the folder gets other weights before the run is over; none has no hash."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    manifest = checkpoint / "manifest.json"
    manifest.write_text(json.dumps({"sha256": {"weights-1.safetensors": "aa"}}))
    facts = vars(results) | {"weights_sha256": None}
    assert results.weights_sha256 is None
    began = RunResults(**(facts | {"checkpoint": str(checkpoint), "episodes": ()}))
    expected = weights_hash(checkpoint)
    manifest.write_text(json.dumps({"sha256": {"weights-1.safetensors": "bb"}}))
    assert weights_hash(checkpoint) != expected
    ended = RunResults(**(vars(began) | {"episodes": results.episodes}))
    ended.write(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["weights_sha256"] == expected


def test_the_ledger_and_the_smoothness_of_a_run(results: RunResults, tmp_path: Path) -> None:
    """Two timed episodes of two chunks, of which one each had no effect; 2 rad/s all the way."""
    results.write(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["ledger_ms"]["taken"]["count"], content["ledger_ms"]["taken"]["p50"]) == (4, 25)
    assert content["ledger_ms"]["effect"]["count"] == 2
    assert content["missed_chunks"] == 1
    assert content["episodes"][1]["ledger_ms"][1][-1] is None
    smoothness = content["smoothness"]
    assert smoothness["num_seams"] == 3
    assert smoothness["seams"]["speed_lost"]["median"] == pytest.approx(0.0, abs=1e-9)
    assert smoothness["seams"]["jump_rad"]["p95"] == pytest.approx(0.0, abs=1e-9)
    rows = dict(summary_rows(results))
    assert rows["picture to trajectory taken"].startswith("p50 25.0 ms")
    assert rows["chunks without the guard's report"] == "1"
    # 1, 2 and 2 chunks, of which two are beyond.
    assert smoothness["limits"]["beyond"] == pytest.approx(0.4)
    assert content["episodes"][0]["limit_shares"] == [{"acceleration": 0.5, "jerk": 0.1}]
    told = rows["chunks beyond the arm's limits, before the guard"]
    assert told == "40.0% of 5 (acceleration 40.0%, jerk 0.0%)"
    assert rows["3 seams, median (p95)"].startswith("speed lost 0%")


def test_latency_leaves_out_episodes_with_predictions(results: RunResults) -> None:
    assert max(results.policy_latency_ms()) == 20.0
    assert max(results.camera_to_trajectory_ms()) == 22.0
    only_predicted = RunResults(**(vars(results) | {"episodes": results.episodes[:1]}))
    assert only_predicted.policy_latency_ms() == [500.0]


def test_summary_says_what_the_episodes_say(results: RunResults) -> None:
    rows = dict(summary_rows(results))
    assert rows["episodes"] == "3 of 3"
    assert rows["success"].startswith("2 of 3 (95 % interval 21% to 94%)")
    assert rows["episode length"] == "mean 16.0 control steps (8 to 24)"
    assert rows["policy latency"].startswith("p50 15.0 ms, p99 20.0 ms")
    assert rows["latencies of"].startswith("2 of 3 episodes")
    assert (rows["chunks"], rows["holds"], rows["numbers changed by the guard"]) == ("6", "0", "1")


def test_page_opens_offline(results: RunResults, tmp_path: Path) -> None:
    page = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|video|iframe)[^>]+(src|href)=.?https?:", page)
    for episode in results.episodes:
        assert f'src="{episode.video}"' in page
    assert "2 of 3 (95 % interval 21% to 94%)" in page
    assert "&lt;b&gt;velocity&lt;/b&gt; limit" in page
    assert "par_ros sim task:=PushCube" in page


def test_the_story_of_an_episode(results: RunResults) -> None:
    """16 steps of 0.05 s at 2 rad/s, a seam at step 5, two chunks, one change by the guard."""
    told = story(results.episodes[1], results.step_s, "m")
    assert (told["title"], told["duration_s"]) == ("seed 101: success after 16 steps", 0.8)
    series = {one["name"]: one for row in told["rows"] for one in row["series"]}
    speed = series["joint speed"]
    assert (speed["x"][0], speed["x"][-1], len(speed["x"])) == (0.1, 0.8, 15)
    assert speed["y"] == pytest.approx([2.0] * 15)
    assert (series["seam"]["x"], series["seam"]["y"]) == ([0.25], pytest.approx([2.0]))
    assert series["gripper target"]["y"] == pytest.approx([math.pi] * 16, abs=1e-4)
    assert (series["chunk"]["x"], series["chunk"]["y"]) == ([0.0, 0.4], [10.0, 20.0])
    assert (series["change"]["x"], series["hold"]["x"]) == ([0.1], [])
    assert series["changed target"]["x"] == [0.15]
    assert series["changed target"]["text"] == ["a: 1.0000 asked, 0.9000 sent"]


def test_the_targets_lie_at_their_time_beside_film_chunks_and_guard(results: RunResults) -> None:
    """The same in real time, where the arm stands for 0.45 s before steps are counted."""
    rows = story(dataclasses.replace(results.episodes[1], idle_s=0.45), 0.05, "m")
    assert rows["duration_s"] == 1.25
    series = {one["name"]: one["x"] for row in rows["rows"] for one in row["series"]}
    assert (series["joint speed"][0], series["joint speed"][-1]) == (0.55, 1.25)
    assert (series["gripper target"][0], series["gripper target"][-1]) == (0.5, 1.25)
    assert (series["seam"], series["changed target"]) == ([0.7], [0.6])
    assert (series["chunk"], series["change"]) == ([0.0, 0.4], [0.1])


def test_the_gripper_s_row_has_the_robot_s_unit(results: RunResults, tmp_path: Path) -> None:
    (told, *_) = stories(results)
    assert [row["unit"] for row in told["rows"] if row["title"] == "gripper target"] == ["rad"]
    results.write(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["gripper_unit"] == "rad"
    assert (task("PushCube").robot.gripper_unit, task("PushCubeSO100").robot.gripper_unit) == (
        "m", "rad"
    )  # fmt: skip


def test_surprise_is_a_row_with_its_thresholds_where_it_was_judged(results: RunResults) -> None:
    titles = [[row["title"] for row in story(one, 0.05, "m")["rows"]] for one in results.episodes]
    assert [("surprise" in found) for found in titles] == [False, True, False]
    row = story(results.episodes[1], 0.05, "m")["rows"][-1]
    assert [(one["name"], one["x"], one["y"]) for one in row["series"]] == [
        ("surprise", [0.4], [0.25]), ("stop", [0.4], [0.3]), ("warning", [0.4], [0.2])
    ]  # fmt: skip
    not_a_number = SurpriseValue(0.4, math.nan, 0.2, 0.3)
    broken = dataclasses.replace(results.episodes[1], surprises=(not_a_number,))
    assert story(broken, 0.05, "m")["rows"][-1]["title"] == "guard"


def test_an_episode_that_never_moved_has_a_story(results: RunResults) -> None:
    still = dataclasses.replace(
        results.episodes[0], steps=0, joint_targets=[], seams=(), video=None, video_times_s=()
    )
    assert story(still, 0.05, "m")["duration_s"] == 0.0


def test_page_of_a_run_without_episodes(results: RunResults, tmp_path: Path) -> None:
    empty = RunResults(**(vars(results) | {"episodes": ()}))
    assert "0 of 0" in write_report(empty, tmp_path).read_text(encoding="utf-8")


def read_frames(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate)


def test_video_shows_the_camera_beside_the_prediction_for_that_time(tmp_path: Path) -> None:
    """Grey camera; predictions for 0.4 s (red) and 0.8 s (blue); 20 pictures a second."""
    step_ns = 50_000_000
    grey = np.full((128, 128, 3), 100, np.uint8)
    red, blue = np.zeros((2, 128, 128, 3), np.uint8)
    red[:, :, 0] = 200
    blue[:, :, 2] = 200
    pictures = {1_000_000_000 + step * step_ns: grey for step in range(17)}
    predictions = {1_400_000_000: red, 1_800_000_000: blue}
    write_episode_video(tmp_path / "x.mp4", {"front": pictures}, predictions, {}, "seed 1")
    frames, rate = read_frames(tmp_path / "x.mp4")
    assert len(frames) == 17
    assert rate == pytest.approx(20.0)
    assert frames[0].shape == (PANEL_PX + CAPTION_PX, 2 * PANEL_PX, 3)
    middle = CAPTION_PX + PANEL_PX // 2
    for step, colour in ((0, (200, 0, 0)), (8, (200, 0, 0)), (9, (0, 0, 200)), (16, (0, 0, 200))):
        np.testing.assert_allclose(frames[step][middle, PANEL_PX // 2], (100,) * 3, atol=12)
        np.testing.assert_allclose(frames[step][middle, PANEL_PX * 3 // 2], colour, atol=30)


def test_video_without_predictions_is_one_panel(tmp_path: Path) -> None:
    pictures = {0: np.zeros((64, 64, 3), np.uint8)}
    write_episode_video(tmp_path / "x.mp4", {"front": pictures}, {}, {}, "seed 1")
    frames, _ = read_frames(tmp_path / "x.mp4")
    assert frames[0].shape == (PANEL_PX + CAPTION_PX, PANEL_PX, 3)


def test_video_of_two_views_shows_both(tmp_path: Path) -> None:
    """The second camera's newest picture stands beside the first one's; a prediction behind it; at
    the end where the newest chunk's actions looked, if there was a chunk yet."""
    grey, green, red = np.zeros((3, 64, 64, 3), np.uint8)
    grey[:], green[:, :, 1], red[:, :, 0] = 100, 200, 200
    pictures = {"front": {100: grey, 200: grey}, "right": {100: green}}
    write_episode_video(tmp_path / "x.mp4", pictures, {300: red}, {200: green}, "seed 1")
    frames, _ = read_frames(tmp_path / "x.mp4")
    assert frames[1].shape == (PANEL_PX + CAPTION_PX, 4 * PANEL_PX, 3)
    middle = CAPTION_PX + PANEL_PX // 2
    for panel, colour in enumerate(((100, 100, 100), (0, 200, 0), (200, 0, 0), (0, 200, 0))):
        seen = frames[1][middle, PANEL_PX // 2 + panel * PANEL_PX]
        np.testing.assert_allclose(seen, colour, atol=30)
    before = frames[0][middle, PANEL_PX // 2 + 3 * PANEL_PX]
    np.testing.assert_allclose(before, (40, 40, 40), atol=12)
