# SPDX-License-Identifier: Apache-2.0
"""A model that goes on from up to 10 committed actions: slots of 8, a horizon of 18; par_tiny with
random weights, so that nothing is zero by chance."""

import dataclasses

import numpy as np
import pytest
import torch

from par_model.action_head import DitModulation, Prefix
from par_model.config import from_values, to_json
from par_model.diffusion import SAMPLERS, denoise_step, sampling_coefficients
from par_model.interface import Observation
from par_model.model import SlotTimes
from par_model.policy import PARPolicy
from par_model.presets import preset
from par_model.training.start_weights import take_weights
from tests.backends.runtimes import eager, small_checkpoint
from tests.model.fixtures import random_clip, random_model

PLAIN = preset("par_tiny")
TRAINED = dataclasses.replace(PLAIN, max_delay_steps=10)


@pytest.fixture(scope="module")
def checkpoint():
    return small_checkpoint(max_delay_steps=10)


def grown(plain):
    """`plain`'s weights in a model with a largest delay."""
    model = random_model(TRAINED, seed=5)
    model.load_state_dict(model.state_dict() | plain.state_dict())
    return model


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "flow_matching"])
def test_without_a_prefix_the_slot_is_what_it_was_before(sampler):
    """To rounding, for any number of sampling steps: fine-tuning begins where the model is."""
    plain = random_model(PLAIN)
    model, z, noise = grown(plain), draw(2, 8, 32), draw(2, 18, 8, seed=1)
    for num_steps in (1, 4):
        seeds = (torch.Generator().manual_seed(3) for _ in range(2))
        before = plain.predict_actions(z, noise[:, :8], sampler, num_steps, generator=next(seeds))
        # ddpm draws more noise for more rows.
        if sampler == "ddpm" and num_steps > 1:
            continue
        after = model.predict_actions(z, noise, sampler, num_steps, generator=next(seeds))
        torch.testing.assert_close(after[:, :8], before, atol=1e-5, rtol=1e-5)
        none = Prefix.of_lengths(torch.zeros_like(noise), torch.zeros(2, dtype=torch.int64))
        given = model.predict_actions(z, noise, sampler, num_steps, prefix=none,
                                      generator=torch.Generator().manual_seed(3))  # fmt: skip
        torch.testing.assert_close(given, after)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_sample_begins_with_its_prefix_and_depends_on_it(sampler, num_steps):
    config = TRAINED
    if sampler == "flow_matching":
        flow = dataclasses.replace(config.action_diffusion, schedule="flow_matching")
        config = dataclasses.replace(config, action_diffusion=flow)
    model, z, noise = random_model(config), draw(3, 8, 32), draw(3, 18, 8, seed=1)
    given, lengths = draw(3, 18, 8, seed=2), torch.tensor([0, 4, 10])

    def sample(actions, noise):
        generator = torch.Generator().manual_seed(3)
        prefix = Prefix.of_lengths(actions, lengths)
        return model.predict_actions(z, noise, sampler, num_steps, None, generator, prefix)

    found = sample(given, noise)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(found[row, :length], given[row, :length])
    # Its noise is not read, nor is anything behind it; what follows depends on it.
    other_noise, other = noise.clone(), given.clone()
    other_noise[2, :10], other[:, 10:] = 9.0, 9.0
    torch.testing.assert_close(sample(other, other_noise), found)
    moved = sample(given + 0.5, noise)
    assert torch.equal(moved[0], found[0])
    assert (moved[1, 4:] - found[1, 4:]).abs().max() > 1e-3


def test_the_loss_counts_what_follows_the_prefix_alone():
    """Wrong targets in rows that are always given do not matter; delays reach from least to 10."""
    head, clean = random_model(TRAINED).action_head, draw(4, 18, 8)
    valid = torch.ones(4, 18, dtype=torch.bool)
    least = torch.full((4,), 10)

    def loss(valid, seed=7):
        return head.loss(draw(4, 8, 32, seed=1), clean, valid, torch.Generator().manual_seed(seed),
                         least)  # fmt: skip

    only_behind = valid.clone()
    only_behind[:, :10] = False
    assert torch.equal(loss(valid), loss(only_behind))
    delays = head._draw_delays(None, valid.repeat(500, 1), torch.Generator().manual_seed(0))
    assert delays.unique().tolist() == list(range(11))
    counts = torch.bincount(delays[:2000])
    assert counts.min() > 0.7 * 2000 / 11


