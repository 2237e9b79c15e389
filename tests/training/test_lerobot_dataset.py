# SPDX-License-Identifier: Apache-2.0
"""LeRobot's v3 layout: written from staged episodes, read back exactly, refused when broken.

Pictures: mean absolute error below 0.6 of 255, no value off by more than 3. Numbers: no error.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from par_model.training.dataset_inspector import contact_sheet, describe
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.lerobot_dataset import LeRobotDataset, open_episodes
from par_model.training.lerobot_writer import assemble
from par_model.training.staged_episodes import (
    Episode,
    StagedEpisodes,
    stage_episode,
    stage_failure,
    start_staging,
)
from par_model.video_file import read_video

JOINT_NAMES = tuple(f"joint{i}" for i in range(1, 9))
LENGTHS = {0: 30, 2: 21, 3: 45}
SETTINGS = {
    "task": "PushCube",
    "instruction": "Push the cube.",
    "environment_state_names": ["cube_x", "cube_y", "cube_z"],
    "joint_names": list(JOINT_NAMES),
    "fps": 20,
    "camera": "front",
    "image_size": 64,
    "camera_eye_m": [0.6, 0.7, 0.6],
    "camera_target_m": [0.0, 0.0, 0.12],
    "camera_fov_rad": 0.65,
    "first_seed": 0,
    "num_hold_steps": 16,
    "noise_share": 0.35,
    "noise_sigma_rad": 0.025,
    "noise_probability": 0.5,
    "noise_block_steps": 8,
    "versions": {"numpy": "1.26.4"},
}


def picture_row(num_frames: int, seed: int) -> np.ndarray:
    """A red square that moves over a grainy table: uint8 [T, 64, 64, 3]."""
    rng = np.random.default_rng(seed)
    table = rng.integers(90, 190, (64, 64, 1)) + np.array([30, 0, -40])
    frames = np.repeat(table[None].astype(np.uint8), num_frames, axis=0)
    for index, frame in enumerate(frames):
        frame[20:28, index : index + 8] = (210, 20, 15)
    return frames


def make_episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    length = LENGTHS[seed]
    actions = rng.normal(size=(length, 8)).astype(np.float32)
    noisy = seed == 2
    return Episode(
        instruction="Push the cube.",
        frames=picture_row(length, seed),
        measured_joint_positions=rng.normal(size=(length, 8)).astype(np.float32),
        actions=actions,
        executed_actions=actions + np.float32(0.01) if noisy else actions,
        environment_state=rng.normal(size=(length, 3)).astype(np.float32),
        success=np.arange(length) > length - 5,
        seed=seed,
        noisy=noisy,
    )


def record(path: Path, seeds=LENGTHS) -> Path:
    start_staging(path, SETTINGS)
    for seed in seeds:
        stage_episode(path, make_episode(seed), fps=20)
    stage_failure(path, 1, "the planner found no path")
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "push")


@pytest.fixture(scope="module")
def dataset(recording):
    assemble(recording, list(LENGTHS))
    return recording


@pytest.fixture
def copy(dataset, tmp_path):
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


def assert_same_episode(got: Episode, expected: Episode) -> None:
    for name in (
        "measured_joint_positions",
        "actions",
        "executed_actions",
        "environment_state",
        "success",
    ):
        assert getattr(got, name).dtype == getattr(expected, name).dtype, name
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    assert (got.instruction, got.seed, got.noisy) == (
        expected.instruction,
        expected.seed,
        expected.noisy,
    )
    difference = np.abs(got.frames.astype(int) - expected.frames)
    assert got.frames.shape == expected.frames.shape
    assert difference.mean() < 0.6
    assert difference.max() <= 3


@pytest.mark.parametrize("kind", ["staged", "assembled"])
def test_what_was_recorded_is_read(kind, recording, dataset):
    source = StagedEpisodes(recording) if kind == "staged" else open_episodes(dataset)
    assert isinstance(source, StagedEpisodes if kind == "staged" else LeRobotDataset)
    assert (len(source), source.fps, source.joint_names) == (3, 20, JOINT_NAMES)
    assert source.instructions == ("Push the cube.",)
    for index, seed in enumerate(LENGTHS):
        assert_same_episode(source.read(index), make_episode(seed))
    assert source.read(0, with_frames=False).frames is None


def test_a_recording_can_be_read_before_it_is_a_data_set(tmp_path):
    source = open_episodes(record(tmp_path / "under_way", seeds=[0, 2]))
    assert isinstance(source, StagedEpisodes)
    assert source.seeds == [0, 2]
    assert source.failures() == {1: "the planner found no path"}
    assert_same_episode(source.read(1), make_episode(2))


def test_episodes_start_at_key_frames_of_one_video(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    video = dataset / info["video_path"].format(
        video_key="observation.images.front", chunk_index=0, file_index=0
    )
    rows = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    key = "videos/observation.images.front"

    assert [row["length"] for row in rows] == list(LENGTHS.values())
    assert [row[f"{key}/from_timestamp"] for row in rows] == [0.0, 1.5, 2.55]
    assert rows[-1][f"{key}/to_timestamp"] == pytest.approx(96 / 20)
    assert [row["dataset_from_index"] for row in rows] == [0, 30, 51]
    middle = read_video(video, 51 + 17, 3, 20)
    expected = make_episode(3).frames[17:20]
    assert np.abs(middle.astype(int) - expected).mean() < 0.6


def test_the_tables_are_lerobots(dataset):
    """Columns, types and pandas index as lerobot 0.4 writes and expects them."""
    steps = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    types = {name: str(steps.schema.field(name).type) for name in steps.column_names}
    assert types["action"] == types["observation.state"] == "fixed_size_list<element: float>[8]"
    assert (types["timestamp"], types["index"], types["next.success"]) == ("float", "int64", "bool")
    assert steps.column("index").to_pylist() == list(range(96))
    assert steps.column("frame_index").to_pylist()[28:33] == [28, 29, 0, 1, 2]
    assert steps.column("episode_index").to_pylist()[50:52] == [1, 2]

    tasks = pq.read_table(dataset / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "__index_level_0__": ["Push the cube."]}
    pandas_metadata = json.loads(tasks.schema.metadata[b"pandas"])
    assert pandas_metadata["index_columns"] == ["__index_level_0__"]

    info = json.loads((dataset / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == (
        "v3.0",
        3,
        96,
    )
    assert info["features"]["action"]["names"] == list(JOINT_NAMES)
    assert info["features"]["observation.images.front"]["dtype"] == "video"


def test_statistics(dataset):
    stats = json.loads((dataset / "meta/stats.json").read_text())
    actions = np.concatenate([make_episode(seed).actions for seed in LENGTHS]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), atol=1e-9)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0), atol=1e-9)
    np.testing.assert_allclose(stats["action"]["max"], actions.max(0))
    assert stats["action"]["count"] == [96]
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert 0.3 < stats["observation.images.front"]["mean"][0][0][0] < 0.9


def files_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".staging" not in file.parts
    }


def test_equal_episodes_give_equal_bytes(dataset, tmp_path):
    again = record(tmp_path / "again", seeds=[3, 0, 2])
    assemble(again, list(LENGTHS))
    assert files_of(again) == files_of(dataset)
    assert set(files_of(again)) == {
        "README.md",
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/recording.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.front/chunk-000/file-000.mp4",
    }


def test_an_unfinished_episode_leaves_no_trace(tmp_path):
    path = record(tmp_path / "killed", seeds=[0])
    unfinished = path / ".staging" / "writing_abc"
    unfinished.mkdir()
    (unfinished / "front.mp4").write_bytes(b"half")
    start_staging(path, SETTINGS)
    assert not unfinished.exists()
    assert StagedEpisodes(path).seeds == [0]


def test_other_settings_do_not_continue_a_recording(tmp_path):
    path = record(tmp_path / "data", seeds=[0])
    with pytest.raises(ValueError, match=r"other settings \(num_hold_steps 16; asked for now: 8"):
        start_staging(path, SETTINGS | {"num_hold_steps": 8})


def remove(name):
    return lambda path: (
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
    )


def edit_info(**changes):
    def edit(path):
        file = path / "meta/info.json"
        info = json.loads(file.read_text())
        for key, value in changes.items():
            if value is None:
                del info[key]
            else:
                info[key] = value
        file.write_text(json.dumps(info))

    return edit


def drop_column(name, column):
    def edit(path):
        pq.write_table(pq.read_table(path / name).drop_columns([column]), path / name)

    return edit


def drop_feature(feature):
    def edit(path):
        file = path / "meta/info.json"
        info = json.loads(file.read_text())
        del info["features"][feature]
        file.write_text(json.dumps(info))

    return edit


def truncate(name):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:2000])


STEPS = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove("meta"), "holds no recording|holds no data set"),
        (remove(STEPS), f"{STEPS} is missing"),
        (remove("meta/tasks.parquet"), "meta/tasks.parquet is missing"),
        (remove("meta/episodes"), "meta/episodes holds no parquet"),
        (remove(VIDEO), f"{VIDEO} is missing"),
        (truncate(STEPS), f"{STEPS} cannot be read"),
        (truncate(VIDEO), "cannot be decoded"),
        (edit_info(codebase_version="v2.1"), "layout v2.1, expected v3.0"),
        (edit_info(fps=None), "has no 'fps'"),
        (drop_feature("action"), "no feature 'action'"),
        (drop_feature("observation.images.front"), "expected cameras stored as video.*got none"),
        (drop_column(STEPS, "action"), "no column 'action'"),
        (drop_column(EPISODES, "dataset_from_index"), "no column 'dataset_from_index'"),
    ],
)
def test_a_broken_data_set_is_refused_with_a_sentence(damage, sentence, copy):
    shutil.rmtree(copy / ".staging")
    damage(copy)
    with pytest.raises(ValueError, match=sentence) as refusal:
        open_episodes(copy).read(0)
    assert str(refusal.value).endswith(".")
    assert str(copy) in str(refusal.value)


def test_an_unknown_camera_is_refused(dataset):
    with pytest.raises(ValueError, match=r"no view 'wrist'; its views are 'front'"):
        LeRobotDataset(dataset).read(0, views=("front", "wrist"))


def test_a_data_set_of_others_without_our_columns(copy):
    """Only state, action and video: executed actions are the actions, nothing else is invented."""
    for column in ("executed_action", "observation.environment_state", "next.success"):
        drop_column(STEPS, column)(copy)
    for column in ("seed", "noisy"):
        drop_column(EPISODES, column)(copy)
    episode = open_episodes(copy).read(1)
    np.testing.assert_array_equal(episode.executed_actions, episode.actions)
    assert episode.environment_state.shape == (21, 0)
    assert (episode.seed, episode.noisy) == (None, False)


def test_an_arm_that_is_not_stated_is_unknown(dataset, tmp_path):
    assert open_episodes(dataset).arm == "panda"
    path = shutil.copytree(dataset, tmp_path / "copy")
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"robot_type": None}))
    assert open_episodes(path).arm == "unknown"


def test_the_inspector_counts_and_shows(dataset):
    text = describe(open_episodes(dataset))
    assert "3, 1 with noise, 3 successful at their end" in text
    assert "96 at 20 Hz; 21 to 45 per episode, mean 32.0" in text
    largest_noise = text.splitlines()[-1].split()
    assert largest_noise[0] == "joint8"
    assert float(largest_noise[-1]) == pytest.approx(0.01, abs=1e-4)
    assert contact_sheet(open_episodes(dataset)).shape == (3 * 64, 8 * 64, 3)


def test_the_card_names_what_matters(dataset):
    card = (dataset / "README.md").read_text()
    for text in ("3, each successful", "0 to 3", "64x64", "(33%) are disturbed", "numpy 1.26.4"):
        assert text in card, text


def test_on_policy_episodes_say_where_they_teach(tmp_path):
    """The mark of each chunk's label comes back; demonstrations have none."""
    path = tmp_path / "round"
    settings = {name: value for name, value in SETTINGS.items() if "noise" not in name}
    del settings["num_hold_steps"]
    about = {"policy": "p", "policy_weights_sha256": "0" * 64, "max_steps": 200}
    start_staging(path, settings | about | {"disturbed_starts": 0.0})
    episode = make_episode(0)
    teaches = np.arange(episode.num_steps) % 8 == 0
    stage_episode(path, dataclasses.replace(episode, teaches=teaches), fps=20)
    staged = open_episodes(path).read(0, with_frames=False)
    assemble(path, [0])
    finished = open_episodes(path).read(0, with_frames=False)

    for got in (staged, finished):
        np.testing.assert_array_equal(got.teaches, teaches)
        np.testing.assert_array_equal(got.actions, episode.actions)
    assert "a policy's episodes with an expert's labels" in (path / "README.md").read_text()
    assert DemonstrationSet(path).read_steps(0).teaches is not None


def test_demonstrations_teach_everywhere(dataset):
    assert open_episodes(dataset).read(0, with_frames=False).teaches is None
