# SPDX-License-Identifier: Apache-2.0
"""A LeRobot data set of someone else: other names, 30 Hz, degrees, a gripper of 0 to 100.

Two arm joints and a gripper; 25 episodes of 45 steps (1.5 s), so 30 of ours; one is held out. Their
joint `pan` at step i is i degrees, `lift` -2 i degrees, the gripper i percent; targets are one
degree (percent) ahead. Pictures are 48 x 64 pixels, their red channel is 5 i.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from par_model.checkpoint import load_checkpoint
from par_model.collect import main as collect_main
from par_model.train import main as train_main
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.foreign_dataset import ForeignDataset, read_mapping
from par_model.video_file import LOSSLESS, concatenate_videos, write_video

NUM_EPISODES, LENGTH, FPS = 25, 45, 30
NAMES = ["pan.pos", "lift.pos", "gripper.pos"]
CAMERA = "observation.images.laptop"
SENTENCE = "put it down"


def numbers(ahead):
    index = np.arange(LENGTH)
    values = np.stack((index + ahead, -2 * index + ahead, index + ahead), axis=1)
    return values.astype(np.float32)


def pictures():
    frames = np.zeros((LENGTH, 48, 64, 3), np.uint8)
    frames[..., 0] = (5 * np.arange(LENGTH))[:, None, None]
    return frames


def step_table(episode, delta=False):
    state, action = numbers(0), numbers(1)
    action = action - state if delta else action
    return pa.table(
        {
            "observation.state": state.tolist(),
            "action": action.tolist(),
            "timestamp": (np.arange(LENGTH) / FPS).astype(np.float32),
            "episode_index": np.full(LENGTH, episode),
            "task_index": np.zeros(LENGTH, np.int64),
        }
    )


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content) + "\n")


def info(version):
    v3 = version == "v3.0"
    data = "file-{file_index:03d}" if v3 else "episode_{episode_index:06d}"
    chunk = "chunk-{chunk_index:03d}" if v3 else "chunk-{episode_chunk:03d}"
    video = f"{{video_key}}/{chunk}" if v3 else f"{chunk}/{{video_key}}"
    return {
        "codebase_version": version,
        "robot_type": "someones_arm",
        "fps": FPS,
        "chunks_size": 1000,
        "data_path": f"data/{chunk}/{data}.parquet",
        "video_path": f"videos/{video}/{data}.mp4",
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3], "names": NAMES},
            "action": {"dtype": "float32", "shape": [3], "names": {"motors": NAMES}},
            CAMERA: {"dtype": "video", "shape": [48, 64, 3], "names": None},
            "observation.images.depth": {"dtype": "image", "shape": [48, 64, 3], "names": None},
        },
    }


def write_v3(folder, delta=False):
    write_json(folder / "meta/info.json", info("v3.0"))
    for name in ("data/chunk-000", "meta/episodes/chunk-000", f"videos/{CAMERA}/chunk-000"):
        (folder / name).mkdir(parents=True)
    pq.write_table(pa.table({"task_index": [0], "task": [SENTENCE]}), folder / "meta/tasks.parquet")
    tables = [step_table(episode, delta) for episode in range(NUM_EPISODES)]
    pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    parts = [folder / f"part{episode}.mp4" for episode in range(NUM_EPISODES)]
    for part in parts:
        write_video(part, pictures(), FPS, LOSSLESS)
    concatenate_videos(folder / f"videos/{CAMERA}/chunk-000/file-000.mp4", parts, FPS)
    rows = [
        {
            "episode_index": episode,
            "tasks": [SENTENCE],
            "length": LENGTH,
            "data/chunk_index": 0,
            "data/file_index": 0,
            f"videos/{CAMERA}/chunk_index": 0,
            f"videos/{CAMERA}/file_index": 0,
            f"videos/{CAMERA}/from_timestamp": episode * LENGTH / FPS,
        }
        for episode in range(NUM_EPISODES)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")


def write_v21(folder):
    write_json(folder / "meta/info.json", info("v2.1"))
    write_json(folder / "meta/tasks.jsonl", {"task_index": 0, "task": SENTENCE})
    rows = [
        {"episode_index": episode, "tasks": [SENTENCE], "length": LENGTH}
        for episode in range(NUM_EPISODES)
    ]
    (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for name in ("data/chunk-000", f"videos/chunk-000/{CAMERA}"):
        (folder / name).mkdir(parents=True)
    for episode in range(NUM_EPISODES):
        name = f"episode_{episode:06d}"
        pq.write_table(step_table(episode), folder / f"data/chunk-000/{name}.parquet")
        write_video(folder / f"videos/chunk-000/{CAMERA}/{name}.mp4", pictures(), FPS, LOSSLESS)


def mapping(**changes):
    content = {
        "dataset": "theirs",
        "arm": "someones_arm",
        "camera": CAMERA,
        "image_size": 32,
        "action": "absolute",
        "joints": [
            {"name": "joint_pan", "state": "pan.pos", "unit": "deg"},
            {"name": "joint_lift", "state": "lift.pos", "unit": "deg", "sign": -1, "offset": 0.5},
            {
                "name": "finger",
                "state": "gripper.pos",
                "range": [0, 100],
                "becomes": [-0.01, 0.04],
            },
        ],
    } | changes
    return {key: value for key, value in content.items() if value is not None}


def write_mapping(folder, **changes):
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump(mapping(**changes)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("foreign")
    write_v3(made / "theirs")
    return made


@pytest.mark.parametrize("layout", ["v3.0", "v2.1"])
def test_numbers_and_pictures_are_ours(layout, folder, tmp_path):
    """Ours k is theirs 1.5 k; a target is due one step after it was sent: 1.5 (k + 1) - 1."""
    if layout == "v2.1":
        write_v21(tmp_path / "theirs")
    path = write_mapping(folder if layout == "v3.0" else tmp_path)
    source = ForeignDataset(path)
    assert (len(source), source.fps, source.arm) == (25, 20, "someones_arm")
    assert source.joint_names == ("joint_pan", "joint_lift", "finger")
    assert source.instructions == (SENTENCE,)
    episode = source.read(1)
    k = np.arange(30)
    expected = np.stack(
        (np.deg2rad(1.5 * k), 0.5 + np.deg2rad(3.0 * k), -0.01 + 0.0005 * 1.5 * k), axis=1
    )
    np.testing.assert_allclose(episode.measured_joint_positions, expected, atol=1e-6)
    due = 1.5 * (k + 1) - 1
    np.testing.assert_allclose(episode.actions[:, 0], np.deg2rad(due + 1), atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, 1], 0.5 - np.deg2rad(-2 * due + 1), atol=1e-6)
    assert episode.frames.shape == (30, 32, 32, 3)
    reds = episode.frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(reds, 5 * np.floor(1.5 * k), atol=3)


def test_actions_may_be_differences_to_the_measured_joints(folder, tmp_path):
    """The same numbers, stored as differences; an offset of a joint is not added twice."""
    write_v3(tmp_path / "theirs", delta=True)
    absolute = ForeignDataset(write_mapping(folder)).read(0, with_frames=False)
    delta = ForeignDataset(write_mapping(tmp_path, action="delta")).read(0, with_frames=False)
    np.testing.assert_allclose(delta.actions, absolute.actions, atol=1e-6)


def test_sentences_are_mapped(folder):
    path = write_mapping(folder, instructions={SENTENCE: "Put the cube down."})
    assert ForeignDataset(path).instructions == ("Put the cube down.",)
    path = write_mapping(folder, instruction="Move.")
    assert ForeignDataset(path).read(0, with_frames=False).instruction == "Move."


def write_stamped(folder, stamps_s, fps):
    """The v3.0 set at another rate, whose joint `pan` is a degree a hundredth of a second."""
    write_v3(folder / "theirs")
    file = folder / "theirs/data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pan = 100 * np.asarray(stamps_s)
    for name, ahead in (("observation.state", 0.0), ("action", 100 / fps)):
        column = np.tile(np.stack((pan + ahead, pan, pan), axis=1), (NUM_EPISODES, 1))
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(column.astype(np.float32).tolist()))
    place = table.column_names.index("timestamp")
    stamps = np.tile(np.asarray(stamps_s, np.float32), NUM_EPISODES)
    pq.write_table(table.set_column(place, "timestamp", pa.array(stamps)), file)
    write_json(folder / "theirs/meta/info.json", info("v3.0") | {"fps": fps})
    rows = folder / "theirs/meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(rows)
    name = f"videos/{CAMERA}/from_timestamp"
    starts = pa.array([episode * LENGTH / fps for episode in range(NUM_EPISODES)])
    pq.write_table(table.set_column(table.column_names.index(name), name, starts), rows)
    parts = [folder / f"theirs/part{episode}.mp4" for episode in range(NUM_EPISODES)]
    for part in parts:
        write_video(part, pictures(), fps, LOSSLESS)
    video = folder / f"theirs/videos/{CAMERA}/chunk-000/file-000.mp4"
    concatenate_videos(video, parts, fps)
    return write_mapping(folder)


@pytest.mark.parametrize("fps", [50, 60])
def test_jittered_stamps_are_resampled_by_what_they_say(fps, tmp_path):
    """7 ms of jitter: numbers and pictures are those of the stamps, not of the even rate."""
    jitter_s = np.random.default_rng(fps).uniform(-0.007, 0.007, LENGTH)
    stamps_s = np.sort(np.arange(LENGTH) / fps + jitter_s)
    episode = ForeignDataset(write_stamped(tmp_path, stamps_s, fps)).read(3)
    since_s = stamps_s - stamps_s[0]
    times_s = np.arange(episode.num_steps) / 20
    assert episode.num_steps == int((since_s[-1] + 1 / fps) * 20)
    pan = np.deg2rad(100 * (stamps_s[0] + times_s))
    np.testing.assert_allclose(episode.measured_joint_positions[:, 0], pan, atol=1e-5)
    due = np.minimum(times_s + 0.05 - 1 / fps, since_s[-1]) + stamps_s[0] + 1 / fps
    np.testing.assert_allclose(episode.actions[:, 0], np.deg2rad(100 * due), atol=1e-5)
    shown = np.searchsorted(since_s, times_s, side="right") - 1
    reds = episode.frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(reds, 5 * shown, atol=3)


EVEN_S = np.arange(LENGTH) / 50


@pytest.mark.parametrize(
    ("stamps_s", "sentence"),
    [
        (EVEN_S[::-1], "episode 2 do not increase; leave the episode out .--leave-out 2."),
        (EVEN_S + 0.2 * (EVEN_S > 0.5), "leave a gap of 0.220 s after step 25, at most 0.100 s"),
        (EVEN_S * 1.3, "have a mean rate of 38.5 Hz and meta/info.json says 50 Hz"),
    ],
)
def test_stamps_that_cannot_be_resampled_are_refused(stamps_s, sentence, tmp_path):
    source = ForeignDataset(write_stamped(tmp_path, stamps_s, 50))
    with pytest.raises(ValueError, match=sentence):
        source.read(2, with_frames=False)


def test_an_episode_is_left_out(folder, tmp_path, capsys):
    """Episode 3 has no video of its own any more, and is not asked for."""
    assert 3 not in DemonstrationSet(write_mapping(folder), leave_out={3}).keys
    with pytest.raises(ValueError, match="no episode 25 to leave out; its 25 episodes are 0 to 24"):
        DemonstrationSet(write_mapping(folder), leave_out={25})
    shutil.copytree(folder / "theirs", tmp_path / "theirs")
    file = tmp_path / "theirs/data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    stamps = table.column("timestamp").to_numpy().copy()
    stamps[3 * LENGTH + 20 : 4 * LENGTH] += 1.0
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", pa.array(stamps)), file)
    data = write_mapping(tmp_path)
    arguments = [
        *["latents", "--data", str(data), "--preset", "par_tiny", "--variants", "1"],
        *["--codec", str(tmp_path / "codec"), "--latents", str(tmp_path / "latents")],
    ]
    codec = ["codec", "--data", str(write_mapping(folder)), "--out", str(tmp_path / "codec")]
    codec += ["--preset", "par_tiny", "--codec-steps", "1", "--probe-tasks"]
    assert train_main(codec) == 0
    capsys.readouterr()
    assert train_main(arguments) == 1
    assert "leave the episode out (--leave-out 3)" in capsys.readouterr().err
    assert train_main([*arguments, "--leave-out", f"{data}:3"]) == 0
    assert train_main([*arguments, "--leave-out", "3"]) == 0
    assert train_main([*arguments, "--leave-out", "other:3"]) == 1
    assert "'other' is not in --data" in capsys.readouterr().err
    assert train_main([*arguments, "--leave-out", "third"]) == 1
    assert "'third' must be an episode's number" in capsys.readouterr().err


def joint(**changes):
    entry = {"name": "a", "state": "pan.pos", "unit": "deg"} | changes
    return [{key: value for key, value in entry.items() if value is not None}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"camera": None}, r"missing keys \['camera'\]"),
        ({"fps": 30}, r"unknown keys \['fps'\]"),
        ({"action": "end_effector"}, "action must be one of absolute, delta"),
        ({"camera": "observation.images.top"}, "its videos are .'observation.images.laptop'"),
        ({"camera": "observation.images.depth"}, "it is stored as 'image'"),
        ({"state_key": "observation.joints"}, "no feature 'observation.joints'"),
        ({"joints": joint(state="elbow.pos")}, r"has no \['elbow.pos'\]; its names are"),
        ({"joints": joint(unit="percent")}, "unit must be one of rad, deg, m, mm"),
        ({"joints": joint(range=[0, 1])}, "give either unit"),
        ({"joints": joint(unit=None, range=[0, 100])}, "becomes must each hold two numbers"),
        ({"joints": joint(sign=2)}, "sign must be 1 or -1"),
        ({"joints": joint() + joint()}, "each joint may appear once"),
        ({"dataset": "nowhere"}, "meta/info.json is missing; check `dataset`"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(changes, sentence, folder):
    with pytest.raises(ValueError, match=sentence) as refusal:
        ForeignDataset(write_mapping(folder, **changes))
    assert "\n" not in str(refusal.value)


def test_information_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "theirs/meta").mkdir(parents=True)
    (tmp_path / "theirs/meta/info.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        ForeignDataset(write_mapping(tmp_path))


@pytest.mark.parametrize(
    ("layout", "changes", "sentence"),
    [
        ("v3.0", {"fps": None}, "theirs: meta/info.json has no 'fps'"),
        ("v2.1", {"chunks_size": None}, "theirs: meta/info.json has no 'chunks_size'"),
        ("v1.6", {}, "has LeRobot layout v1.6, v3.0, v2.1 and v2.0 are read; convert it"),
    ],
)
def test_information_that_cannot_be_used_is_refused(layout, changes, sentence, tmp_path):
    write_json(tmp_path / "theirs/meta/info.json", info(layout) | changes)
    with pytest.raises(ValueError, match=sentence):
        ForeignDataset(write_mapping(tmp_path))


def test_episodes_without_a_place_are_refused(tmp_path):
    write_v3(tmp_path / "theirs")
    file = tmp_path / "theirs/meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["data/file_index"]), file)
    with pytest.raises(ValueError, match="episodes in meta/ have no 'data/file_index'"):
        ForeignDataset(write_mapping(tmp_path))


def test_a_picture_that_is_too_small_is_refused(folder):
    with pytest.raises(ValueError, match="at least 128 x 128 is needed"):
        ForeignDataset(write_mapping(folder, image_size=128)).read(0)


def test_a_file_that_is_not_yaml_is_one_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"broken.yaml cannot be read \(while parsing") as error:
        read_mapping(path)
    assert "\n" not in str(error.value)


def test_the_example_is_a_valid_mapping():
    example = Path(__file__).resolve().parents[2] / "config" / "datasets" / "example.yaml"
    assert len(read_mapping(example).joints) == 6


@pytest.mark.long
def test_it_is_shown_and_trained_on(folder, tmp_path, capsys):
    """par_tiny with 3 joints, 2 steps of each stage; the checkpoint knows arm and sentence."""
    data = write_mapping(folder)
    assert collect_main(["--show", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "episodes       25, 0 with noise, success not recorded" in shown
    assert "joint_lift" in shown
    arguments = [
        *["all", "--data", str(data), "--out", str(tmp_path / "run"), "--preset", "par_tiny"],
        *["--codec-steps", "2", "--probe-tasks", "--steps", "2", "--variants", "2"],
    ]
    assert train_main(arguments) == 1
    assert "give --evaluation-episodes 0" in capsys.readouterr().err
    assert train_main([*arguments, "--evaluation-episodes", "0"]) == 0
    assert "warning" not in capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "run" / "policy" / "checkpoint")
    assert checkpoint.statistics.arm == "someones_arm"
    assert checkpoint.statistics.joint_names == DemonstrationSet(data).joint_names
    assert checkpoint.config.action_width == checkpoint.config.proprio_width == 3
    assert SENTENCE in checkpoint.instructions.texts


def test_actions_that_equal_the_state_are_warned_of(tmp_path, capsys):
    """At 30 Hz: resampled, the two are not equal any more."""
    data = write_stamped(tmp_path, np.arange(LENGTH) / FPS, FPS)
    file = tmp_path / "theirs/data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", table.column("observation.state")), file)
    arguments = [
        *["all", "--data", str(data), "--out", str(tmp_path / "run"), "--preset", "par_tiny"],
        *["--codec-steps", "1", "--probe-tasks", "--steps", "1", "--variants", "1"],
        *["--evaluation-episodes", "0"],
    ]
    assert train_main(arguments) == 0
    assert f"warning: every action of {data} equals the measured joints" in capsys.readouterr().err
