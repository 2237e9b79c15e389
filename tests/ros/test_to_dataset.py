# SPDX-License-Identifier: Apache-2.0
"""Recordings become a LeRobot data set: rosbag2 in both storages, marks, jitter, refusals.

An arm of two joints and a gripper (recorded.py) at 20 Hz: joint states at 100 Hz, pictures at
30 Hz, commands of a leader arm 0.05 rad ahead at 50 Hz.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml

from par_model import release
from par_model.checkpoint import save_checkpoint
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.lerobot_dataset import open_episodes
from par_ros.__main__ import main
from tests.model.fixtures import random_checkpoint_parts
from tests.model.test_release import RECORDING
from tests.ros.recorded import (
    NAMES,
    Sent,
    commands,
    joint_states,
    mark,
    pictures,
    position,
    write_bag,
)

LENGTH_S = 4.0
SENTENCE = "Put the cube down."


def times(rate_hz: float, until_s: float = LENGTH_S, jitter_s: float = 0.0) -> np.ndarray:
    even = np.arange(round(until_s * rate_hz) + 1) / rate_hz
    jitter = np.random.default_rng(1).uniform(-jitter_s, jitter_s, len(even))
    return np.sort(np.abs(even + jitter))


def drive(**changes: list[Sent]) -> list[Sent]:
    """The messages of a drive; changes: topics with other messages."""
    parts = {
        "pictures": pictures(times(30)),
        "joints": joint_states(times(100)),
        "commands": commands(times(50), 0.05),
    } | changes
    return [sent for part in parts.values() for sent in part]


def mapping(folder: Path, **changes: object) -> Path:
    content = {
        "arm": "two_joints",
        "image": "/camera/image_raw",
        "joint_states": "/joint_states",
        "action": "/leader/joint_states",
        "instruction": SENTENCE,
        "image_size": 32,
        "joints": [{"name": f"our_{name}", "state": name, "unit": "rad"} for name in NAMES],
    } | changes
    path = folder / "bags.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def converted(tmp_path: Path, sent: list[Sent], *, sqlite: bool = False, **changes: object) -> Path:
    bag = write_bag(tmp_path / "bag", sent, sqlite=sqlite)
    out = tmp_path / "set"
    words = ["to_dataset", str(bag), "--out", str(out)]
    assert main([*words, "--mapping", str(mapping(tmp_path, **changes))]) == 0
    return out


@pytest.mark.parametrize("sqlite", [False, True], ids=["mcap", "sqlite3"])
def test_a_bag_of_ordinary_topics_becomes_a_data_set(tmp_path: Path, sqlite: bool) -> None:
    """Step k: the newest picture, the joints then, and what was commanded a step later."""
    out = converted(tmp_path, drive(), sqlite=sqlite)
    found = DemonstrationSet(out)
    assert (found.fps, found.arm, found.joint_names) == (
        20, "two_joints", tuple(f"our_{name}" for name in NAMES),
    )  # fmt: skip
    assert found.instructions == (SENTENCE,)
    assert "tags: [LeRobot, two_joints]" in (out / "README.md").read_text()
    episode = open_episodes(out).read(0)
    at_s = np.arange(episode.num_steps) / 20
    assert episode.num_steps == 80
    np.testing.assert_allclose(episode.measured_joint_positions, position(at_s), atol=1e-6)
    # The newest of the leader's states, which come every 20 ms.
    due_s = np.floor((at_s + 0.05) * 50 + 1e-6) / 50
    expected = position(due_s) + np.array([0.05, 0.05, 0.0])
    np.testing.assert_allclose(episode.actions, expected, atol=1e-6)
    np.testing.assert_array_equal(episode.executed_actions, episode.actions)
    assert episode.frames is not None
    reds = episode.frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(reds, np.floor(at_s * 30 + 1e-6), atol=3)
    assert not episode.success.any()
    assert episode.teaches is None
    assert not (out / ".staging").exists()


def test_a_released_checkpoint_names_the_recordings(tmp_path: Path) -> None:
    """Alone, and beside demonstrations: the card's table of data has a row of its own for them."""
    data, checkpoint, out = converted(tmp_path, drive()), tmp_path / "trained", tmp_path / "shipped"
    save_checkpoint(checkpoint, **random_checkpoint_parts("par_tiny"))
    words = ["--checkpoint", str(checkpoint), "--out", str(out), "--data", str(data)]
    row = f"| {SENTENCE} | 1 | recordings | no | `python -m par_ros to_dataset` of bag |"
    assert release.main(words) == 0
    card = (out / "README.md").read_text()
    assert row in card
    assert f"Recorded with par_ros {version('par_ros')}." in card
    assert "A PAR policy trained from scratch on recordings of an arm, Panda arm" in card
    assert "never on a real arm" not in card
    demonstrations = tmp_path / "demonstrations" / "meta"
    demonstrations.mkdir(parents=True)
    (demonstrations / "recording.json").write_text(json.dumps(RECORDING))
    assert release.main([*words, str(demonstrations.parent)]) == 0
    card = (out / "README.md").read_text()
    assert row in card
    assert "| PickCube | 3 | 0 to 3, 1 failed | 35% of the seeds | " in card
    assert f"Recorded with par_ros {version('par_ros')}; mani-skill 3.0.1." in card
    assert "on recordings of an arm and simulated demonstrations: ManiSkill, Panda arm" in card


