# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of 16 actions at 10 Hz, with random weights, through the sim graph.

Two episodes of 32 control steps (2 chunks, 3.2 s) that the random policy cannot solve; the direct
loop has to command the same joint targets to 1e-6 rad.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.processes import Finished, run

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.long]

NUM_STEPS = 32
FIRST_SEED = 20_241_201


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.ros.checkpoints import save_random_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "sixteen"
    save_random_checkpoint(folder, num_actions=16, step_s=0.1)
    return folder


def finished_run(checkpoint: Path, report: Path, *words: str) -> Finished:
    return run(
        "sim", "task:=PushCube", f"checkpoint:={checkpoint}", f"report:={report}",
        "backend:=eager", "predict_episodes:=0", *words,
    )  # fmt: skip


def episodes_of(report: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((report / "results.json").read_text())["episodes"]
    return content


def test_two_episodes_run_as_in_the_direct_loop(
    free_domain: str, checkpoint: Path, tmp_path: Path
) -> None:
    from par_model.evaluation.direct_loop import arm_for, run_episode
    from par_model.load_policy import load_policy

    finished = finished_run(checkpoint, tmp_path, "episodes:=2", f"max_steps:={NUM_STEPS}")
    assert finished.code == 0, finished.error
    policy = load_policy(checkpoint, backend="eager", device="cpu")
    episodes = episodes_of(tmp_path)
    assert len(episodes) == 2
    with arm_for("PushCube", policy.spec) as arm:
        for index, episode in enumerate(episodes):
            assert (episode["steps"], episode["chunks"]) == (NUM_STEPS, NUM_STEPS // 16)
            assert (episode["guard_changes"], episode["holds"]) == ([], 0)
            direct = run_episode(arm, policy, FIRST_SEED + index, NUM_STEPS)
            targets = np.array(episode["joint_targets"])
            # A policy that stood still would prove nothing.
            assert np.ptp(targets, axis=0).max() > 1e-3
            np.testing.assert_allclose(targets, direct.joint_targets, rtol=0, atol=1e-6)


def test_realtime_runs_too(free_domain: str, checkpoint: Path, tmp_path: Path) -> None:
    """Five times slower than life, so that a busy machine's policy is not always late."""
    finished = finished_run(
        checkpoint, tmp_path, "episodes:=1", "max_steps:=16", "mode:=realtime",
        "real_time_factor:=0.2",
    )  # fmt: skip
    assert finished.code == 0, finished.error
    (episode,) = episodes_of(tmp_path)
    assert episode["steps"] == 16
    assert episode["chunks"] >= 1
    assert np.isfinite(episode["joint_targets"]).all()
    assert episode["camera_to_trajectory_ms"]
