# SPDX-License-Identifier: Apache-2.0
"""`torchrun ... -m par_model.train policy` on CPUs (gloo), from a NOVA folder of width 64: 12 steps
of 2 and of 3 processes are those of one, also with weights sharded (FSDP2), and a killed or stopped
run goes on, also with another number of processes. A test takes 15 to 40 s on two idle cores."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.convert_nova import main as convert
from par_model.nova_config import _NUM_HEADS
from par_model.simulation.tasks import TASKS
from par_model.train import main as train
from par_model.training.training_state import load_state
from tests.model.nova_folder import (
    SMALL,
    nova_config,
    random_tensors,
    transformer_shapes,
    write_folder,
    write_text_encoder,
)
from tests.training.fixtures import record_noise

pytestmark = [pytest.mark.processes, pytest.mark.long, pytest.mark.timeout(1200)]

SIZE = dataclasses.replace(SMALL, image_size=(32, 32))
NUM_STEPS = 12
LIMIT_S = 500
ALONE = [sys.executable, "-m", "par_model.train"]
SHARDED = ["--sharding", "fsdp2"]


def together(count: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(count), "-m", "par_model.train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """start/ (the checkpoint), PushCube/ (two episodes) and their latents/."""
    path = tmp_path_factory.mktemp("processes")
    _NUM_HEADS[SIZE.width] = 4
    tensors = random_tensors(transformer_shapes(SIZE))
    write_text_encoder(write_folder(path / "nova", nova_config(SIZE), tensors))
    record_noise(
        path / "PushCube", {3: 20, 24: 26, 5: 30}, instruction=TASKS["PushCube"].instruction
    )
    assert convert([str(path / "nova"), "--out", str(path / "start"), "--num-slots", "4"]) == 0
    assert train(["latents", *common(path)]) == 0
    yield path
    del _NUM_HEADS[SIZE.width]


def common(path: Path) -> list[str]:
    words = ["--finetune", str(path / "start"), "--data", str(path / "PushCube")]
    return [*words, "--latents", str(path / "latents"), "--variants", "1", "--threads", "1"]


def command(program: list[str], path: Path, out: str, *more: str) -> list[str]:
    words = ["--steps", str(NUM_STEPS), "--slots-per-batch", "16", "--micro-slots", "4"]
    words += ["--evaluation-episodes", "0", "--steps-after-success", "all", "--save-every", "5"]
    return [*program, "policy", *common(path), "--out", str(path / out), *words, *more]


def start(words: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], limit_s: float = LIMIT_S) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def run(words: list[str], limit_s: float = LIMIT_S) -> str:
    code, output = finish(start(words), limit_s)
    assert code == 0, output
    return output


def weights(path: Path, out: str) -> dict[str, torch.Tensor]:
    state = load_state(path / out)
    assert state is not None
    return {n: v for n, v in state.tensors.items() if n.startswith("model.")}


def wait_for_state(path: Path, process: subprocess.Popen[str], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not (path / "state.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, torch.Tensor]:
    """One process's weights after all steps."""
    run(command(ALONE, folder, "one", "--log-every", "1"))
    return weights(folder, "one")


def losses(path: Path, out: str) -> list[float]:
    lines = [json.loads(line) for line in (path / out / "log.jsonl").read_text().splitlines()]
    return [
        one[name]
        for one in lines
        if one["kind"] == "training"
        for name in ("frame_loss", "action_loss")
    ]


def assert_equals_one(path: Path, out: str, one: dict[str, torch.Tensor]) -> None:
    """Losses of all steps within 1e-5, final weights within 1e-4 of one process's."""
    curve, expected = losses(path, out), losses(path, "one")
    assert len(curve) == len(expected) == 2 * NUM_STEPS
    assert curve == pytest.approx(expected, abs=1e-5)
    found = weights(path, out)
    assert found.keys() == one.keys()
    assert max(float((found[name] - value).abs().max()) for name, value in one.items()) < 1e-4


