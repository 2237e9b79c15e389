# SPDX-License-Identifier: Apache-2.0
"""Demonstrations through two cameras: recorded, written as LeRobot v3, read and encoded by view.

Two episodes of 12 and 10 steps (the second is held out), random pictures of 32 x 32 a view; videos
change a picture by at most 3 of 255.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.frame_codec import FrameCodec
from par_model.interface import split_views
from par_model.presets import PRESETS, preset
from par_model.train import main
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.latent_cache import LatentCache, ShiftConfig, encode_demonstrations
from par_model.training.lerobot_writer import assemble
from par_model.training.policy_data import spread_frames
from par_model.training.staged_episodes import Episode, stage_episode, start_staging
from tests.training.test_lerobot_dataset import SETTINGS

VIEWS = ("front", "right")
LENGTHS = {0: 12, 24: 10}
SECOND = {"name": "right", "eye_m": [0, -1, 0.45], "target_m": [0, 0, 0.15], "fov_rad": 0.62}


def pictures_of(seed: int) -> np.ndarray:
    """uint8 [T, 2 * 32, 32, 3]: smooth, so that a video keeps them."""
    colours = np.random.default_rng(seed).integers(40, 220, (LENGTHS[seed], 2, 1, 1, 3))
    frames = np.broadcast_to(colours, (LENGTHS[seed], 2, 32, 32, 3)).reshape(-1, 64, 32, 3)
    return frames.astype(np.uint8)


@pytest.fixture(params=["staged", "finished"])
def recording(request, tmp_path: Path) -> Path:
    folder = tmp_path / "Push"
    start_staging(folder, SETTINGS | {"image_size": 32, "further_cameras": [SECOND]})
    for seed, length in LENGTHS.items():
        numbers = np.zeros((length, 8), np.float32)
        episode = Episode(
            instruction="Push the cube.",
            frames=pictures_of(seed),
            measured_joint_positions=numbers,
            actions=numbers,
            executed_actions=numbers,
            environment_state=numbers[:, :3],
            success=np.ones(length, np.bool_),
            seed=seed,
            noisy=False,
        )
        stage_episode(folder, episode, 20, VIEWS)
    if request.param == "finished":
        assemble(folder, list(LENGTHS))
    return folder


def assert_shows(frames: np.ndarray, expected: np.ndarray) -> None:
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 3


def test_views_are_read_by_name_in_any_order(recording: Path) -> None:
    demonstrations = DemonstrationSet(recording)
    assert demonstrations.views == VIEWS
    for seed in LENGTHS:
        apart = split_views(pictures_of(seed), VIEWS)
        assert_shows(demonstrations.read_frames(seed, VIEWS), pictures_of(seed))
        assert_shows(demonstrations.read_frames(seed, ("right",)), apart["right"])
        turned = np.concatenate((apart["right"], apart["front"]), axis=1)
        assert_shows(demonstrations.read_frames(seed, ("right", "front")), turned)


def test_a_view_that_was_not_recorded_is_refused_by_name(recording: Path) -> None:
    with pytest.raises(ValueError, match="has no view 'wrist'; its views are 'front', 'right'"):
        DemonstrationSet(recording).read_frames(0, ("front", "wrist"))


def test_a_recording_is_not_continued_with_fewer_views(recording: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings \(further_cameras .*asked for now: None"):
        start_staging(recording, SETTINGS | {"image_size": 32})


def test_each_view_is_a_video_of_its_own(recording: Path) -> None:
    """As LeRobot's own loader looks them up: features, videos, and where an episode begins."""
    if not (recording / "meta").exists():
        assemble(recording, list(LENGTHS))
    info = json.loads((recording / "meta" / "info.json").read_text())
    rows = pq.read_table(recording / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    stats = json.loads((recording / "meta" / "stats.json").read_text())
    for view in VIEWS:
        key = f"observation.images.{view}"
        assert info["features"][key]["shape"] == [32, 32, 3]
        assert (recording / "videos" / key / "chunk-000" / "file-000.mp4").is_file()
        assert [row[f"videos/{key}/from_timestamp"] for row in rows] == [0.0, 0.6]
        assert np.shape(stats[key]["mean"]) == (3, 1, 1)
    assert "right, as large, eye [0, -1, 0.45] m" in (recording / "README.md").read_text()


def test_latents_of_both_views_stand_one_above_the_other(recording: Path) -> None:
    """In a folder of their own; each view is shifted by itself."""
    torch.manual_seed(0)
    codec = FrameCodec(preset("par_tiny").codec).eval().requires_grad_(False)
    shifts = ShiftConfig(num_variants=2, seed=5)
    demonstrations, root = DemonstrationSet(recording), recording / "latents"
    caches = {
        views: LatentCache(root, codec, "Push", shifts, views=views)
        for views in (("front",), ("right",), VIEWS)
    }
    assert len({cache.folder for cache in caches.values()}) == 3
    for cache in caches.values():
        encode_demonstrations(demonstrations, codec, cache, lambda done, total: None)
    digest = demonstrations.read_steps(0).digest
    front, right, both = (cache.read(0, digest) for cache in caches.values())
    assert both.shape == (2, 12, 4, 8, 4)
    np.testing.assert_allclose(both[:, :, :, :4], front, atol=2e-3)
    np.testing.assert_allclose(both[0, :, :, 4:], right[0], atol=2e-3)
    moved = [shifts.shift_px(key, 1, view) for key in range(20) for view in (0, 1)]
    assert moved[0::2] != moved[1::2]


def test_the_codec_sees_pictures_of_every_view(recording: Path) -> None:
    """Few are asked for: those of one episode, 12 a view."""
    frames = spread_frames(DemonstrationSet(recording), 18, VIEWS)
    apart = split_views(pictures_of(0), VIEWS)
    assert_shows(frames, np.concatenate((apart["front"], apart["right"])))


def test_training_goes_from_one_view_to_two(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codec, latents and policy of one view on the front camera alone; then of both, from its
    weights. A set that lacks a view is refused by its name."""
    common = ["--data", str(recording), "--codec", str(tmp_path / "codec"), "--preset", "par_tiny"]
    common += ["--variants", "1"]
    policy = ["--steps", "1", "--evaluation-episodes", "0", "--evaluate-every", "0"]
    policy += ["--scene-weight", "0", "--steps-after-success", "all"]

    def train(*words: str) -> int:
        return main([*words[:1], *common, *words[1:]])

    codec = ["--codec-steps", "1", "--probe-tasks", "--out", str(tmp_path / "codec")]
    assert train("codec", *codec) == 0
    assert train("latents") == 0
    assert train("policy", *policy, "--out", str(tmp_path / "one")) == 0
    two = dataclasses.replace(PRESETS["par_tiny"], views=VIEWS)
    monkeypatch.setitem(PRESETS, "par_tiny", two)
    assert train("latents") == 0
    start = ["--from", str(tmp_path / "one" / "checkpoint")]
    assert train("policy", *policy, *start, "--out", str(tmp_path / "two")) == 0
    assert load_checkpoint(tmp_path / "two" / "checkpoint").config.views == VIEWS
    wrist = dataclasses.replace(two, views=("front", "wrist"))
    monkeypatch.setitem(PRESETS, "par_tiny", wrist)
    assert train("latents") == 1
