# SPDX-License-Identifier: Apache-2.0
"""Every command of docs/how_to/fine_tune_the_full_size.md, from a NOVA folder of full width (2 + 2
blocks, random weights): two recorded demonstrations with pictures of 64 x 64 pixels, 4 slots, 4
training steps; by one process, by two of torchrun, one of which is killed, and stopped by SIGTERM,
and by two with sharded weights."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from par_model.checkpoint import load_checkpoint
from par_model.training.training_state import load_state
from tests.model.nova_folder import write_full_width
from tests.training.test_many_processes import finish, rank_of, start, wait_for_state
from tests.training.test_many_processes import run as run_within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sim,
    pytest.mark.processes,
    pytest.mark.timeout(3600),
]

# Of one command; an idle machine needs minutes.
LIMIT_S = 1200
SMALL_RUN = ["--steps", "4", "--save-every", "2", "--slots-per-batch", "8", "--log-every", "1"]
SMALL_RUN += ["--variants", "1"]


def run(words: list[str]) -> str:
    return run_within(words, LIMIT_S)


def module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"par_model.{name}", *words]


def together(*words: str) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # A step of a busy machine may take longer than torchrun's 30 s.
    torchrun += ["--nproc-per-node", "2", "--shutdown-timeout", "300"]
    return [*torchrun, "-m", "par_model.train", "policy", *words]


def finished_steps(out: Path) -> list[int]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "training"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PushCube/ (two demonstrations, one held out) and start/."""
    path = tmp_path_factory.mktemp("full_width")
    nova = write_full_width(path / "NOVA", (64, 64))
    run(module("convert_nova", str(nova), "--num-slots", "4", "--out", str(path / "start")))
    words = ["--task", "PushCube", "--num-demos", "3", "--first-seed", "23", "--image-size", "64"]
    run(module("collect", *words, "--out", str(path / "PushCube")))
    run(module("train", "latents", *common(path), "--variants", "1"))
    return path


def common(path: Path) -> list[str]:
    words = ["--finetune", str(path / "start"), "--data", str(path / "PushCube")]
    return [*words, "--latents", str(path / "latents")]


def test_one_process(folder: Path) -> None:
    out = str(folder / "run")
    plan = ["--steps", "20000", "--plan", "--memory", "80"]
    printed = run(module("train", "policy", *common(folder), "--out", out, *plan))
    assert "effective batch: 256 slots" in printed
    run(module("train", "all", *common(folder), "--out", out, *SMALL_RUN,
               "--evaluation-episodes", "1"))  # fmt: skip
    checkpoint, result = folder / "run" / "policy" / "checkpoint", folder / "result.json"
    run(module("evaluate", "--checkpoint", str(checkpoint), "--task", "PushCube",
               "--episodes", "1", "--max-steps", "40", "--json", str(result)))  # fmt: skip
    assert json.loads(result.read_text())["task"] == "PushCube"


@pytest.mark.parametrize("more", [[], ["--sharding", "fsdp2"]], ids=["whole", "sharded"])
def test_two_processes_killed_and_stopped(folder: Path, more: list[str]) -> None:
    out = folder / "_".join(["two", *more])
    small = [*SMALL_RUN, "--micro-slots", "4", "--evaluation-episodes", "0"]
    words = together(*common(folder), "--out", str(out), *small, *more)
    process = start(words)
    wait_for_state(out, process, LIMIT_S)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    code, output = finish(process, LIMIT_S)
    assert code != 0
    assert "The same command goes on from the last saved step" in output

    longer = [*words, "--steps", "12"]
    state, log = load_state(out), out / "log.jsonl"
    assert state is not None
    killed = log.stat().st_ino
    process = start(longer)
    # It writes the log anew, without the steps that it does again.
    while log.stat().st_ino == killed or finished_steps(out)[-1] == state.values["step"]:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process, LIMIT_S)
    state = load_state(out)
    assert code != 0, output
    assert state is not None
    assert state.values["step"] == finished_steps(out)[-1] < 12

    run(longer)
    assert finished_steps(out) == list(range(1, 13))
    assert load_checkpoint(out / "checkpoint").config.transformer.width == 1024
