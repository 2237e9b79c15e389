# SPDX-License-Identifier: Apache-2.0
"""What `--from` takes over from a checkpoint, and what it refuses.

par_tiny, two recorded episodes of noise; the checkpoint comes from one training step and is then
released with another memory.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.config import SamplingConfig
from par_model.instruction import InstructionTable, code_table
from par_model.release import main as release
from par_model.simulation.tasks import TASKS
from par_model.train import main
from par_model.training.start_weights import grown_table
from tests.training.fixtures import record_noise

SENTENCE = TASKS["PushCube"].instruction
ONE_STEP = ["--preset", "par_tiny", "--variants", "1", "--steps", "1", "--evaluation-episodes", "0"]
ONE_STEP += ["--steps-after-success", "all"]
NO_PICTURES = ["--codec-steps", "2", "--probe-tasks"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, first/ (a run with codec and latents), start/ (its checkpoint, which remembers 2)."""
    folder = tmp_path_factory.mktemp("start")
    record_noise(folder / "data", {3: 20, 24: 26}, instruction=SENTENCE)
    words = ["--data", str(folder / "data"), "--out", str(folder / "first")]
    assert main(["all", *words, *ONE_STEP, *NO_PICTURES]) == 0
    start = [
        "--checkpoint",
        str(folder / "first/policy/checkpoint"),
        "--out",
        str(folder / "start"),
    ]
    assert release([*start, "--sampling", "ddim:2", "--context-slots", "2"]) == 0
    return folder


def policy(made: Path, out: Path, *more: str, data: Path | None = None) -> int:
    words = ["--data", str(data or made / "data"), "--codec", str(made / "first/codec")]
    words += ["--latents", str(made / "first/latents"), "--out", str(out)]
    return main(["policy", *words, *ONE_STEP, *more])


def sampling_of(run: Path) -> SamplingConfig:
    return load_checkpoint(run / "checkpoint").config.sampling


def test_sampling_and_memory_are_the_checkpoints(made: Path, tmp_path: Path) -> None:
    """A selection, and an on-policy round, then use what is to be released."""
    assert policy(made, tmp_path / "run", "--from", str(made / "start")) == 0
    kept = sampling_of(tmp_path / "run")
    assert (kept.action_num_steps, kept.context_slots) == (2, 2)
    assert policy(made, tmp_path / "new") == 0
    assert sampling_of(tmp_path / "new") != kept
    variant = ["--from", str(made / "start"), "--ablation", "memoryless"]
    for name, more in (("variant", []), ("told", ["--context-slots", "4"])):
        assert policy(made, tmp_path / name, *variant, *more) == 0
        expected = dataclasses.replace(kept, context_slots=1)
        assert sampling_of(tmp_path / name) == expected
    assert policy(made, tmp_path / "spaced", "--sampling", "ddim:3:leading") == 0
    spaced = ["--from", str(tmp_path / "spaced" / "checkpoint")]
    assert policy(made, tmp_path / "next", *spaced) == 0
    config = load_checkpoint(tmp_path / "next" / "checkpoint").config
    assert (config.sampling.action_num_steps, config.action_diffusion.spacing) == (3, "leading")
    other = ["--from", str(made / "start"), "--sampling", "ddim:3", "--context-slots", "4"]
    assert policy(made, tmp_path / "other", *other) == 0
    asked = sampling_of(tmp_path / "other")
    assert (asked.action_num_steps, asked.context_slots) == (3, 4)


def test_statistics_of_an_attempt_that_never_began_are_not_taken(
    made: Path, tmp_path: Path
) -> None:
    """A run that was stopped before its first state leaves statistics.json behind."""
    run, start = tmp_path / "run", made / "start"
    run.mkdir()
    text = json.loads((start / "statistics.json").read_text())
    text["action_high"] = [[2 * number for number in row] for row in text["action_high"]]
    (run / "statistics.json").write_text(json.dumps(text))
    assert policy(made, run, "--from", str(start)) == 0
    expected = load_checkpoint(start).statistics.to_json_dict()
    assert load_checkpoint(run / "checkpoint").statistics.to_json_dict() == expected


