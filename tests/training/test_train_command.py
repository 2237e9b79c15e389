# SPDX-License-Identifier: Apache-2.0
"""`python -m par_model.train`: users' mistakes give one sentence and an exit code."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from par_model.checkpoint import load_checkpoint
from par_model.frame_codec import codec_fingerprint
from par_model.normalization import Statistics
from par_model.presets import preset
from par_model.simulation.tasks import FIRST_SELECTION_SEED, PAPER_TASKS, TASKS
from par_model.train import main
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.policy_data import require_rate
from tests.training.fixtures import record_noise


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latents", "--codec", "{tmp}", "--data", "{tmp}"], "no finished frame codec"),
        (["codec", "--out", "{tmp}/c", "--data", "{tmp}/none"], "holds no data set"),
        (
            ["policy", "--codec", "{tmp}", "--data", "{tmp}", "--out", "{tmp}/r", "--steps", "1"],
            "no finished frame codec",
        ),
        (["probe", "--codec", "{tmp}", "--frame-stem", "8"], "--frame-patch"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(tmp=tmp_path) for part in arguments]) == 1
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_an_unknown_preset_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["probe", "--codec", "x", "--preset", "huge"])
    assert exit_info.value.code == 2
    assert "par_small" in capsys.readouterr().err


def test_steps_after_success_is_a_number_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["policy", "--data", "d", "--out", "o", "--steps", "1", "--steps-after-success", "-1"])
    assert "'-1' is neither a number of steps nor 'all'." in capsys.readouterr().err


def test_a_run_from_a_checkpoint_keeps_its_statistics_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = TASKS["PushCube"].instruction
    for name, lengths in (("first", {3: 20, 24: 26}), ("second", {5: 30, 49: 22})):
        record_noise(tmp_path / name, lengths, instruction=sentence)
    common = ["--codec", str(tmp_path / "codec"), "--preset", "par_tiny", "--variants", "1"]
    no_pictures = ["--codec-steps", "2", "--probe-tasks"]
    first, second = (["--data", str(tmp_path / name)] for name in ("first", "second"))
    assert main(["codec", *first, "--out", str(tmp_path / "codec"), *common, *no_pictures]) == 0

    def run(data: list[str], out: str, *more: str) -> Statistics:
        steps = ["--steps", "2", "--evaluation-episodes", "0", "--out", str(tmp_path / out)]
        steps += ["--steps-after-success", "all", "--evaluate-every", "0"]
        assert main(["policy", *data, *common, *steps, "--scene-weight", "0.1", *more]) == 0
        return load_checkpoint(tmp_path / out / "checkpoint").statistics

    for data in (first, second):
        assert main(["latents", *data, *common]) == 0
    start = ["--from", str(tmp_path / "a" / "checkpoint")]
    original = run(first, "a").to_json_dict()
    # no task that the policy never saw: PullCube's sentence would say that it can be asked for
    known = load_checkpoint(tmp_path / "a" / "checkpoint").instructions.texts
    assert known == tuple(TASKS[name].instruction for name in PAPER_TASKS)
    assert run(second, "kept", *start).to_json_dict() == original
    assert run(second, "fitted", *start, "--new-statistics").to_json_dict() != original
    alone = [
        "--steps-after-success",
        "all",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "alone"),
        "--new-statistics",
    ]
    assert main(["policy", *second, *common, *alone]) == 1
    assert "--new-statistics needs --from" in capsys.readouterr().err


def test_a_checkpoint_lends_its_codec_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_noise(tmp_path / "data", {3: 20, 24: 26}, instruction=TASKS["PushCube"].instruction)
    data = ["--data", str(tmp_path / "data"), "--preset", "par_tiny", "--variants", "1"]
    no_pictures = ["--codec-steps", "2", "--probe-tasks"]
    steps = ["--steps", "1", "--evaluation-episodes", "0", "--steps-after-success", "all"]
    assert main(["all", *data, *no_pictures, *steps, "--out", str(tmp_path / "first")]) == 0
    lender = tmp_path / "first" / "policy" / "checkpoint"
    files = {path.name: path.read_bytes() for path in lender.iterdir()}
    second = [*data, *no_pictures, *steps, "--codec", str(lender), "--out"]
    assert main(["all", *second, str(tmp_path / "second")]) == 0
    lent = load_checkpoint(tmp_path / "second" / "policy" / "checkpoint")
    own = load_checkpoint(lender)
    assert codec_fingerprint(lent.codec) == codec_fingerprint(own.codec)
    assert lent.training["codec"] == own.training["codec"]
    # before a codec of its own is trained
    assert main(["all", *data, *no_pictures, *steps, "--out", str(tmp_path / "second")]) == 1
    assert "second holds a policy whose codec is not in" in capsys.readouterr().err
    assert main(["latents", *data, "--codec", str(lender)]) == 1
    assert "is a checkpoint, to which nothing is added, and latents would be" in (
        capsys.readouterr().err
    )
    assert {path.name: path.read_bytes() for path in lender.iterdir()} == files
    other = [*data, "--codec", str(lender), "--latents", str(tmp_path / "l"), "--preset"]
    assert main(["latents", *other, "par_small"]) == 1
    assert "has other numbers than par_small's" in capsys.readouterr().err


def test_data_of_another_rate_is_refused(tmp_path: Path) -> None:
    record_noise(tmp_path / "data", {3: 20}, instruction=TASKS["PushCube"].instruction)
    data = DemonstrationSet(tmp_path / "data")
    require_rate(data, preset("par_tiny"))
    slower = dataclasses.replace(preset("par_tiny"), step_s=0.1)
    with pytest.raises(ValueError, match=r"has steps of 0\.05 s and par_tiny acts every 0\.1 s"):
        require_rate(data, slower)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_goes_from_demonstrations_to_a_judged_checkpoint(tmp_path: Path) -> None:
    """Two recorded pushes of 20 and 26 steps at 32x32 pixels, par_tiny, 3 steps of each stage."""
    data, out = tmp_path / "PushCube", tmp_path / "run"
    record_noise(data, {3: 20, 24: 26}, instruction=TASKS["PushCube"].instruction)
    arguments = [
        *["all", "--data", str(data), "--out", str(out), "--preset", "par_tiny"],
        *["--codec-steps", "3", "--probe-steps", "3", "--num-reset-pictures", "6", "--steps", "3"],
        *["--frame-patch", "2", "--frame-stem", "8"],
        *["--probe-tasks", "PushCube", "--evaluation-episodes", "1", "--variants", "2"],
    ]
    assert main(arguments) == 0
    report = json.loads((out / "codec" / "probe.json").read_text())
    assert [result["num_tokens"] for result in report["results"]] == [None, 4]
    checkpoint = load_checkpoint(out / "policy" / "checkpoint")
    assert checkpoint.training["step"] == 3
    judged = json.loads((out / "policy/selection/step_000003/PushCube.json").read_text())
    assert [episode["seed"] for episode in judged["episodes"]] == [FIRST_SELECTION_SEED]
    # Nothing is left to do: a second call changes nothing.
    before = (out / "policy" / "checkpoint" / "manifest.json").read_text()
    assert main(arguments) == 0
    assert (out / "policy" / "checkpoint" / "manifest.json").read_text() == before


def test_a_command_leaves_denormal_numbers_as_they_were() -> None:
    """Half of the smallest normal double is a denormal number; flushed it is 0."""
    with pytest.raises(SystemExit):
        main(["codec", "--help"])
    assert np.float64(np.finfo(np.float64).tiny) / 2 > 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "--steps must be above 0, got 0."),
        (["--hours", "-1"], "--hours must be above 0, got -1."),
        (["--steps", "1", "--learning-rate", "-0.1"], "--learning-rate must be above 0, got -0.1."),
    ],
)
def test_a_run_of_no_length_is_refused(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["policy", "--data", "d", "--codec", "c", "--out", "o", *options])
    assert exit_info.value.code == 2
    assert sentence in capsys.readouterr().err
