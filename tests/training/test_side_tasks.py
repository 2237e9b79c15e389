# SPDX-License-Identifier: Apache-2.0
"""The scene's loss counts known numbers of valid slots, in tenths of a metre; the chunk's, valid
actions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.model import Context
from par_model.training.clips import ClipPlan, ClipSampler
from par_model.training.side_tasks import SideTasks, scene_error_mm
from tests.training.fixtures import LONG_CLIPS, MODEL, make_sampler

WIDTH = MODEL.transformer.width


def sampler_of_two(folder: Path) -> ClipSampler:
    """Episode 0 knows six numbers, episode 1 three."""
    sampler = make_sampler(folder, [20, 40], LONG_CLIPS)
    sampler.num_scene = 6
    other = sampler.episodes[1]
    half = dataclasses.replace(other.steps, scene=other.steps.scene[:, :3])
    sampler.episodes[1] = dataclasses.replace(other, steps=half)
    return sampler


def test_a_batch_holds_the_scene_at_each_frame_and_nan_where_unknown(tmp_path: Path) -> None:
    plans = [ClipPlan(0, 4, 2, 0, 0), ClipPlan(1, 0, 3, 0, 0)]
    batch = sampler_of_two(tmp_path).cut(plans, np.random.default_rng(0))
    assert batch.scene_BNP.shape == (2, 3, 6)
    torch.testing.assert_close(batch.scene_BNP[0, :2, 0], torch.tensor([0.08, 0.24]))
    assert not batch.scene_BNP[0, :2].isnan().any()
    assert batch.scene_BNP[0, 2].isnan().all()
    assert batch.scene_BNP[1, :, 3:].isnan().all()


def test_only_known_numbers_of_valid_slots_count(tmp_path: Path) -> None:
    plans = [ClipPlan(0, 4, 2, 0, 0), ClipPlan(1, 0, 3, 0, 0)]
    batch = sampler_of_two(tmp_path).cut(plans, np.random.default_rng(0))
    tasks = SideTasks(WIDTH, 6, None)
    torch.nn.init.zeros_(tasks.scene.fc2.weight)
    torch.nn.init.constant_(tasks.scene.fc2.bias, 1.0)  # it says 0.1 m, whatever it sees
    seen = torch.randn(2, 3, MODEL.num_actions, WIDTH, requires_grad=True)
    losses = tasks.losses(Context(seen, seen), batch)
    known = torch.tensor([0.08, 0.24] * 6 + [0.0, 0.16, 0.32] * 3)
    assert scene_error_mm(losses.scene.item()) == pytest.approx(
        1000 * (known - 0.1).abs().mean().item(), rel=1e-5
    )
    assert losses.chunk.item() == 0.0
    losses.scene.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tasks.parameters())


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_slot_s_context_answers_for_its_own_scene_and_chunk(slot: int, tmp_path: Path) -> None:
    batch = sampler_of_two(tmp_path).cut([ClipPlan(1, 0, 3, 0, 0)], np.random.default_rng(0))
    scene, valid = torch.full_like(batch.scene_BNP, torch.nan), batch.action_valid_BNL.clone()
    scene[:, slot] = batch.scene_BNP[:, slot]
    valid[:, [other for other in range(3) if other != slot]] = False
    tasks = SideTasks(WIDTH, 6, (MODEL.num_actions, MODEL.action_width))
    seen = torch.randn(1, 3, MODEL.num_actions, WIDTH, requires_grad=True)
    context = Context(seen, seen)
    for loss in (
        tasks.losses(context, dataclasses.replace(batch, scene_BNP=scene)).scene,
        tasks.losses(context, dataclasses.replace(batch, action_valid_BNL=valid)).chunk,
    ):
        (gradient,) = torch.autograd.grad(loss, seen, retain_graph=True)
        assert gradient[0].flatten(1).any(dim=1).nonzero().flatten().tolist() == [slot]


def test_nothing_known_gives_zero(tmp_path: Path) -> None:
    batch = sampler_of_two(tmp_path).cut([ClipPlan(0, 0, 1, 0, 0)], np.random.default_rng(0))
    blind = dataclasses.replace(batch, scene_BNP=torch.full_like(batch.scene_BNP, torch.nan))
    seen = torch.randn(1, 1, MODEL.num_actions, WIDTH)
    assert SideTasks(WIDTH, 6, None).losses(Context(seen, seen), blind).scene.item() == 0.0


def test_the_chunk_s_loss_leaves_out_what_is_not_valid(tmp_path: Path) -> None:
    batch = sampler_of_two(tmp_path).cut([ClipPlan(0, 16, 1, 0, 0)], np.random.default_rng(0))
    assert not batch.action_valid_BNL.all()
    chunk = (MODEL.num_actions, MODEL.action_width)
    tasks = SideTasks(WIDTH, 0, chunk)
    torch.nn.init.zeros_(tasks.chunk.fc2.weight)
    torch.nn.init.zeros_(tasks.chunk.fc2.bias)  # it says 0, whatever it sees
    seen = torch.randn(1, 1, MODEL.num_actions, WIDTH)
    error = batch.actions_BNLD[batch.action_valid_BNL].abs()
    expected = torch.where(error < 0.1, error.square() / 0.2, error - 0.05).mean()
    losses = tasks.losses(Context(seen, seen), batch)
    torch.testing.assert_close(losses.chunk, expected)
    assert losses.scene.item() == 0.0


def test_the_chunk_is_learnt_from_the_context(tmp_path: Path) -> None:
    plans = [ClipPlan(episode, start, 1, 0, 0) for episode in (0, 1) for start in (0, 3, 6, 9)]
    batch = sampler_of_two(tmp_path).cut(plans, np.random.default_rng(0))
    torch.manual_seed(0)
    tasks = SideTasks(WIDTH, 0, (MODEL.num_actions, MODEL.action_width))
    seen = torch.randn(len(plans), 1, MODEL.num_actions, WIDTH)
    optimizer = torch.optim.Adam(tasks.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        losses.append(tasks.losses(Context(seen, seen), batch).chunk)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
