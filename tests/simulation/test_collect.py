# SPDX-License-Identifier: Apache-2.0
"""`collect` as a user meets it: refusals, a kill in the middle, equal data sets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from par_model.checkpoint import save_checkpoint
from par_model.collect import CollectSettings, main, wanted_seeds
from par_model.frame_codec import FrameCodec
from par_model.instruction import code_table
from par_model.model import PARModel
from par_model.model_card import collect_command as command_of
from par_model.normalization import fit_statistics
from par_model.presets import preset
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import task
from par_model.training.lerobot_dataset import open_episodes


def test_wanted_seeds_are_the_first_successes_whatever_else_is_known():
    settings = CollectSettings(task="PushCube", num_demos=3, first_seed=5)

    assert wanted_seeds(settings, {5: True, 6: True, 8: True, 9: True}) is None
    assert wanted_seeds(settings, {5: True, 6: True, 7: False, 8: True, 9: True}) == [5, 6, 8]
    assert wanted_seeds(settings, {}) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "PushTube", "--out", "{out}"], "task 'PushTube' is unknown"),
        (["--task", "PushCube", "--out", "{out}", "--num-demos", "0"], "must be at least 1"),
        (
            ["--task", "PushCube", "--out", "{out}", "--first-seed", "9999", "--num-demos", "2"],
            "seeds from 10000 on are kept for model selection",
        ),
        (["--task", "PushCube", "--out", "{out}", "--noise-share", "1.5"], "must lie in 0 to 1"),
        (["--show", "{out}"], "holds no data set"),
    ],
)
def test_refusals_are_one_sentence(arguments, sentence, tmp_path, capsys):
    out = tmp_path / "data"
    assert main([argument.format(out=out) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("name", ["data", "videos", "README.md"])
def test_a_folder_with_files_of_other_origin_stays_as_it_is(name, tmp_path, capsys):
    own = tmp_path / name
    if own.suffix:
        own.write_text("mine")
    else:
        own.mkdir()
        (own / "thesis.txt").write_text("mine")
    assert main(["--task", "PushCube", "--num-demos", "1", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds {name}, which this command did not record and would replace; "
        "choose a new folder.\n"
    )
    assert [file.read_text() for file in (own, *own.rglob("*")) if file.is_file()] == ["mine"]


def collect_command(out: Path, num_demos: int, num_workers: int) -> list[str]:
    return [
        *(sys.executable, "-m", "par_model.collect", "--task", "PushCube", "--out", str(out)),
        *("--num-demos", str(num_demos), "--num-workers", str(num_workers)),
    ]


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and ".staging" not in file.parts
    }


def wait_for(condition, process: subprocess.Popen, timeout_s: float = 240.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "collect ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.sim
@pytest.mark.slow
def test_a_killed_and_resumed_recording_equals_an_undisturbed_one(tmp_path):
    """5 demonstrations: killed (-9) after the second with 2 workers, then resumed with 1."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(collect_command(killed, 5, 2), start_new_session=True)
    wait_for(lambda: len(list(killed.glob(".staging/seed_??????"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(collect_command(killed, 5, 1), check=True, timeout=280)
    subprocess.run(collect_command(whole, 5, 2), check=True, timeout=280)

    assert contents(killed) == contents(whole)
    source = open_episodes(whole)
    assert len(source) == 5
    assert [source.read(index, with_frames=False).seed for index in range(5)] == [0, 1, 2, 3, 4]

    changed = subprocess.run(
        [*collect_command(whole, 5, 1), "--noise-share", "0.9"], capture_output=True, text=True
    )
    assert changed.returncode == 1
    assert "recording with other settings (noise_share 0.35" in changed.stderr
    _workers_are_gone(process.pid)


def _workers_are_gone(session: int) -> None:
    """A killed parent's workers end by themselves."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("workers of the killed process are still running")


@pytest.mark.sim
def test_a_policy_acts_and_the_expert_labels(tmp_path):
    """par_tiny knows nothing: it never grasps, and where its episode begins on the way the cube was
    often knocked or the fingers closed on nothing. 2 episodes, 24 steps each, pictures of 32."""
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "data"
    instruction = task("PickCube").instruction
    save_checkpoint(checkpoint, **_tiny_policy_parts(instruction))
    command = [
        *("--task", "PickCube", "--on-policy", str(checkpoint), "--out", str(out)),
        *("--num-demos", "2", "--first-seed", "7000", "--max-steps", "24"),
        *("--disturbed-starts", "1", "--image-size", "32", "--num-workers", "1"),
    ]
    assert main(command) == 0
    source = open_episodes(out)
    assert len(source) == 2
    for index in range(2):
        episode = source.read(index)
        assert episode.frames.shape == (24, 32, 32, 3)
        assert episode.teaches.any()
        assert not episode.teaches[np.arange(24) % 8 != 0].any()
        assert np.isin(episode.actions[:, 7].round(3), [0.04, -0.01]).all()
        assert np.abs(episode.executed_actions - episode.actions).max() > 0.01
    before = contents(out)
    assert main(command) == 0
    assert contents(out) == before


def test_a_task_without_an_expert_has_no_on_policy_data(tmp_path, capsys):
    words = ["--task", "PullCube", "--on-policy", str(tmp_path), "--out", str(tmp_path / "data")]
    assert main(words) == 1
    assert "PullCube has no expert" in capsys.readouterr().err


@pytest.mark.sim
def test_an_expert_acts_and_labels_each_chunk(tmp_path):
    """3 undisturbed and disturbed episodes; seed 1000 + i decides which. Of each chunk of 8 one
    picture was drawn."""
    out = tmp_path / "data"
    command = [
        *("--task", "PushCube", "--expert", "--out", str(out), "--num-demos", "3"),
        *("--first-seed", "1000", "--noise-share", "0.5", "--image-size", "32"),
        *("--num-workers", "1"),
    ]
    assert main(command) == 0
    source = open_episodes(out)
    assert len(source) == 3
    disturbed = []
    for index in range(3):
        episode = source.read(index)
        steps = np.arange(len(episode.actions))
        assert episode.success[-1]
        assert (episode.teaches == (steps % 8 == 0)).all()
        first_of_chunk = episode.frames[steps // 8 * 8]
        assert (episode.frames == first_of_chunk).all()
        assert (episode.frames[8] != episode.frames[0]).any()
        disturbed.append(bool(np.abs(episode.executed_actions - episode.actions).max() > 1e-3))
    assert set(disturbed) == {True, False}
    assert "demonstrations by the task's expert" in (out / "README.md").read_text()
    recording = json.loads((out / "meta" / "recording.json").read_text())
    words = command_of(recording | {"num_episodes": 3}).split()
    assert "--expert" in words
    assert "--hold-steps" not in words
    before = contents(out)
    assert main(command) == 0
    assert contents(out) == before


def test_an_expert_is_refused_where_there_is_none_and_beside_a_policy(tmp_path, capsys):
    out = ["--out", str(tmp_path / "data"), "--expert"]
    assert main(["--task", "PullCube", *out]) == 1
    assert "PullCube has no expert" in capsys.readouterr().err
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(checkpoint, **_tiny_policy_parts(task("PickCube").instruction))
    assert main(["--task", "PickCube", "--on-policy", str(checkpoint), *out]) == 1
    assert "give one of the two" in capsys.readouterr().err


def _tiny_policy_parts(instruction):
    config = preset("par_tiny")
    rng = np.random.default_rng(0)
    joints = np.array([0.0, 0.4, 0.0, -1.9, 0.0, 2.3, 0.8, 0.02])
    measured = joints + 0.05 * rng.normal(size=(50, 8))
    return {
        "config": config,
        "model": PARModel(config),
        "codec": FrameCodec(config.codec),
        "statistics": fit_statistics(
            [(measured + 0.01, measured)],
            arm="panda",
            joint_names=PANDA.joint_names,
            action_frame=config.action_frame,
            num_actions=config.num_actions,
        ),
        "instructions": code_table((instruction,), config.num_text_tokens, config.text_width),
        "card": "",
        "training": {},
    }
