# SPDX-License-Identifier: Apache-2.0
"""`evaluate` as a user meets it: refusals, the result file, a kill in the middle."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from par_model import calibrate
from par_model.checkpoint import save_checkpoint
from par_model.evaluate import main
from par_model.evaluation.measurement import settings_of
from par_model.evaluation.result_file import checkpoint_hash
from par_model.evaluation.rollouts import Rollout, RolloutLog, RolloutResult
from par_model.instruction import code_table
from par_model.simulation.tasks import PAPER_TASKS, TASKS
from par_model.weights_hash import weights_hash
from tests.model.fixtures import random_checkpoint_parts
from tests.packaging.test_repository import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """par_tiny with random weights that knows all tasks' instructions."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    parts = random_checkpoint_parts("par_tiny")
    config = parts["config"]
    texts = tuple(task.instruction for task in TASKS.values())
    parts["instructions"] = code_table(texts, config.num_text_tokens, config.text_width)
    save_checkpoint(folder, **parts)
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "PushTube"], "task 'PushTube' is unknown; the tasks are PushCube"),
        ([], "--task is missing; the tasks are PushCube"),
        (["--task", "PushCube", "--episodes", "0"], "must be at least 1, got 0"),
        (["--task", "PushCube"], "nothing does not exist or has no manifest.json"),
        (["--protocol", "paper"], "nothing does not exist or has no manifest.json"),
        (
            ["--task", "PushCube", "--policy-delay", "0.2"],
            "--policy-delay has no place in one task",
        ),
        (["--protocol", "delay", "--cells", "ddim:1"], "--cells has no place in --protocol delay"),
        (
            ["--protocol", "states", "--first-seed", "0"],
            "--first-seed has no place in --protocol states",
        ),
        (
            ["--protocol", "paper", "--policy-seed", "3"],
            "--policy-seed has no place in --protocol paper",
        ),
        (["--protocol", "paper", "--policy-seed", "0"], "--policy-seed has no place in"),
        (["--protocol", "ablations", "--policy-seed", "1"], "--policy-seed has no place in"),
        (["--protocol", "pareto", "--num-steps", "0"], "--num-steps has no place in"),
        (["--protocol", "paper", "--delay-jitter", "0"], "--delay-jitter has no place in"),
        (["--task", "PushCube", "--seam-smoothness", "0"], "--seam-smoothness has no place in"),
    ],
)
def test_refusals_are_one_sentence(arguments, sentence, tmp_path, capsys):
    result = tmp_path / "result.json"
    common = ["--checkpoint", str(tmp_path / "nothing"), "--json", str(result)]
    assert main([*common, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def command(checkpoint, result, *more):
    return [
        *(sys.executable, "-m", "par_model.evaluate", "--checkpoint", str(checkpoint)),
        *("--task", "PushCube", "--episodes", "3", "--first-seed", "10000", "--max-steps", "20"),
        *("--backend", "eager", "--record-targets", "--json", str(result), *more),
    ]


@pytest.mark.sim
@pytest.mark.slow
def test_a_killed_run_is_continued_and_equals_a_whole_one(checkpoint, tmp_path):
    """3 episodes of 20 steps: 2 workers against 1 worker killed (-9) after its first episode."""
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    output = subprocess.run(
        command(checkpoint, whole, "--num-workers", "2"),
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    ).stdout
    process = subprocess.Popen(command(checkpoint, killed, "--num-workers", "1"))
    log = tmp_path / "killed.json.episodes.jsonl"
    end = time.monotonic() + 240
    while not log.exists() or log.read_text().count("\n") < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run(command(checkpoint, killed, "--num-workers", "1"), check=True, timeout=280)

    contents = [json.loads(path.read_text()) for path in (whole, killed)]
    for content in contents:
        assert [entry["seed"] for entry in content["episodes"]] == [10000, 10001, 10002]
        assert content["num_episodes"] == 3
        assert content["num_successes"] == sum(e["success"] for e in content["episodes"])
        assert {"command", "date", "hardware", "versions", "interval"} <= set(content)
    targets = [[entry["joint_targets"] for entry in c["episodes"]] for c in contents]
    assert targets[0] == targets[1]
    assert np.shape(targets[0]) == (3, 20, 8)
    assert sorted(tmp_path.iterdir()) == sorted([whole, killed])
    assert "[3/3] PushCube seed" in output
    assert "PushCube: 0/3 successes (0.0%, 95% 0.0 to 56.1%)" in output


@pytest.mark.sim
@pytest.mark.slow
def test_delays_are_measured_for_what_the_checkpoint_can_do(checkpoint, tmp_path, capsys):
    """2 episodes of 24 steps: three kinds of inference with prefixes, two without."""
    trained = tmp_path / "trained"
    parts = random_checkpoint_parts("par_tiny", max_delay_steps=10)
    texts = tuple(task.instruction for task in TASKS.values())
    config = parts["config"]
    parts["instructions"] = code_table(texts, config.num_text_tokens, config.text_width)
    save_checkpoint(trained, **parts)
    for folder, kinds in ((checkpoint, 2), (trained, 3)):
        result = tmp_path / f"{folder.name}.json"
        arguments = ["--checkpoint", str(folder), "--protocol", "delay", "--task", "PushCube"]
        arguments += ["--episodes", "2", "--max-steps", "24", "--policy-delay", "0.15"]
        arguments += ["--num-workers", "1", "--backend", "eager", "--json", str(result)]
        assert main(arguments) == 0
        content = json.loads(result.read_text())
        arm_file = (ROOT / "config/arms/panda.yaml").read_bytes()
        assert content["arm_file_sha256"] == hashlib.sha256(arm_file).hexdigest()
        cells = content["tasks"]["PushCube"]
        assert [cell["policy_delay_s"] for cell in cells] == [0.0, 0.15] * kinds
        assert len({cell["inference"] for cell in cells}) == kinds
        assert len(content["rollouts"]) == 2 * 2 * kinds
        assert "PushCube sequential" in capsys.readouterr().out
        # Without delay all kinds command the same.
        motions = [
            [r["motion"] for r in content["rollouts"] if r["policy_delay_s"] == 0.0][index::2]
            for index in (0, 1)
        ]
        for same in motions:
            lengths = {motion["spectral_arc_length"] for motion in same}
            assert len(lengths) == 1


def of_one_rollout(checkpoint, backend):
    """The settings of `--task PushCube --max-steps 8`."""
    rollout = Rollout(str(checkpoint), "PushCube", 10000, 0, 8, None, None, False, backend=backend)
    return settings_of([rollout])


def auto_is_eager(monkeypatch, tmp_path):
    """As for a model that is too large to be exported unasked, and was not."""
    monkeypatch.setenv("PAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("par_model.load_policy._MOST_PARAMETERS_EXPORTED_UNASKED", 1000)


@pytest.mark.sim
def test_auto_is_chosen_once_and_the_result_names_it(checkpoint, tmp_path, monkeypatch):
    auto_is_eager(monkeypatch, tmp_path)
    result = tmp_path / "result.json"
    arguments = ["--checkpoint", str(checkpoint), "--json", str(result), "--task", "PushCube"]
    arguments += ["--episodes", "1", "--first-seed", "10000", "--max-steps", "8"]
    assert main([*arguments, "--num-workers", "1"]) == 0
    content = json.loads(result.read_text())
    assert of_one_rollout(checkpoint, "eager").items() <= content.items()


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_a_log_that_leaves_the_choice_open_is_not_continued(
    command, checkpoint, tmp_path, capsys, monkeypatch
):
    """As one that was begun when each worker chose."""
    auto_is_eager(monkeypatch, tmp_path)
    out = tmp_path / "out.json"
    if command == "evaluate":
        settings = of_one_rollout(checkpoint, "auto")
        settings |= {"protocol": None, "record_targets": False}
        words = ["--json", str(out), "--task", "PushCube", "--max-steps", "8"]
    else:
        settings = {"checkpoint_sha256": checkpoint_hash(checkpoint), "max_steps": 200}
        settings |= {"backend": "auto"}
        words = ["--out", str(out)]
    RolloutLog(tmp_path / "out.json.episodes.jsonl", settings)
    program = {"evaluate": main, "calibrate": calibrate.main}[command]
    assert program(["--checkpoint", str(checkpoint), "--episodes", "1", *words]) == 1
    assert "with other settings (backend differ); delete it, or" in capsys.readouterr().err


def test_table_3_is_printed_from_stored_results(checkpoint, tmp_path, capsys, monkeypatch):
    """Two variants, 2 rollouts a task, already measured: nothing is run."""
    auto_is_eager(monkeypatch, tmp_path)
    runs, table = tmp_path / "runs", tmp_path / "table_3.json"
    for name, success in (("full", True), ("memoryless", False)):
        folder = runs / name / "checkpoint"
        shutil.copytree(checkpoint, folder)
        rollouts = [
            RolloutResult(task, seed, 0, success, 60, [9.0]).to_json()
            for task in PAPER_TASKS
            for seed in (1, 2)
        ]
        settings = {
            "checkpoint": str(folder),
            "checkpoint_sha256": checkpoint_hash(folder),
            "weights_sha256": weights_hash(folder),
            "max_steps": 200,
            "num_steps": None,
            "context_slots": None,
            "backend": "eager",
        }
        stored = tmp_path / f"table_3.{name}.json"
        stored.write_text(json.dumps(settings | {"rollouts": rollouts}))
    arguments = ["--checkpoint", str(runs), "--protocol", "ablations", "--json", str(table)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert next(line[:2] for line in lines if "(ours)" in line[:2]) == ["PAR-Full", "(ours)"]
    assert "history length 1    +100 (+100 to +100), p 0.250" in output
    content = json.loads(table.read_text())
    assert content["variants"]["memoryless"]["against_full"]["PickCube"]["gain"] == 1.0
    settings = content["variants"]["memoryless"]["settings"]
    assert (settings["backend"], settings["sampler"]) == ("eager", None)
    assert settings["weights_sha256"] == weights_hash(runs / "memoryless" / "checkpoint")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--protocol", "pareto", "--cells", "ddim"], "'ddim' is not SAMPLER:STEPS"),
        (["--protocol", "pareto", "--cells", "euler:4"], "sampler 'euler' is unknown"),
        (["--protocol", "pareto", "--sampler", "ddim"], "--sampler has no place in"),
        (["--protocol", "ablations"], "holds no NAME/checkpoint of full, noar"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(
    arguments, sentence, checkpoint, tmp_path, capsys
):
    common = ["--checkpoint", str(checkpoint), "--json", str(tmp_path / "r.json")]
    assert main([*common, *arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
