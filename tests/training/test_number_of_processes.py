# SPDX-License-Identifier: Apache-2.0
"""A run that is killed and goes on with another number of processes, sharded or not (gloo): the
losses of its 12 steps are one process's within 1e-5, so every sample is seen once.

par_tiny in micro-batches of 6 slots, both side tasks; killed after step 6, where the state was
saved.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from par_model.checkpoint import load_checkpoint
from par_model.training.batch_loader import BatchLoader, Division
from par_model.training.policy_training import PolicyTrainer
from par_model.training.processes import Execution
from par_model.training.training_state import load_state
from tests.training.test_policy_training import WITH_BOTH, make_parts

NUM_STEPS, KILLED_AFTER = 12, 6
CONFIG = replace(
    WITH_BOTH, num_steps=NUM_STEPS, save_every=KILLED_AFTER, validate_every=NUM_STEPS, log_every=1
)


@dataclass(frozen=True)
class Part:
    """Some of a run's steps."""

    num_processes: int
    sharded: bool = False
    stop_at: int | None = None


def train_as(rank: int, part: Part, folder: Path) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    if part.num_processes > 1:
        meeting = f"file://{folder / f'meet_{part.stop_at}'}"
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=part.num_processes
        )
    trainer = PolicyTrainer(
        make_parts(folder / f"parts_{rank}"),
        CONFIG,
        folder / "run",
        torch.device("cpu"),
        execution=Execution(micro_slots=6, sharded=part.sharded),
    )
    if part.sharded:
        own = sum(p.to_local().numel() for p in trainer.model.parameters())
        whole = sum(p.numel() for p in trainer.model.parameters())
        assert own < 1.1 * whole / part.num_processes
    trainer.run(lambda progress: None, part.stop_at)
    if part.num_processes > 1:
        distributed.destroy_process_group()


def train(folder: Path, *parts: Part) -> list[float]:
    """All losses of the steps."""
    for part in parts:
        if part.num_processes == 1:
            train_as(0, part, folder)
        else:
            multiprocessing.spawn(train_as, (part, folder), part.num_processes)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "training"]
    assert [line["step"] for line in steps] == list(range(1, NUM_STEPS + 1))
    # The scene's loss is in units of 100 mm.
    units = {"frame_loss": 1.0, "action_loss": 1.0, "scene_mm": 100.0, "chunk_loss": 1.0}
    return [line[name] / unit for line in steps for name, unit in units.items()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("one")
    return folder / "run", train(folder, Part(1))


def test_every_micro_batch_has_gradients_of_the_same_weights(tmp_path: Path) -> None:
    """Also one without frames or actions that count: sharded processes gather together."""
    trainer = PolicyTrainer(make_parts(tmp_path), CONFIG, tmp_path / "run", torch.device("cpu"))
    batch = BatchLoader(trainer.sampler, Division(6), 0, False).next().micro[0].batch
    empty = replace(
        batch,
        frame_valid_BN=torch.zeros_like(batch.frame_valid_BN),
        action_valid_BNL=torch.zeros_like(batch.action_valid_BNL),
    ).with_rows()
    used = []
    for one in (batch, empty):
        trainer.weights.optimizer.zero_grad(set_to_none=True)
        loss = trainer.loss(one, None, 1.0, torch.Generator().manual_seed(0))
        loss.total.backward()
        used.append({n for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert used[0] == used[1]
    assert loss.parts[:2].tolist() == [0.0, 0.0]


@pytest.mark.processes
@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Part(1), Part(2, sharded=True)),
        (Part(2), Part(3)),
        (Part(2, sharded=True), Part(3, sharded=True)),
        (Part(3, sharded=True), Part(1)),
    ],
    ids=["1 2 sharded", "2 3", "2 sharded 3 sharded", "3 sharded 1"],
)
def test_the_losses_are_those_of_one_process(
    tmp_path: Path, one: tuple[Path, list[float]], before: Part, after: Part
) -> None:
    alone, expected = one
    curve = train(tmp_path, replace(before, stop_at=KILLED_AFTER), after)
    assert curve == pytest.approx(expected, abs=1e-5)
    own, of_one = load_state(tmp_path / "run"), load_state(alone)
    assert own is not None
    assert of_one is not None
    assert own.values["place"] == of_one.values["place"]
    assert own.tensors.keys() == of_one.tensors.keys()
    for name, value in of_one.tensors.items():
        assert own.tensors[name].shape == value.shape, name
        if name.startswith(("model.", "average.", "side.")):
            assert torch.allclose(own.tensors[name], value, atol=1e-4), name
    averaged = load_checkpoint(tmp_path / "run" / "checkpoint").model.state_dict()
    for name, value in averaged.items():
        assert torch.equal(value, own.tensors[f"average.{name}"]), name