def test_a_chunk_without_a_prefix_counts_from_its_first_row():
    """With prefixes the first row counts in one of eleven draws."""
    head, clean = random_model(TRAINED).action_head, draw(200, 18, 8)
    first = torch.zeros(200, 18, dtype=torch.bool)
    first[:, 0] = True

    def gradients(has_prefix):
        z = draw(200, 8, 32, seed=1).requires_grad_()
        generator = torch.Generator().manual_seed(7)
        head.loss(z, clean, first, generator, None, has_prefix).backward()
        return (z.grad.abs().amax(dim=(1, 2)) > 0).sum().item()

    assert gradients(torch.zeros(200, dtype=torch.bool)) == 200
    # Four draws each: 1 - (10 / 11)^4 of the chunks.
    assert 35 < gradients(torch.ones(200, dtype=torch.bool)) < 95
    assert gradients(None) == gradients(torch.ones(200, dtype=torch.bool))


def test_the_loss_chooses_the_same_statistics_as_a_sample():
    """To the bit; the gradients to rounding."""
    head, rows = random_model(TRAINED).action_head, draw(3, 18) > 0.3
    weights = draw(3, 9, 18, head.norm.normalized_shape[0], seed=2)
    results = []
    for name in ("but", "but_in_training"):
        head.zero_grad()
        own, clean = head.modulation(torch.tensor([5.0, 300.0, 900.0])), head.clean_modulation()
        chosen = getattr(own, name)(clean, rows)
        sum((block * weights).sum() for block in chosen.blocks).backward()
        gradients = [p.grad.clone() for p in head.parameters() if p.grad is not None]
        results.append(((*chosen.blocks, chosen.last), gradients))
    (chosen, gradients), (others, other_gradients) = results
    assert all(map(torch.equal, chosen, others))
    assert len(gradients) > 4
    torch.testing.assert_close(other_gradients, gradients, rtol=1e-4, atol=1e-5)


def test_a_prefix_is_clean_and_stands_at_diffusion_time_0():
    """One step of DDIM, written out; 4 of 18 rows are given."""
    head, z, noise = random_model(TRAINED).action_head, draw(1, 8, 32), draw(1, 18, 8, seed=1)
    given = draw(1, 18, 8, seed=2)
    clean, now = head.modulation(torch.zeros(1)), head.schedule("ddim", 1).steps[0]

    def rows(one, other):
        return torch.cat((one.expand(-1, -1, 4, -1), other.expand(-1, -1, 14, -1)), dim=2)

    blocks = tuple(rows(*pair) for pair in zip(clean.blocks, now.blocks, strict=True))
    modulation = DitModulation(blocks, rows(clean.last, now.last))
    current = torch.cat((given[:, :4], noise[:, 4:]), dim=1)
    predicted = head(current, modulation, head.context(z))
    (step,) = sampling_coefficients(TRAINED.action_diffusion, "ddim", 1)
    expected = denoise_step(step, current, predicted, TRAINED.action_diffusion.clip_range)
    prefix = Prefix.of_lengths(given, torch.tensor([4]))
    found = head.sample(z, noise, "ddim", 1, prefix=prefix)
    torch.testing.assert_close(found[:, 4:], expected[:, 4:])