def test_another_arm_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    settings = data / ".staging" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"arm": "mine"}))
    words = ["--data", str(data), "--codec", str(made / "first/codec"), "--preset", "par_tiny"]
    latents = ["--variants", "1", "--latents", str(made / "first/latents")]
    assert main(["latents", *words, *latents]) == 0
    start = ["--from", str(made / "start")]
    assert policy(made, tmp_path / "run", *start, data=data) == 1
    sentence = capsys.readouterr().err
    assert "is of the arm 'panda'" in sentence
    assert "give --new-statistics with --from" in sentence
    assert policy(made, tmp_path / "run", *start, "--new-statistics", data=data) == 0


def test_another_codec_is_refused_and_the_checkpoints_is_the_default(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, start = ["--data", str(made / "data")], ["--from", str(made / "start")]
    other = [*data, "--out", str(tmp_path / "codec"), "--preset", "par_tiny", "--seed", "1"]
    assert main(["codec", *other, *NO_PICTURES]) == 0
    words = [*data, *ONE_STEP, *start, "--out", str(tmp_path / "run")]
    assert main(["latents", *data, "--codec", str(tmp_path / "codec"), *ONE_STEP[:4]]) == 0
    assert main(["policy", *words, "--codec", str(tmp_path / "codec")]) == 1
    assert "has another codec than --codec" in capsys.readouterr().err
    assert main(["all", *words, *NO_PICTURES]) == 0
    ours = load_checkpoint(tmp_path / "run/policy/checkpoint").codec.state_dict()
    theirs = load_checkpoint(made / "start").codec.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_instructions_are_the_checkpoints_and_the_datas_own() -> None:
    known = code_table(("push", "pick"), 4, 8)
    rounded = InstructionTable(known.texts, known.embeddings_ITC.bfloat16().float())
    own = code_table(("push", "pull"), 4, 8)
    table = grown_table(own, ("pull",), Path("start"), rounded)
    assert table.texts == ("push", "pick", "pull")
    assert torch.equal(table.embedding("push"), rounded.embedding("push"))
    assert torch.equal(table.embedding("pull"), own.embedding("pull"))


def test_a_text_encoders_instructions_are_kept_and_not_mixed_with_codes(made: Path) -> None:
    encoded = InstructionTable(("push", "pick"), torch.randn(2, 4, 8))
    # The paper's sentences are in every preset's table, whatever the data says.
    own = code_table(("push", "pull"), 4, 8)
    assert grown_table(own, ("push",), Path("start"), encoded) is encoded
    with pytest.raises(ValueError, match="'pull' of the data is unknown to start"):
        grown_table(own, ("pull",), Path("start"), encoded)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shares", "PushCube=nan"], "'PushCube=nan' is not a number of 0 or more"),
        (["--shares", "PushCube=-1"], "is not a number of 0 or more"),
        (["--shares", "PushCube=0"], "gives every task 0"),
        (["--on-policy-share", "1.5"], "--on-policy-share must be in 0 to 1, got 1.5"),
        (["--late-start-share", "-0.1"], "--late-start-share must be in 0 to 1"),
    ],
)
def test_shares_are_shares(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    try:
        code = policy(made, tmp_path / "run", *words)
    except SystemExit as error:
        code = int(error.code or 0)
    assert code
    assert sentence in capsys.readouterr().err


def test_a_plan_of_the_frames_stage_trains_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(made / "data"), "--codec", str(made / "first/codec"), "--plan"]
    words += ["--out", str(tmp_path / "run"), "--scenes", str(tmp_path), *ONE_STEP[:6]]
    assert main(["frames", *words]) == 0
    assert "GiB" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
