# SPDX-License-Identifier: Apache-2.0
"""LeRobot itself on a data set that this project wrote: reads it, trains two steps, answers.

Needs PAR_LEROBOT_PYTHON (docs/how_to/compare_with_lerobot.md). 3 episodes of 96 steps, pictures of
64 x 64; LeRobot's pictures are ours within 3 of 255, its numbers are ours.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from par_model.import_lerobot import main
from par_model.interface import Observation
from par_model.peers.lerobot_policy import load_lerobot_policy
from par_model.training.lerobot_dataset import open_episodes
from par_model.training.lerobot_writer import assemble
from tests.training.test_lerobot_dataset import LENGTHS, record

PYTHON = os.environ.get("PAR_LEROBOT_PYTHON", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="PAR_LEROBOT_PYTHON names no Python with lerobot"),
]

READ = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("par/test", root=sys.argv[1], video_backend="pyav")
items = [data[index] for index in range(len(data))]
np.savez(
    sys.argv[2],
    frames=np.stack([item["observation.images.front"].numpy() for item in items]),
    **{name.replace(".", "_"): np.stack([item[name].numpy() for item in items])
       for name in ("observation.state", "action", "episode_index")},
    tasks=np.array([item["task"] for item in items]),
)
"""
SMALL = {
    "act": [
        "--policy.dim_model=32", "--policy.n_heads=2", "--policy.dim_feedforward=64",
        "--policy.n_encoder_layers=1", "--policy.chunk_size=16",
    ],
    "diffusion": [
        "--policy.n_obs_steps=1", "--policy.horizon=16", "--policy.down_dims=[16,32,64]",
        "--policy.num_inference_steps=3", "--policy.crop_shape=null",
    ],
}  # fmt: skip


def lerobot(*words: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, *words], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = record(tmp_path_factory.mktemp("data") / "push")
    assemble(folder, list(LENGTHS))
    return folder


def test_lerobot_reads_what_we_wrote(data: Path, tmp_path: Path) -> None:
    lerobot("-c", READ, str(data), str(tmp_path / "read.npz"))
    read = np.load(tmp_path / "read.npz")
    episodes = [open_episodes(data).read(index) for index in range(3)]
    frames = np.concatenate([episode.frames for episode in episodes])
    difference = np.abs(255 * read["frames"].transpose(0, 2, 3, 1) - frames)
    assert difference.max() <= 3
    assert set(read["tasks"]) == {"Push the cube."}
    np.testing.assert_array_equal(
        read["episode_index"], np.repeat([0, 1, 2], list(LENGTHS.values()))
    )
    for name, ours in (("observation_state", "measured_joint_positions"), ("action", "actions")):
        expected = np.concatenate([getattr(episode, ours) for episode in episodes])
        np.testing.assert_array_equal(read[name], expected)


@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_what_lerobot_trained_answers_through_the_adapter(
    kind: str, data: Path, tmp_path: Path
) -> None:
    features = {
        "observation.state": {"type": "STATE", "shape": [8]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 64, 64]},
    }
    lerobot(
        *("-m", "lerobot.scripts.lerobot_train", f"--policy.type={kind}", *SMALL[kind]),
        *("--dataset.repo_id=par/test", f"--dataset.root={data}", "--dataset.video_backend=pyav"),
        *("--dataset.use_imagenet_stats=false", "--policy.pretrained_backbone_weights=null"),
        f"--policy.input_features={json.dumps(features)}",
        *("--policy.n_action_steps=8", "--policy.device=cpu", "--policy.push_to_hub=false"),
        *("--batch_size=4", "--steps=2", "--num_workers=0", "--eval_freq=0"),
        f"--output_dir={tmp_path / 'run'}",
    )
    pretrained = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    assert main([str(pretrained), "--out", str(tmp_path / kind)]) == 0
    policy = load_lerobot_policy(tmp_path / kind, device="cpu", num_threads=1, unused={})
    assert kind in policy.backend
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    chunks = []
    for seed in (0, 0, 1):
        policy.reset("Push the cube.", seed)
        for index in range(2):
            joints = np.full(8, 0.1 * index)
            policy.observe(Observation(image, joints, policy.spec.joint_names, 0.4 * index))
            chunks.append(policy.act().joint_positions)
    assert chunks[0].shape == (8, 8)
    # Each question is answered from its own observation, and a seed fixes the episode.
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-6
    np.testing.assert_array_equal(chunks[0], chunks[2])
    np.testing.assert_array_equal(chunks[1], chunks[3])
    if kind == "diffusion":
        assert np.abs(chunks[0] - chunks[4]).max() > 1e-6