def test_the_loss_shows_the_network_what_sampling_will():
    """Whole prefixes: 10 clean rows at time 0, and 8 noisy ones at the drawn time."""
    head, actions = random_model(TRAINED).action_head, draw(3, 18, 8)
    seen, forward = [], head.forward

    def spy(noisy, modulation, context):
        seen.append((noisy, modulation))
        return forward(noisy, modulation, context)

    head.forward = spy
    valid, least = torch.ones(3, 18, dtype=torch.bool), torch.full((3,), 10)
    head.loss(draw(3, 8, 32, seed=1), actions, valid, torch.Generator().manual_seed(0), least)
    ((noisy, modulation),) = seen
    repeated = actions.repeat(head.num_draws, 1, 1)
    assert torch.equal(noisy[:, :10], repeated[:, :10])
    assert not torch.isclose(noisy[:, 10:], repeated[:, 10:]).all()
    clean = head.modulation(torch.zeros(1))
    assert torch.equal(modulation.last[:, :, :10], clean.last.expand(12, -1, 10, -1))
    assert not torch.isclose(modulation.last[:, :, 10:], clean.last).all()


def test_the_clock_in_steps_is_the_clock_in_slots():
    """All executed, 8 steps a slot: the same context as without."""
    plain, clip = random_model(PLAIN).double(), random_clip(PLAIN, 4)
    model = grown(plain).double()
    arguments = (clip.text, clip.latents, clip.actions, clip.proprio, torch.tensor([1]))
    times = SlotTimes(torch.ones(1, 4, 8, dtype=torch.bool), 8 * torch.arange(1, 5)[None])
    before, after = plain.encode_clip(*arguments), model.encode_clip(*arguments, times=times)
    torch.testing.assert_close(after.action_BNZC, before.action_BNZC)
    torch.testing.assert_close(after.frame_BNKC, before.frame_BNKC)
    missing = SlotTimes(times.executed_BNL.clone(), times.clock_BN)
    missing.executed_BNL[0, 2, :3] = False
    shown = model.encode_clip(*arguments, times=missing)
    other_actions = clip.actions.clone()
    other_actions[0, 2, :3] = 5.0
    arguments = (clip.text, clip.latents, other_actions, clip.proprio, torch.tensor([1]))
    torch.testing.assert_close(model.encode_clip(*arguments, times=missing).action_BNZC,
                               shown.action_BNZC)  # fmt: skip
    assert (shown.action_BNZC[0, 2] - after.action_BNZC[0, 2]).abs().max() > 1e-3


def test_a_cached_context_is_the_whole_one():
    config, clip = TRAINED, random_clip(TRAINED, 4)
    model = random_model(config).double()
    executed = torch.arange(8) >= torch.tensor([0, 3, 0, 6])[:, None]
    times = SlotTimes(executed[None], torch.tensor([[0, 5, 15, 17]]))
    whole = model.encode_clip(
        clip.text, clip.latents, clip.actions, clip.proprio, torch.tensor([0]), times=times
    )
    cache = model.prefill(clip.text)
    for n in range(4):
        one = SlotTimes(times.executed_BNL[:, n : n + 1], times.clock_BN[:, n : n + 1])
        context, cache = model.extend(
            cache, clip.text, clip.latents[:, n : n + 1], clip.actions[:, n : n + 1],
            clip.proprio[:, n : n + 1], n, n == 0, one,
        )  # fmt: skip
        torch.testing.assert_close(context.action_BNZC[:, 0], whole.action_BNZC[:, n])


def policy_of(checkpoint):
    return PARPolicy(
        checkpoint.config, checkpoint.statistics, checkpoint.instructions, eager(checkpoint)
    )


def observation(policy, step, executed, seed):
    rng = np.random.default_rng(seed)
    return Observation(
        image=rng.integers(0, 256, (32, 32, 3)).astype(np.uint8),
        measured_joint_positions=0.1 * rng.standard_normal(8),
        joint_names=policy.spec.joint_names,
        stamp_s=0.05 * step,
        executed_actions=executed,
    )


