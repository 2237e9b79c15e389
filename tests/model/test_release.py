# SPDX-License-Identifier: Apache-2.0
"""Releasing rounds the weights once, and a second release only changes the card."""

import json

import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.release import main

RESULT = {
    "task": "PushCube",
    "num_episodes": 25,
    "num_successes": 24,
    "success_rate": 0.96,
    "interval": {"low": 0.805, "high": 0.993},
    "mean_steps": 61.2,
    "command": "python -m par_model.evaluate --task PushCube",
    "date": "2026-01-02T03:04:05+00:00",
    "hardware": {"cpu": "a CPU", "num_cpus": 2, "gpu": None},
    "episodes": [{"seed": 7, "success": True}, {"seed": 8, "success": False}],
}


def test_round_then_measure(tiny_checkpoint, tmp_path):
    out, result = tmp_path / "shipped", tmp_path / "result.json"
    result.write_text(json.dumps(RESULT))
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(out)]) == 0
    first = load_checkpoint(out)
    assert "Not measured yet" in (out / "README.md").read_text()
    arguments = ["--checkpoint", str(out), "--out", str(out), "--evaluation", str(result)]
    assert main([*arguments, "--note", "It drops the cube."]) == 0
    second = load_checkpoint(out)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    card = (out / "README.md").read_text()
    assert "| PushCube | 24 of 25 | 96% | 80-99% | 61 |" in card
    assert "It drops the cube." in card
    assert second.training["evaluations"][0]["failed_seeds"] == [8]


@pytest.mark.parametrize("what", ["checkpoint", "evaluation"])
def test_missing_input_is_one_sentence(tiny_checkpoint, tmp_path, capsys, what):
    missing = tmp_path / "nowhere"
    checkpoint = missing if what == "checkpoint" else tiny_checkpoint
    evaluation = [] if what == "checkpoint" else ["--evaluation", str(missing)]
    code = main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "o"), *evaluation])
    assert code == 1
    message = capsys.readouterr().err
    assert "nowhere" in message
    assert "Traceback" not in message
