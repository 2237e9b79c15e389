# SPDX-License-Identifier: Apache-2.0
"""The log of finished episodes, and the paper's table made of it."""

import dataclasses

import pytest

from par_model.evaluation import paper_protocol
from par_model.evaluation.result_file import summary
from par_model.evaluation.rollouts import Rollout, RolloutLog, RolloutResult, run_rollouts
from par_model.worker_options import WorkerOptions

SETTINGS = {"checkpoint_sha256": "aa", "max_steps": 200}


def result(seed, policy_seed=0, success=True, steps=70, task="PushCube"):
    return RolloutResult(task, seed, policy_seed, success, steps, [10.0, 20.0])


def rollout(seed):
    return Rollout("checkpoint", "PushCube", seed, 0, 200, None, None, record_targets=False)


def test_a_log_is_continued_without_its_torn_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RolloutLog(path, SETTINGS)
    log.append(result(1))
    log.append(result(2, success=False))
    path.write_text(path.read_text()[:-9])

    resumed = RolloutLog(path, SETTINGS)
    assert resumed.results == [result(1)]
    resumed.append(result(2))
    assert RolloutLog(path, SETTINGS).results == [result(1), result(2)]


def test_a_log_of_another_checkpoint_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    RolloutLog(path, SETTINGS)
    with pytest.raises(ValueError, match="checkpoint_sha256 differ"):
        RolloutLog(path, SETTINGS | {"checkpoint_sha256": "bb"})


def test_finished_episodes_are_not_run_again(tmp_path):
    log = RolloutLog(tmp_path / "log.jsonl", SETTINGS)
    for seed in (3, 1, 2):
        log.append(result(seed))
    seen = []

    # No worker can be started for these: the checkpoint does not exist.
    results = run_rollouts([rollout(1), rollout(3)], log, WorkerOptions(), seen.append)

    assert [entry.seed for entry in results] == [1, 3]
    assert [entry.seed for entry in seen] == [3, 1]


def test_summary():
    content = summary([result(1, steps=60), result(2, success=False, steps=200)])
    assert (content["num_successes"], content["num_episodes"]) == (1, 2)
    assert content["interval"]["low"] == pytest.approx(0.0945, abs=1e-4)
    assert content["mean_steps"] == 130
    assert content["chunk_latency_ms"]["p50"] == 15.0
    assert content["episodes"][1]["success"] is False
    assert "joint_targets" not in content["episodes"][0]


def test_one_run_of_400_steps_gives_both_limits():
    """4 rollouts: one succeeds after 150 steps, one after 300, two never."""
    results = [
        result(1, 0, True, 150),
        result(1, 1, True, 300),
        result(2, 0, False, 400),
        result(2, 1, False, 400),
    ]
    at = paper_protocol.task_summary(results)

    assert at["within_200_steps"]["num_successes"] == 1
    assert at["within_400_steps"]["num_successes"] == 2
    assert at["within_400_steps"]["bootstrap_over_states"] == {"low": 0.0, "high": 1.0}
    assert at["within_200_steps"]["mean_steps"] == (150 + 200 + 200 + 200) / 4


def test_the_protocol_is_25_states_of_the_measurement_seeds():
    states = paper_protocol.initial_states()
    assert (states[0], states[-1], len(states)) == (20241201, 20241225, 25)
    assert paper_protocol.NUM_POLICY_SEEDS * len(states) == 125


def test_the_table_has_the_papers_rows_and_ours():
    results = [result(seed, seed % 5, seed < 8, 90) for seed in range(10)]
    summaries = {"PushCube": paper_protocol.task_summary(results)}
    lines = paper_protocol.table_text(summaries).splitlines()

    assert lines[0].split() == ["PushCube", "PickCube", "StackCube", "average"]
    paper = next(line for line in lines if line.startswith("PAR (paper)"))
    assert paper.split()[2:] == ["100%", "73%", "48%", "74%"]
    ours = next(line for line in lines if line.startswith("ours, 200 steps"))
    assert ours.split()[3:] == ["16.0%", "-", "-", "-"]
    assert "one multi-task policy" in lines[-1]


def test_a_rollout_is_named_by_task_state_and_policy_seed():
    keys = {dataclasses.replace(rollout(1), policy_seed=seed).key for seed in range(5)}
    assert len(keys) == 5