def test_the_next_joint_state_is_an_action(tmp_path: Path) -> None:
    out = converted(tmp_path, drive(commands=[]), action="next_joint_state")
    episode = open_episodes(out).read(0, with_frames=False)
    due_s = (np.arange(episode.num_steps) + 1) / 20
    np.testing.assert_allclose(episode.actions, position(due_s), atol=1e-6)


def test_a_gripper_s_rare_commands_hold_and_meet_the_arm_s(tmp_path: Path) -> None:
    """The arm's by Float64MultiArray without names, the gripper's once, at the arm's very time."""
    from std_msgs.msg import Float64MultiArray

    arm = [
        Sent("/arm/commands", Float64MultiArray(data=[0.3, -0.3]), time_s) for time_s in times(50)
    ]
    gripper = [
        Sent("/hand/commands", Float64MultiArray(data=[value]), at)
        for value, at in ((0.04, 0.0), (0.01, 2.0))
    ]
    action = [
        {"topic": "/arm/commands", "joints": ["j1", "j2"]},
        {"topic": "/hand/commands", "joints": ["finger"]},
    ]
    out = converted(tmp_path, drive(commands=arm, hand=gripper), action=action)
    actions = open_episodes(out).read(0, with_frames=False).actions
    np.testing.assert_allclose(actions[:, 0], 0.3, atol=1e-6)
    np.testing.assert_allclose(actions[:39, 2], 0.04, atol=1e-6)
    np.testing.assert_allclose(actions[39:, 2], 0.01, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [50, 60])
def test_jittered_stamps_give_what_was_true_at_the_steps(tmp_path: Path, rate_hz: int) -> None:
    """7 ms of jitter on pictures and joint states."""
    shown_s = times(rate_hz, jitter_s=0.007)
    sent = drive(pictures=pictures(shown_s), joints=joint_states(times(rate_hz, jitter_s=0.007)))
    out = converted(tmp_path, sent, action="next_joint_state")
    episode = open_episodes(out).read(0)
    begin_s = shown_s[shown_s >= times(rate_hz, jitter_s=0.007)[0]][0]
    at_s = begin_s + np.arange(episode.num_steps) / 20
    np.testing.assert_allclose(episode.measured_joint_positions, position(at_s), atol=1e-6)
    assert episode.frames is not None
    expected = np.searchsorted(shown_s, at_s + 1e-9, side="right") - 1
    reds = episode.frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(reds, expected % 256, atol=3)


