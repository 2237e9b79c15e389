# SPDX-License-Identifier: Apache-2.0
"""What import_lerobot takes and refuses, and a folder that was changed afterwards."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from par_model.import_lerobot import main
from par_model.peers.lerobot_folder import (
    is_lerobot,
    lerobot_spec,
    read_lerobot_folder,
    verify_lerobot_folder,
)
from par_model.training.lerobot_writer import assemble
from tests.peers.folders import (
    CONFIG,
    FEATURES,
    IMAGE,
    JOINTS,
    lerobot_folder,
    write_pretrained,
)
from tests.training.test_lerobot_dataset import LENGTHS, record


def change_inputs(config: dict[str, Any]) -> None:
    config["input_features"]["observation.environment_state"] = {"type": "ENV", "shape": [6]}


def two_steps(config: dict[str, Any]) -> None:
    config["n_obs_steps"] = 2


def seven_joints(config: dict[str, Any]) -> None:
    config["output_features"]["action"]["shape"] = [7]


def larger_picture(config: dict[str, Any]) -> None:
    config["input_features"][IMAGE]["shape"] = [3, 256, 256]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_inputs, "observation.environment_state is where the simulator knows the objects"),
        (two_steps, "reads 2 successive steps (n_obs_steps)"),
        (seven_joints, "the policy's action has shape [7]"),
        (larger_picture, "has shape [3, 256, 256] and the data set has pictures of 128 x 128"),
    ],
)
def test_a_policy_that_sees_or_does_something_else_is_refused(
    change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    config = copy.deepcopy(CONFIG)
    change(config)
    with pytest.raises(ValueError) as error:
        lerobot_spec(config, "panda", FEATURES, JOINTS, 20)
    assert sentence in str(error.value)


def test_a_folder_says_what_the_policy_is_and_notices_a_change(tmp_path: Path) -> None:
    folder = lerobot_folder(tmp_path, num_actions=12)
    assert is_lerobot(folder)
    assert not is_lerobot(tmp_path / "pretrained_model")
    described, spec = read_lerobot_folder(folder)
    assert (described.policy, described.image_feature) == ("act", IMAGE)
    assert (spec.arm, spec.joint_names, spec.num_actions) == ("panda", JOINTS, 12)
    assert (spec.step_s, spec.image_height, spec.max_delay_steps) == (0.05, 128, 0)
    verify_lerobot_folder(folder)
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that was imported"):
        verify_lerobot_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"differ in 'model\.safetensors'"):
        verify_lerobot_folder(folder)


def test_the_command_makes_a_folder_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record(tmp_path / "data")
    assemble(data, list(LENGTHS))
    config = copy.deepcopy(CONFIG)
    config["input_features"][IMAGE]["shape"] = [3, 64, 64]
    pretrained = write_pretrained(tmp_path / "pretrained_model", config)
    command = [str(pretrained), "--out", str(tmp_path / "act")]
    assert main(command) == 1
    assert "train_config.json cannot be read" in capsys.readouterr().err
    trained_on = {"dataset": {"repo_id": "par/data", "root": str(data)}}
    (pretrained / "train_config.json").write_text(json.dumps(trained_on))
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "act for the panda, chunks of 8 actions 0.05 s apart" in output
    verify_lerobot_folder(tmp_path / "act")
    assert read_lerobot_folder(tmp_path / "act")[1].instructions == ("Push the cube.",)
    before = (tmp_path / "act" / "manifest.json").read_bytes()
    assert main(command) == 1
    assert "act exists; choose another --out, or delete it." in capsys.readouterr().err
    assert (tmp_path / "act" / "manifest.json").read_bytes() == before
    (pretrained / "model.safetensors").unlink()
    assert main([str(pretrained), "--out", str(tmp_path / "again")]) == 1
    assert "pretrained_model lacks model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