@pytest.mark.parametrize("lora", [[], ["--lora-rank", "2"]], ids=["all weights", "lora"])
def test_sharded_processes_train_like_one(
    folder: Path, one: dict[str, torch.Tensor], lora: list[str]
) -> None:
    """Checkpoint and state are whole, as one process writes them. Each process holds about half."""
    alone, out = ("alone_lora", "sharded_lora") if lora else ("one", "sharded")
    if lora:
        run(command(ALONE, folder, alone, "--log-every", "1", *lora))
    run(command(together(2), folder, out, "--log-every", "1", *SHARDED, *lora))
    assert losses(folder, out) == pytest.approx(losses(folder, alone), abs=1e-5)
    states = [load_state(folder / name) for name in (alone, out)]
    assert states[0] is not None
    assert states[1] is not None
    expected, found = states[0].tensors, states[1].tensors
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        bound = 1e-4 if name.startswith(("model", "average", "side")) else 1e-2
        assert found[name].shape == value.shape
        assert float((found[name] - value).abs().max()) < bound, name
    of_alone, of_sharded = (load_checkpoint(folder / n / "checkpoint") for n in (alone, out))
    others = of_sharded.model.state_dict()
    for name, value in of_alone.model.state_dict().items():
        assert float((others[name] - value).abs().max()) < 1e-4, name
    validation = [
        [line for line in (folder / name / "log.jsonl").read_text().splitlines() if "valid" in line]
        for name in (alone, out)
    ]
    assert len(validation[0]) == len(validation[1]) > 0


def test_two_sharded_processes_stop_and_three_go_on(
    folder: Path, one: dict[str, torch.Tensor]
) -> None:
    """SIGTERM to torchrun; other numbers are in test_number_of_processes.py."""
    out, log = "two_to_three", ["--log-every", "1", *SHARDED]
    process = start(command(together(2), folder, out, "--save-every", "1", *log))
    wait_for_state(folder / out, process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    state = load_state(folder / out)
    assert code != 0, output
    assert state is not None
    assert 0 < state.values["step"] < NUM_STEPS
    run(command(together(3), folder, out, *log))
    assert_equals_one(folder, out, one)


def test_sharding_of_one_process_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(command([], folder, "refused", *SHARDED)) != 0
    assert "start the command by torchrun" in capsys.readouterr().err


def test_a_killed_process_ends_the_run_with_a_sentence_and_three_go_on(
    folder: Path, one: dict[str, torch.Tensor]
) -> None:
    log = ["--log-every", "1"]
    process = start(command(together(2), folder, "killed", "--save-every", "1", *log))
    wait_for_state(folder / "killed", process)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    code, output = finish(process)
    assert code != 0
    assert "The same command goes on from the last saved step" in output
    run(command(together(3), folder, "killed", *log))
    assert_equals_one(folder, "killed", one)


def test_other_stages_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchrun starts them."""
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert train(["latents", *common(folder)]) != 0
    assert "torchrun is for the stages `policy`, `frames` and `pictures`" in capsys.readouterr().err


def rank_of(launcher: int, rank: int) -> int:
    """The process of this rank: a child of torchrun."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            own = f"\0RANK={rank}\0" in (entry / "environ").read_text()
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher and own:
            return int(entry.name)
    raise AssertionError(f"rank {rank} does not run")


def test_sigterm_saves_and_the_run_goes_on(folder: Path, one: dict[str, torch.Tensor]) -> None:
    """Of one process, to the bit; of torchrun's above."""
    words = command(ALONE, folder, "stopped", "--save-every", "1")
    process = start(words)
    wait_for_state(folder / "stopped", process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    state = load_state(folder / "stopped")
    assert state is not None
    assert code != 0, output
    assert state.values["step"] < NUM_STEPS
    run(words)
    found = weights(folder, "stopped")
    assert all(torch.equal(found[name], value) for name, value in one.items())
