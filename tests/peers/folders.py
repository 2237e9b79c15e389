# SPDX-License-Identifier: Apache-2.0
"""Folders of LeRobot policies without weights, and interpreters that run stand_in.py."""

import json
import sys
from pathlib import Path
from typing import Any

from par_model.peers.lerobot_folder import lerobot_spec, save_lerobot_folder
from par_model.simulation.tasks import TASKS

STAND_IN = Path(__file__).with_name("stand_in.py")
IMAGE = "observation.images.front"
JOINTS = (*(f"panda_joint{index}" for index in range(1, 8)), "panda_finger_joint1")
INSTRUCTION = TASKS["PushCube"].instruction
CONFIG: dict[str, Any] = {
    "type": "act",
    "n_obs_steps": 1,
    "n_action_steps": 8,
    "chunk_size": 32,
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [8]},
        IMAGE: {"type": "VISUAL", "shape": [3, 128, 128]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [8]}},
}
FEATURES = {IMAGE: {"dtype": "video", "shape": [128, 128, 3]}}


def write_pretrained(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """What LeRobot's trainer writes, by name; no weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def lerobot_folder(
    parent: Path, num_actions: int = 8, *, height: int = 128, width: int = 128
) -> Path:
    """A folder as import_lerobot makes it; height and width of its picture in pixels."""
    inputs = CONFIG["input_features"] | {IMAGE: {"type": "VISUAL", "shape": [3, height, width]}}
    config = CONFIG | {"n_action_steps": num_actions, "input_features": inputs}
    pretrained = write_pretrained(parent / "pretrained_model", config)
    features = {IMAGE: {"dtype": "video", "shape": [height, width, 3]}}
    spec = lerobot_spec(config, "panda", features, JOINTS, 20)
    save_lerobot_folder(parent / "act", pretrained, spec, (INSTRUCTION,))
    return parent / "act"


def stand_in_python(folder: Path, mode: str) -> str:
    """An executable for PAR_LEROBOT_PYTHON: it runs stand_in.py whatever it is told to run."""
    script = folder / f"python_{mode}"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" {mode} "$@"\n')
    script.chmod(0o755)
    return str(script)
