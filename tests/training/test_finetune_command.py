# SPDX-License-Identifier: Apache-2.0
"""From a NOVA folder to a policy by commands alone: convert_nova, train latents and policy with
--finetune. Random weights of width 64, 2 + 2 blocks, 32 x 32 pixels, 4 slots, 3 training steps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from par_model.checkpoint import load_checkpoint
from par_model.convert_nova import main as convert
from par_model.interface import Observation
from par_model.load_policy import load_policy
from par_model.nova_config import _NUM_HEADS
from par_model.simulation.tasks import TASKS
from par_model.train import main as train
from tests.model.nova_folder import (
    SMALL,
    nova_config,
    random_tensors,
    transformer_shapes,
    write_folder,
    write_text_encoder,
)
from tests.training.fixtures import record_noise

SIZE = dataclasses.replace(SMALL, image_size=(32, 32))
INSTRUCTION = TASKS["PushCube"].instruction


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nova/ and PushCube/ (two recorded episodes of 20 and 26 steps)."""
    monkeypatch.setitem(_NUM_HEADS, SIZE.width, 4)
    tensors = random_tensors(transformer_shapes(SIZE))
    write_text_encoder(write_folder(tmp_path / "nova", nova_config(SIZE), tensors))
    record_noise(tmp_path / "PushCube", {3: 20, 24: 26}, instruction=INSTRUCTION)
    return tmp_path


def finetune(folders: Path, stage: str, *more: str) -> int:
    common = ["--finetune", str(folders / "start"), "--data", str(folders / "PushCube")]
    return train([stage, *common, "--latents", str(folders / "latents"), "--variants", "1", *more])


def train_policy(folders: Path, out: str, *more: str) -> int:
    steps = ["--steps", "3", "--slots-per-batch", "8", "--evaluation-episodes", "0"]
    steps += ["--steps-after-success", "all"]
    return finetune(folders, "policy", "--out", str(folders / out), *steps, *more)


@pytest.mark.parametrize(
    ("mode", "lora"), [("image", []), ("clip", ["--lora-rank", "2"])], ids=["full", "lora, clips"]
)
def test_novas_weights_become_a_policy(folders: Path, mode: str, lora: list[str]) -> None:
    choices = ["--num-slots", "4", "--observation-mode", mode]
    assert convert([str(folders / "nova"), "--out", str(folders / "start"), *choices]) == 0
    assert finetune(folders, "latents") == 0
    assert train_policy(folders, "run", *lora) == 0
    start, tuned = (
        load_checkpoint(folders / name) for name in ("start", Path("run") / "checkpoint")
    )
    assert tuned.config == start.config
    assert tuned.training["finetuned_from"] == "start"
    assert np.abs(tuned.statistics.action_low + 1).min() > 1e-3  # no placeholders any more
    card = (folders / "run" / "checkpoint" / "README.md").read_text()
    assert "fine-tuned from start on the data sets named below" in card
    assert "32x32 pixels" in card

    policy = load_policy(folders / "run" / "checkpoint", backend="eager", device="cpu")
    policy.reset(INSTRUCTION, seed=0)
    picture = np.zeros((32, 32, 3), np.uint8)
    policy.observe(Observation(picture, np.zeros(8), policy.spec.joint_names, 0.0))
    assert np.isfinite(policy.act().joint_positions).all()


def test_mistakes_are_one_sentence(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nova, start = str(folders / "nova"), str(folders / "start")
    assert convert([nova, "--out", start, "--resolution", "p256"]) == 0
    capsys.readouterr()
    assert finetune(folders, "latents") == 1
    assert "32 x 32 pixels and par_nova takes 256 x 256; record" in capsys.readouterr().err
    assert convert([nova, "--out", start]) == 0
    assert finetune(folders, "latents") == 0
    capsys.readouterr()
    assert train_policy(folders, "run", "--from", start) == 1
    assert "--from and --finetune both" in capsys.readouterr().err
    assert train_policy(folders, "run", "--max-episodes", "1") == 1
    message = capsys.readouterr().err
    assert "no episode of PushCube is held out" in message
    assert message.strip().count("\n") == 0