def test_episodes_are_cut_where_they_were_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A success, a failure, and one without an end."""
    marks = [
        mark(0.5, is_start=True), mark(1.5, is_start=False, success=True),
        mark(2.0, is_start=True), mark(3.0, is_start=False),
        mark(3.2, is_start=True),
    ]  # fmt: skip
    out = converted(tmp_path, drive(marks=marks), marks="/episode_marks")
    source = open_episodes(out)
    assert len(source) == 3
    first = source.read(0, with_frames=False)
    assert (first.num_steps, first.success.sum(), first.success[-1]) == (20, 1, True)
    assert first.measured_joint_positions[0, 0] == pytest.approx(0.05, abs=1e-6)
    assert not source.read(1, with_frames=False).success.any()
    assert "has no end mark" in capsys.readouterr().err


def test_a_hole_leaves_out_its_own_episode_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [time_s for time_s in times(30) if not 0.8 < time_s < 1.2]
    marks = [
        mark(0.5, is_start=True), mark(1.5, is_start=False),
        mark(2.0, is_start=True), mark(3.0, is_start=False),
    ]  # fmt: skip
    out = converted(tmp_path, drive(pictures=pictures(shown), marks=marks), marks="/episode_marks")
    assert len(open_episodes(out)) == 1
    reported = capsys.readouterr().err
    assert "0.5 s after its beginning, is left out: no picture for more than 0.2 s" in reported


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    out = tmp_path / "refused"
    assert main(["to_dataset", *words, "--out", str(out)]) == 1
    assert not out.exists()
    reported = capsys.readouterr().err
    assert "Traceback" not in reported
    return reported


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": "/camera/depth"}, "has no topic /camera/depth; it has"),
        ({"action": "/leader"}, "has no topic /leader; it has"),
        ({"image": "/joint_states"}, "no picture|expected is sensor_msgs/msg/Image"),
        ({"joint_states": "/camera/image_raw"}, "expected is sensor_msgs/msg/JointState"),
        ({"joints": [{"name": "a", "state": "elbow", "unit": "rad"}]}, "joint state|elbow"),
        ({"rate_hz": 0.5}, "rate_hz must be a whole number from 1 to 200, got 0.5"),
        ({"image_size": 64}, "a picture cannot be used"),
        ({"action": []}, "action names no topic"),
        ({"speed": 3}, "unknown keys .'speed'."),
        ({"arm": None}, "missing keys .'arm'."),
    ],
)
def test_a_wrong_mapping_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], sentence: str
) -> None:
    import re

    bag = write_bag(tmp_path / "bag", drive())
    said = refused(tmp_path, capsys, str(bag), "--mapping", str(mapping(tmp_path, **changes)))
    assert re.search(sentence, said), said


def test_a_clock_that_went_back_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joints = joint_states(times(100, 2.0)) + [
        Sent(one.topic, one.message, one.written_s + 2.5) for one in joint_states(times(100, 1.0))
    ]
    bag = write_bag(tmp_path / "bag", drive(joints=joints))
    said = refused(tmp_path, capsys, str(bag), "--mapping", str(mapping(tmp_path)))
    assert "stamps of joint states go back by 2.000 s" in said


def test_what_is_no_bag_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a text, a cut bag, and a bag without a mapping file."""
    file = str(mapping(tmp_path))
    assert "does not exist" in refused(tmp_path, capsys, str(tmp_path / "no"), "--mapping", file)
    text = tmp_path / "text.mcap"
    text.write_text("no bag")
    said = refused(tmp_path, capsys, str(text), "--mapping", file)
    assert "cannot be read as a rosbag2" in said
    bag = write_bag(tmp_path / "bag", drive())
    (content,) = bag.glob("*.mcap")
    said = refused(tmp_path, capsys, str(content))
    assert "was not made by record:=true" in said
    assert "--mapping" in said
    content.write_bytes(content.read_bytes()[:50_000])
    said = refused(tmp_path, capsys, str(bag), "--mapping", file)
    assert "cannot be read as a rosbag2" in said


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["to_dataset", "bag", "--out", str(tmp_path)]) == 1
    assert "exists already; nothing is overwritten" in capsys.readouterr().err
