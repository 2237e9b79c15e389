# SPDX-License-Identifier: Apache-2.0
"""What belongs together stays together in the losses and on the model's clock.

Chunks of 8 actions and frames of a few tokens, two samples each; every target is drawn 4 times. A
sample's context answers for that sample's own targets, in every draw.
"""

import dataclasses

import pytest
import torch

from par_model.causal_mask import ACTION, FRAME, TEXT, token_layout
from par_model.presets import preset
from tests.model.fixtures import random_model

CONFIG = preset("par_tiny")


@pytest.fixture(scope="module")
def tiny():
    return random_model(CONFIG).double().eval()


def drawn(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def generator():
    return torch.Generator().manual_seed(0)


def reached(gradient):
    """Which samples of dimension 0 a gradient is not zero for."""
    return gradient.flatten(1).any(dim=1).tolist()


def test_all_draws_of_a_chunk_are_told_its_own_context(tiny):
    """Only the first of two chunks is valid: nothing of the second reaches the loss."""
    contexts = drawn(2, CONFIG.num_actions, CONFIG.transformer.width)
    actions = drawn(2, CONFIG.num_actions, CONFIG.action_width)
    valid = torch.tensor([True, False])[:, None].expand(-1, CONFIG.num_actions)
    assert tiny.action_head.num_draws == 4
    loss = tiny.action_head.loss(contexts, actions, valid, generator())
    gradients = torch.autograd.grad(loss, (contexts, actions))
    assert [reached(gradient) for gradient in gradients] == [[True, False]] * 2


def test_all_draws_of_an_image_token_are_told_its_own_context(tiny):
    """The context of one token is pulled towards that token, whatever the other one is."""

    def pull(tokens):
        contexts = drawn(2, CONFIG.transformer.width)
        loss = tiny.frame_decoder.loss(contexts, tokens, generator())
        return torch.autograd.grad(loss, contexts)[0][0]

    tokens = drawn(2, CONFIG.image_token_width).detach()
    assert tiny.frame_decoder.num_draws == 4
    own, other = tokens.clone(), tokens.clone()
    own[0] += 1.0
    other[1] += 1.0
    torch.testing.assert_close(pull(other), pull(tokens), rtol=0, atol=1e-12)
    assert (pull(own) - pull(tokens)).abs().max() > 1e-4


@pytest.mark.parametrize("scale_action", [1.0, 2.0])
def test_the_phase_of_a_token_is_its_time_in_env_steps(scale_action):
    """Frame n is seen after 8 n steps, and the last action of chunk n ends in it; an instruction
    stands still. The two scales count the steps of frames and of actions."""
    rotary = dataclasses.replace(CONFIG.rotary, scale_frame=1.0, scale_action=scale_action)
    model = random_model(dataclasses.replace(CONFIG, rotary=rotary))
    layout = token_layout(1, 3, 1, CONFIG.num_actions)
    for first_slot in (0, 2):
        times = []
        for kind, slot, step in zip(layout.kinds, layout.slots, layout.steps, strict=True):
            seen_at = 8 * (first_slot + int(slot))
            ends_at = seen_at - 8 + int(step) + 1
            times.append({TEXT: 0, FRAME: seen_at, ACTION: scale_action * ends_at}[int(kind)])
        phases = torch.tensor(times, dtype=torch.float32)
        rotation = model.tokenizer.rotation(layout, torch.tensor([first_slot]))
        # The first pair turns by one radian a step.
        torch.testing.assert_close(rotation.cos[0, 0, :, 0], phases.cos())
        torch.testing.assert_close(rotation.sin[0, 0, :, 0], phases.sin())
