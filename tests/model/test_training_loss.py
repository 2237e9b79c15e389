# SPDX-License-Identifier: Apache-2.0
"""What `training_loss` puts together: the two heads' losses by their weights, with what each head
is told, over a context that knows when slots were. par_tiny with random weights, in float64."""

import dataclasses

import pytest
import torch

from par_model.model import SlotTimes, TrainingBatch
from par_model.physical_tokenizer import Motion
from par_model.presets import preset
from tests.model.fixtures import random_clip, random_model

NUM_SLOTS = 4
MAX_DELAY = 5
PLAIN = preset("par_tiny")
WEIGHTS = dataclasses.replace(PLAIN.loss, frame_weight=0.3, action_weight=2.0)
DELAYED = dataclasses.replace(PLAIN, loss=WEIGHTS, max_delay_steps=MAX_DELAY)
VIDEO = {"num_actions": 0, "proprio_width": 0, "first_slot": "bov", "position_mode": "ape",
         "text_joint_with_first_slot": True, "overflow": "error", "num_slots": NUM_SLOTS,
         "motion_tokens": True}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return random_model(DELAYED).double().eval()


@pytest.fixture(scope="module")
def batch():
    """Two clips; the second is in its episode's third slot."""
    clip = random_clip(DELAYED, NUM_SLOTS + 1, batch_size=2)
    generator = torch.Generator().manual_seed(4)
    targets = torch.randn(2, NUM_SLOTS, DELAYED.horizon, DELAYED.action_width,
                          generator=generator, dtype=torch.float64)  # fmt: skip
    executed = torch.rand(2, NUM_SLOTS, DELAYED.num_actions, generator=generator) < 0.7
    return TrainingBatch(
        text_BTC=clip.text,
        latents_BNchw=clip.latents,
        actions_BNLD=targets,
        context_actions_BNLD=clip.actions[:, :NUM_SLOTS],
        proprio_BNJ=clip.proprio,
        action_valid_BNL=torch.ones(2, NUM_SLOTS, DELAYED.horizon, dtype=torch.bool),
        frame_valid_BN=torch.ones(2, NUM_SLOTS, dtype=torch.bool),
        slot_offset_B=torch.tensor([0, 2]),
        scene_BNP=torch.zeros(2, NUM_SLOTS, 0),
        executed_BNL=executed,
        clock_BN=torch.tensor([[0, 8, 13, 25], [0, 6, 14, 22]]),
    )


def generator():
    return torch.Generator().manual_seed(7)


def test_the_total_is_the_weighted_sum(model, batch):
    losses = model.training_loss(batch, generator())
    assert losses.frame.item() > 0.1
    assert losses.action.item() > 0.1
    torch.testing.assert_close(losses.total, 0.3 * losses.frame + 2.0 * losses.action)


def test_without_a_weight_actions_are_not_computed(batch):
    """Nothing is drawn for them either: the frames' draws are the first."""
    without = dataclasses.replace(WEIGHTS, action_weight=0.0)
    model = random_model(dataclasses.replace(DELAYED, loss=without)).double().eval()
    losses = model.training_loss(batch, generator())
    context = model.training_context(batch)
    rows = batch.with_rows().frame_rows_M
    frame = model.frame_head.loss(
        context.frame_BNKC, batch.latents_BNchw[:, 1:], rows, generator(), False, None
    )
    assert float(losses.action) == 0.0
    torch.testing.assert_close(losses.frame, frame, rtol=0, atol=0)
    torch.testing.assert_close(losses.total, 0.3 * frame)


def test_the_head_is_told_the_shortest_prefix(model, batch):
    """With the longest there is, no row of a prefix counts: another target there changes nothing.
    Without it, prefixes may be short, and those rows count."""
    least = torch.full((2, NUM_SLOTS), MAX_DELAY)
    given = dataclasses.replace(batch, least_delay_BN=least)
    context = model.training_context(batch)
    direct = model.action_head.loss(
        context.action_BNZC.flatten(0, 1),
        batch.actions_BNLD.flatten(0, 1),
        batch.action_valid_BNL.flatten(0, 1),
        generator(),
        least.flatten(),
    )
    loss = model.context_loss(context, given, generator()).action
    torch.testing.assert_close(loss, direct, rtol=0, atol=0)
    other = model.context_loss(context, batch, generator()).action
    assert (loss - other).abs().item() > 1e-6


def test_the_frame_head_is_told_the_mask_ratio(model, batch):
    context, rows = model.training_context(batch), batch.with_rows().frame_rows_M
    model_loss = model.context_loss(context, batch, generator(), mask_ratio=1.0).frame
    drawn = generator()
    # The actions' draws come first.
    model.action_head.loss(
        context.action_BNZC.flatten(0, 1), batch.actions_BNLD.flatten(0, 1),
        batch.action_valid_BNL.flatten(0, 1), drawn,
    )  # fmt: skip
    direct = model.frame_head.loss(
        context.frame_BNKC, batch.latents_BNchw[:, 1:], rows, drawn, False, 1.0
    )
    torch.testing.assert_close(model_loss, direct, rtol=0, atol=0)


