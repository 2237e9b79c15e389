# SPDX-License-Identifier: Apache-2.0
"""The estimate of a training's memory against the tensors that its operators keep; how a step is
divided into micro-batches.

The cut of par_0_6b has 2 + 2 blocks of the full width at 256 x 256 pixels and 4 slots.
"""

import dataclasses

import pytest
import torch

from par_model.model import PARModel
from par_model.presets import preset
from par_model.train import main as train
from par_model.training import memory_plan
from par_model.training.finetuning import FinetuningConfig
from par_model.training.memory_plan import GIB, HEADROOM, plan_memory
from par_model.training.side_tasks import SideTasks
from par_model.training.training_presets import FULL_SIZE, SMALL
from par_model.training.training_step import StepLoss

FULL = preset("par_0_6b_p256")
CUT = dataclasses.replace(
    FULL,
    num_slots=4,
    transformer=dataclasses.replace(FULL.transformer, depth=2),
    image_encoder=dataclasses.replace(FULL.image_encoder, depth=2),
)
TINY = preset("par_tiny")
TUNING = FinetuningConfig()


def test_the_parts_of_a_cut_at_full_width() -> None:
    plan = plan_memory(CUT, FULL_SIZE, TUNING, 80 * GIB)
    parameters = 4 * plan.num_parameters
    assert plan.weights == pytest.approx(parameters, rel=0.05)
    # The instruction's norm is frozen.
    assert 0.99 * parameters < plan.gradients <= parameters
    assert plan.optimizer == 2 * plan.gradients
    assert plan.micro_slots == plan.slots_per_batch == 256
    assert "effective batch: 256 slots = 1 micro-batches of up to 256 slots" in plan.report()


def saved_bytes(num_clips: int) -> int:
    """What autograd keeps of a forward pass of par_tiny, parameters left out."""
    model = PARModel(TINY)
    side = SideTasks(TINY.transformer.width, 0, (TINY.num_actions, TINY.action_width))
    loss = StepLoss(model, side, SMALL, None)
    own = {p.untyped_storage().data_ptr() for p in [*loss.parameters(), *loss.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = memory_plan.full_clips(TINY, num_clips, 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = loss(batch, None, 1.0, torch.Generator(), mask_ratio=1.0).total
    assert total.requires_grad
    return sum(kept.values())


def test_activations_are_what_autograd_keeps_and_a_little_more() -> None:
    plan = plan_memory(TINY, SMALL, None, 80 * GIB)
    per_slot = (saved_bytes(4) - saved_bytes(2)) / (2 * TINY.num_slots)
    assert 1.0 < plan.activations_per_slot / per_slot < 1.5


def test_steps_are_divided_evenly_into_what_fits() -> None:
    whole = plan_memory(TINY, SMALL, None, 80 * GIB)
    assert whole.micro_slots == 144
    for fraction in (0.9, 0.5, 0.3):
        memory = int(whole.total(int(144 * fraction)) / HEADROOM) + 1
        plan = plan_memory(TINY, SMALL, None, memory)
        assert plan.total(plan.micro_slots) <= HEADROOM * memory
        assert plan.micro_slots % TINY.num_slots == 0
        assert plan.accumulation == -(-144 // plan.micro_slots)
        smaller = plan.micro_slots - TINY.num_slots
        assert smaller == 0 or -(-144 // smaller) > plan.accumulation
    shared = plan_memory(TINY, SMALL, None, 80 * GIB, num_processes=2)
    assert (shared.micro_slots, shared.accumulation) == (72, 1)


def test_sharding_divides_all_but_what_is_gathered() -> None:
    whole = plan_memory(CUT, FULL_SIZE, TUNING, 80 * GIB, num_processes=4)
    plan = plan_memory(CUT, FULL_SIZE, TUNING, 80 * GIB, num_processes=4, sharded=True)
    for name in ("weights", "average", "gradients", "optimizer"):
        assert getattr(plan, name) == pytest.approx(getattr(whole, name) / 4, abs=8)
    # Widest: a block of the image encoder (12 width^2) and a frame decoder's (8 of its width).
    block = 4 * 12 * 1024**2
    assert 4 * block < plan.gathered < 0.75 * 4 * whole.num_parameters * 3
    assert plan.fixed < whole.fixed
    assert "sharded over 4 processes; of each process:" in plan.report()
    assert "gathered at a time" in plan.report()
    assert "gathered" not in whole.report()


@pytest.mark.long
def test_what_fits_only_sharded_is_said() -> None:
    """par_0_6b's 663 M parameters: float32 weights, average, gradients, moments are 12 GiB."""
    with pytest.raises(ValueError, match="--sharding fsdp2 divides them among the processes"):
        plan_memory(FULL, FULL_SIZE, TUNING, 14 * GIB, num_processes=8)
    plan = plan_memory(FULL, FULL_SIZE, TUNING, 14 * GIB, num_processes=8, sharded=True)
    assert plan.fixed < 5 * GIB


def test_what_cannot_fit_is_refused_with_numbers() -> None:
    with pytest.raises(ValueError, match=r"for one clip of 4 slots are \d+\.\d GiB, and 90% of 1"):
        plan_memory(CUT, FULL_SIZE, TUNING, GIB)


def test_schedules_stay_real_after_a_plan() -> None:
    """They are kept between calls, and a plan runs on tensors without data."""
    from par_model.diffusion import _alphas

    _alphas.cache_clear()
    plan_memory(TINY, SMALL, None, 80 * GIB)
    assert float(_alphas(TINY.action_diffusion, torch.device("cpu"))[0]) > 0.99


def test_the_command_plans_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["all", "--preset", "par_tiny", "--data", "nowhere", "--out", "nowhere", "--steps", "1"]
    assert train([*words, "--plan", "--memory", "1"]) == 0
    assert "effective batch: 144 slots" in capsys.readouterr().out
    sharded = ["--sharding", "fsdp2", "--processes", "2"]
    assert train([*words, "--plan", "--memory", "1", *sharded]) == 0
    assert "sharded over 2 processes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train([*words, *sharded])
    assert "--processes is for --plan" in capsys.readouterr().err
    assert train([*words, "--plan", "--memory", "0.001"]) == 1
    message = capsys.readouterr().err
    assert "training does not fit" in message
    assert message.strip().count("\n") == 0
