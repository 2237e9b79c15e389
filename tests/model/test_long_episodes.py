# SPDX-License-Identifier: Apache-2.0
"""Episodes longer than the context, by overflow mode. "slide": 10 slots through a context of 6 give
what one masked pass over all 10 gives where each slot sees its last 6. "episode": 51 slots (400 env
steps at 8 a chunk) are all kept and equal one masked pass; the 52nd is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from par_model.checkpoint import save_checkpoint
from par_model.load_policy import load_policy
from par_model.model import PARModel
from par_model.presets import preset
from tests.model.fixtures import (
    INSTRUCTIONS,
    forget_absolute_times,
    random_checkpoint_parts,
    random_observation,
)

TINY = preset("par_tiny")


def episode(policy, num_slots):
    """Z_A after each observation, and the slots as the policy appended them."""
    world = np.random.default_rng(0)
    policy.reset(INSTRUCTIONS[0], 0)
    executed, contexts, slots = None, [], []
    for n in range(num_slots):
        policy.observe(random_observation(world, policy.spec, 0.4 * n, executed))
        contexts.append(policy._episode.context.action)
        slots.append(policy._episode.slots[-1])
        executed = policy.act().joint_positions
    return torch.stack(contexts), slots


@torch.no_grad()
def one_pass(parts, slots, **changes):
    """Z_A of every slot by one masked pass over all of them, without a cache."""
    model = PARModel(dataclasses.replace(parts["config"], **changes)).eval()
    model.load_state_dict(parts["model"].state_dict())
    latents = [slot.latent for slot in slots]
    actions, proprio = [slot.actions for slot in slots], [slot.proprio for slot in slots]
    context = model.encode_clip(
        parts["instructions"].embedding(INSTRUCTIONS[0])[None],
        torch.stack([latent.reshape(latent.shape[-3:]) for latent in latents])[None],
        torch.from_numpy(np.stack(actions))[None],
        torch.from_numpy(np.stack(proprio))[None],
        torch.zeros(1, dtype=torch.int64),
    )
    return context.action_BNZC[0]


def make(tmp_path, prepare=lambda model: None, **changes):
    parts = random_checkpoint_parts("par_tiny", **changes)
    prepare(parts["model"])
    save_checkpoint(tmp_path / "checkpoint", **parts)
    return parts, load_policy(tmp_path / "checkpoint", backend="eager", device="cpu")


def test_a_sliding_context_is_a_window_over_the_whole_episode(tmp_path):
    """Without absolute times (which a context of 6 slots does not know beyond the 6th)."""
    parts, policy = make(tmp_path, forget_absolute_times, overflow="slide")
    contexts, slots = episode(policy, 10)
    expected = one_pass(parts, slots, num_slots=10, history_slots=6)
    assert (contexts.reshape(expected.shape) - expected).abs().max() < 1e-5
    unlimited = one_pass(parts, slots, num_slots=10)
    assert (expected[:6] - unlimited[:6]).abs().max() < 1e-5
    assert (expected[6:] - unlimited[6:]).abs().max() > 1e-3


def test_an_episode_of_51_slots_is_kept_whole_and_the_52nd_slot_is_refused(tmp_path):
    sampling = dataclasses.replace(TINY.sampling, context_slots=51)
    parts, policy = make(tmp_path, overflow="episode", num_slots=51, sampling=sampling)
    contexts, slots = episode(policy, 51)
    expected = one_pass(parts, slots)
    assert (contexts.reshape(expected.shape) - expected).abs().max() < 1e-5
    with pytest.raises(ValueError, match='51 slots and its overflow mode is "episode"'):
        episode(policy, 52)