def test_a_policy_begins_its_chunk_with_the_committed_actions(checkpoint):
    policy = policy_of(checkpoint)
    assert (policy.spec.max_delay_steps, policy.spec.horizon) == (10, 18)
    policy.reset(policy.spec.instructions[0], 0)
    policy.observe(observation(policy, 0, None, 0))
    committed = 0.1 * np.random.default_rng(4).standard_normal((4, 8))
    chunk = policy.act(committed)
    chunk.validate(policy.spec)
    np.testing.assert_array_equal(chunk.joint_positions[:4], committed)
    assert chunk.joint_positions.shape == (18, 8)
    sequential = policy.act()
    sequential.validate(policy.spec)
    assert sequential.joint_positions.shape == (8, 8)
    with pytest.raises(ValueError, match=r"11 committed actions .* at most 10"):
        policy.act(np.zeros((11, 8)))


def test_a_policy_takes_slots_of_1_to_18_actions_and_no_longer_ones(checkpoint):
    """More slots than the context of 6 holds: it is rebased with its clock."""
    policy = policy_of(checkpoint)
    policy.reset(policy.spec.instructions[0], 0)
    policy.observe(observation(policy, 0, None, 0))
    step = 0
    for index, span in enumerate((8, 3, 18, 1, 10, 8, 18, 18, 4, 18)):
        step += span
        policy.observe(observation(policy, step, np.full((span, 8), 0.1), index))
        assert np.isfinite(policy.act(np.zeros((2, 8))).joint_positions).all()
    with pytest.raises(ValueError, match=r"at most|float64 \[8, 8\], got float64 \[19, 8\]"):
        policy.observe(observation(policy, step + 19, np.zeros((19, 8)), 1))
    with pytest.raises(ValueError, match=r"18 control steps after the one before, this one is 20"):
        policy.observe(observation(policy, step + 20, np.zeros((8, 8)), 1))


def test_what_was_not_executed_is_not_in_the_context(checkpoint):
    """A slot of 3 actions does not depend on the chunk that was asked for before it."""
    answers = []
    for believed in (0, 1):
        policy = policy_of(checkpoint)
        policy.reset(policy.spec.instructions[0], 0)
        policy.observe(observation(policy, 0, None, 0))
        policy.act(np.full((believed, 8), 0.3))
        policy.observe(observation(policy, 3, np.full((3, 8), 0.1), 1))
        answers.append(policy.act().joint_positions)
    np.testing.assert_array_equal(*answers)


def test_a_checkpoint_without_prefixes_refuses_them():
    policy = policy_of(small_checkpoint())
    policy.reset(policy.spec.instructions[0], 0)
    policy.observe(observation(policy, 0, None, 0))
    with pytest.raises(ValueError, match=r"not trained to go on from committed actions"):
        policy.act(np.zeros((0, 8)))
    with pytest.raises(ValueError, match=r"executed_actions must be float64 \[8, 8\]"):
        policy.observe(observation(policy, 3, np.zeros((3, 8)), 1))


def test_older_configurations_have_no_largest_delay():
    import json

    values = json.loads(to_json(PLAIN))
    assert values.pop("max_delay_steps") == 0
    assert from_values(values) == PLAIN
    for changed in ({"action_head": "regression"}, {"observation_mode": "clip"}):
        with pytest.raises(ValueError, match=r"max_delay_steps is 10"):
            dataclasses.replace(TRAINED, **changed).validate()


def test_training_starts_from_a_checkpoint_without_prefixes(tmp_path):
    from par_model.checkpoint import save_checkpoint
    from tests.model.fixtures import random_checkpoint_parts

    parts = random_checkpoint_parts("par_tiny")
    diffusion = parts["config"].action_diffusion
    save_checkpoint(tmp_path / "plain", **parts)
    model = random_model(dataclasses.replace(TRAINED, action_diffusion=diffusion), seed=9)
    take_weights(tmp_path / "plain", model)
    z, noise = draw(1, 8, 32), draw(1, 18, 8, seed=1)
    before = parts["model"].predict_actions(z, noise[:, :8], "ddim", 4)
    after = model.predict_actions(z, noise, "ddim", 4)
    torch.testing.assert_close(after[:, :8], before, atol=1e-5, rtol=1e-5)
