# SPDX-License-Identifier: Apache-2.0
"""`evaluate` with a LeRobot folder: 2 episodes of 16 steps, so warm-up and 2 + 2 chunks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.folders import lerobot_folder, stand_in_python


def evaluate(
    folder: Path, result: Path, python: str, *more: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "par_model.evaluate", "--checkpoint", str(folder)),
            *("--task", "PushCube", "--episodes", "2", "--first-seed", "10000"),
            *("--max-steps", "16", "--num-workers", "1", "--record-targets"),
            *("--json", str(result), *more),
        ],
        env={**os.environ, "PAR_LEROBOT_PYTHON": python},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.sim
@pytest.mark.slow
def test_a_program_that_dies_costs_no_finished_episode(tmp_path: Path) -> None:
    """It dies at the fifth question: the second chunk of the second episode."""
    folder, well = lerobot_folder(tmp_path), stand_in_python(tmp_path, "well")
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    done = evaluate(folder, whole, well)
    assert done.returncode == 0, done.stderr
    died = evaluate(folder, broken, stand_in_python(tmp_path, "die@5"))
    assert died.returncode == 1
    sentences = [line for line in died.stderr.splitlines() if line.startswith("error: ")]
    assert sentences == [
        "error: the LeRobot process ended with exit code 7; its last line: 'Segmentation fault "
        "(made up)'. Start again; what was finished before is kept."
    ]
    assert "Traceback" not in died.stderr
    log = tmp_path / "broken.json.episodes.jsonl"
    assert [json.loads(line)["seed"] for line in log.read_text().splitlines()[1:]] == [10000]
    assert evaluate(folder, broken, well).returncode == 0
    contents = [json.loads(path.read_text()) for path in (whole, broken)]
    targets = [[entry["joint_targets"] for entry in c["episodes"]] for c in contents]
    assert targets[0] == targets[1]
    assert [len(episode) for episode in targets[0]] == [16, 16]
    assert contents[0]["checkpoint_sha256"] == contents[1]["checkpoint_sha256"]
    refused = evaluate(folder, tmp_path / "other.json", well, "--num-steps", "4")
    assert refused.returncode == 1
    assert "num_steps has no effect on a LeRobot policy" in refused.stderr
