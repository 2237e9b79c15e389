# SPDX-License-Identifier: Apache-2.0
"""Releasing rounds the weights once, and a second release only changes the card."""

import json
import shutil

import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.evaluation import paper_protocol, pareto
from par_model.evaluation.rollouts import RolloutResult
from par_model.release import main
from par_model.surprise import FILE_NAME as SURPRISE_FILE
from par_model.surprise import SurpriseCalibration, SurpriseThresholds
from par_model.weights_hash import weights_hash

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


WHERE = {name: RESULT[name] for name in ("command", "date", "hardware")}


def rollouts(sampler=None, num_steps=None):
    return [
        RolloutResult(
            "PickCube", seed, 0, seed % 2 == 0, 90, [9.0], None, None,
            "success" if seed % 2 == 0 else "grasped, lost", sampler, num_steps,
        )
        for seed in range(10)
    ]  # fmt: skip


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def paper_result(checkpoint):
    tasks = {
        "PickCube": paper_protocol.task_summary(rollouts())
        | {
            "outcomes": {"success": 5, "grasped, lost": 5},
            "episodes": [result.to_json() for result in rollouts()],
        }
    }
    return {"protocol": "paper", "tasks": tasks, "weights_sha256": weights_hash(checkpoint)} | WHERE


def pareto_result(checkpoint):
    latencies = {name: {"p50": ms, "p99": ms, "worst": ms} for name, ms in (("ddim 4", 9.0),)}
    content = pareto.pareto_content(rollouts("ddim", 4), latencies, 0.05)
    about = {"protocol": "pareto", "backend": "eager", "weights_sha256": weights_hash(checkpoint)}
    return content | about | WHERE


def ablations_result():
    rows = [["", "PushCube"], ["PAR-Full (ours)", "90.0%"]]
    variants = {"full": {"step": 900, "wall_s": 7200.0, "hardware": "a CPU"}}
    content = {"protocol": "ablations", "variants": variants, "rows": rows, "gain_rows": rows}
    return content | WHERE


RECORDING = {
    "task": "PickCube",
    "seeds": [0, 2, 3],
    "failed_seeds": {"1": "no path"},
    "first_seed": 0,
    "noise_share": 0.35,
    "num_hold_steps": 16,
    "image_size": 128,
    "versions": {"mani-skill": "3.0.1"},
}


def test_every_slot_of_the_card_is_filled_from_files(tiny_checkpoint, tmp_path):
    out, data = tmp_path / "shipped", tmp_path / "PickCube"
    (data / "meta").mkdir(parents=True)
    write(data / "meta" / "recording.json", RECORDING)
    both = ["--checkpoint", str(out), "--out", str(out)]
    first = ["--checkpoint", str(tiny_checkpoint), "--out", str(out), "--data", str(data)]
    assert main(first) == 0
    weights = weights_hash(out)
    files = [
        write(tmp_path / "pareto.json", pareto_result(out)),
        write(tmp_path / "table_3.json", ablations_result()),
    ]
    assert main([*both, "--evaluation", *files, "--sampling", "ddim:4:trailing"]) == 0
    assert main([*both, "--evaluation", write(tmp_path / "p.json", paper_result(out))]) == 0
    graph = RESULT | {"mode": "lockstep", "weights_sha256": weights}
    assert main([*both, "--graph", write(tmp_path / "g.json", graph)]) == 0
    assert weights_hash(out) == weights
    config, card = load_checkpoint(out).config, (out / "README.md").read_text()
    assert (config.sampling.action_sampler, config.sampling.action_num_steps) == ("ddim", 4)
    assert config.action_diffusion.spacing == "trailing"
    for words in (
        "| PAR (paper) | 100% | 73% | 48% | 74% |",
        "| ours, 200 steps | - | 50.0% | - | - |",
        "| ddim 4 (best) (chosen) | 9.0 ms | 5/10 (24-76%) |",
        "| PAR-Full (ours) | 90.0% |",
        "| full | 900 | 2.0 | a CPU |",
        "| PickCube | grasped, lost | 5 of 10 | 1, 3, 5, 7, 9 |",
        "| PickCube | 3 | 0 to 3, 1 failed | 35% of the seeds | `python -m par_model.collect "
        "--task PickCube --num-demos 3 --first-seed 0",
        "| PushCube | lockstep | 24 of 25 | 80-99% |",
        "## Licence",
    ):
        assert words in card, words