def test_the_context_knows_when_slots_were_and_what_was_executed(model, batch):
    """The actions of slot n led to frame n, so they are those that followed frame n - 1; a clip's
    clock goes on from its episode's."""
    executed = torch.zeros_like(batch.executed_BNL)
    executed[:, 1:] = batch.executed_BNL[:, :-1]
    actions = torch.zeros_like(batch.context_actions_BNLD)
    actions[:, 1:] = batch.context_actions_BNLD[:, :-1]
    times = SlotTimes(executed, batch.clock_BN + torch.tensor([[0], [2 * DELAYED.num_actions]]))
    expected = model.encode_clip(
        batch.text_BTC, batch.latents_BNchw[:, :-1], actions, batch.proprio_BNJ[:, :-1],
        batch.slot_offset_B, times=times,
    )  # fmt: skip
    found = model.training_context(batch)
    torch.testing.assert_close(found.action_BNZC, expected.action_BNZC, rtol=0, atol=0)
    torch.testing.assert_close(found.frame_BNKC, expected.frame_BNKC, rtol=0, atol=0)


@pytest.mark.parametrize("missing", ["executed_BNL", "clock_BN"])
def test_slots_are_even_where_a_batch_does_not_say_when_they_were(model, batch, missing):
    """Both are needed: one alone says nothing."""
    one = dataclasses.replace(batch, **{missing: None})
    none = dataclasses.replace(batch, executed_BNL=None, clock_BN=None)
    found, expected = model.training_context(one), model.training_context(none)
    torch.testing.assert_close(found.action_BNZC, expected.action_BNZC, rtol=0, atol=0)
    other = model.training_context(batch)
    assert (other.action_BNZC - found.action_BNZC).abs().max() > 1e-3


def saved_bytes(function, *given):
    """What a forward pass keeps for the backward pass."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*given)
    return sum(sizes)


def test_checkpointed_gradients_keep_less_in_context_and_frame_head(model, batch):
    """And are off unless they are asked for."""
    context = model.training_context(batch)
    parts = (
        lambda *given: model.training_context(batch, *given),
        lambda *given: model.context_loss(context, batch, generator(), *given),
        lambda *given: model.training_loss(batch, generator(), *given),
    )
    saved = []
    for part in parts:
        plain = saved_bytes(part, False)
        assert saved_bytes(part) == plain
        saved.append(plain - saved_bytes(part, True))
    assert min(saved) > 0
    assert saved[2] == saved[0] + saved[1]


def test_checkpointed_gradients_are_the_same(model, batch):
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()
        model.training_loss(batch, generator(), checkpointed).total.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()
                          if p.grad is not None})  # fmt: skip
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_the_mixer_reaches_the_frame_loss_and_is_left_out_at_rank_0(batch):
    model = random_model(DELAYED).double().eval()
    before = model.training_loss(batch, generator()).frame
    with torch.no_grad():
        for parameter in model.mixer.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(model.training_loss(batch, generator()).frame, before)
    without = random_model(dataclasses.replace(DELAYED, mixer_rank=0)).double().eval()
    assert without.mixer is None
    assert without.training_loss(batch, generator()).frame.isfinite()


def test_a_video_models_clip_is_told_its_motion_as_its_cache_is():
    config = dataclasses.replace(PLAIN, **VIDEO)
    model = random_model(config).double().eval().requires_grad_(False)
    clip = random_clip(config, 2)
    none = clip.latents.new_zeros(1, 2, 0, config.action_width)
    start = torch.zeros(1, dtype=torch.int64)
    contexts = []
    for motion in (Motion(flow=3.0, fps=12.0), Motion(flow=9.0, fps=12.0)):
        full = model.encode_clip(clip.text, clip.latents, none, None, start, motion=motion)
        cache = model.prefill(clip.text, motion)
        found, _ = model.extend(cache, clip.text, clip.latents, none, None, 0, True, motion=motion)
        torch.testing.assert_close(found.frame_BNKC[:, 0], full.frame_BNKC[:, 0])
        contexts.append(full.frame_BNKC)
    assert (contexts[0] - contexts[1]).abs().max() > 1e-6


def test_a_schedule_that_is_given_is_used(model):
    z = torch.randn(1, DELAYED.num_actions, DELAYED.transformer.width, dtype=torch.float64)
    noise = torch.randn(1, DELAYED.horizon, DELAYED.action_width, dtype=torch.float64)
    own = model.predict_actions(z, noise, "ddim", 4)
    schedule = model.action_head.schedule("ddim", 4)
    torch.testing.assert_close(model.predict_actions(z, noise, "ddim", 4, schedule), own)
    # Another head's modulation of the same steps.
    other = random_model(DELAYED, seed=1).double().eval().action_head.schedule("ddim", 4)
    assert (model.predict_actions(z, noise, "ddim", 4, other) - own).abs().max() > 1e-3


def test_without_autoregression_there_is_no_transformer():
    assert random_model(dataclasses.replace(PLAIN, autoregressive=False)).transformer is None