def test_new_defaults_void_what_was_measured_with_the_old(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "shipped"
    result = write(tmp_path / "result.json", RESULT)
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(out)]) == 0
    both = ["--checkpoint", str(out), "--out", str(out)]
    assert main([*both, "--evaluation", result]) == 0
    assert main([*both, "--evaluation", result, "--sampling", "ddim:2"]) == 1
    assert "then measure" in capsys.readouterr().err
    assert main([*both, "--sampling", "ddim:2"]) == 0
    assert "left out: evaluations" in capsys.readouterr().out
    assert "Not measured yet" in (out / "README.md").read_text()


def test_a_result_of_other_weights_is_refused(tiny_checkpoint, tmp_path, capsys):
    """Measured before the weights were rounded."""
    out = tmp_path / "shipped"
    result = write(tmp_path / "p.json", paper_result(tiny_checkpoint))
    arguments = ["--checkpoint", str(tiny_checkpoint), "--out", str(out), "--evaluation", result]
    assert main(arguments) == 1
    assert "measured on other weights" in capsys.readouterr().err
    assert not list(tmp_path.glob("shipped*"))


def graph_result(checkpoint):
    return RESULT | {"mode": "lockstep", "weights_sha256": weights_hash(checkpoint)}


def test_results_through_the_graph_are_of_the_released_weights(tiny_checkpoint, tmp_path, capsys):
    """Of other weights, of unknown ones, of the direct loop, of other defaults: one sentence."""
    out = tmp_path / "shipped"
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(out)]) == 0
    both = ["--checkpoint", str(out), "--out", str(out)]
    good = graph_result(out)
    unknown = {name: value for name, value in good.items() if name != "weights_sha256"}
    direct = {name: value for name, value in good.items() if name != "mode"}
    for content, sentence in (
        (graph_result(tiny_checkpoint), "g.json was measured on other weights than these"),
        (unknown, "g.json does not say which weights it was measured on (weights_sha256); run"),
        (good | {"weights_sha256": None}, "does not say which weights it was measured on"),
        (direct, "g.json is no results.json of `python -m par_ros sim`; check the path."),
    ):
        assert main([*both, "--graph", write(tmp_path / "g.json", content)]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
        assert "graph" not in load_checkpoint(out).training
    graph = ["--graph", write(tmp_path / "g.json", good)]
    assert main([*both, *graph, "--sampling", "ddim:2"]) == 1
    assert "then measure" in capsys.readouterr().err
    assert main([*both, *graph]) == 0
    (record,) = load_checkpoint(out).training["graph"]
    assert record["weights_sha256"] == weights_hash(out)


def calibrated(checkpoint, first=0.5):
    limits = SurpriseThresholds(first, 0.6, 30.0, 40)
    own = SurpriseCalibration(weights_hash(checkpoint), None, {"push": limits}, {"episodes": 40})
    own.write(checkpoint / SURPRISE_FILE)
    return own


def test_a_release_in_place_keeps_the_calibration(tiny_checkpoint, tmp_path, capsys):
    """Until a default changes, on which the surprise of an episode depends."""
    out = tmp_path / "shipped"
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(out)]) == 0
    own = calibrated(out)
    both = ["--checkpoint", str(out), "--out", str(out)]
    assert main([*both, "--evaluation", write(tmp_path / "p.json", paper_result(out))]) == 0
    assert SurpriseCalibration.read(out) == own
    assert "left out" not in capsys.readouterr().out
    assert main([*both, "--sampling", "ddim:2"]) == 0
    left_out = capsys.readouterr().out
    assert "surprise.json, which was calibrated with other defaults; run `python -m" in left_out
    assert not (out / SURPRISE_FILE).exists()


def test_a_release_from_the_training_again_keeps_the_calibration(tiny_checkpoint, tmp_path, capsys):
    """That of the released folder; one of the weights before their rounding is left out."""
    trained, out = tmp_path / "trained", tmp_path / "shipped"
    shutil.copytree(tiny_checkpoint, trained)
    calibrated(trained, first=0.1)
    arguments = ["--checkpoint", str(trained), "--out", str(out)]
    assert main(arguments) == 0
    assert (
        "which is of other weights, of another forward model or of another"
        in capsys.readouterr().out
    )
    assert not (out / SURPRISE_FILE).exists()
    own = calibrated(out)
    assert main(arguments) == 0
    assert SurpriseCalibration.read(out) == own
    assert main([*arguments, "--context-slots", "1"]) == 0
    assert capsys.readouterr().out.count("calibrated with other defaults") == 2
    assert not (out / SURPRISE_FILE).exists()


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path)]) == 1
    assert "is not a checkpoint; a checkpoint replaces its folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


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
