# SPDX-License-Identifier: Apache-2.0
"""PARPolicy on par_tiny (6 slots): episodes repeat, history counts, bad input is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from par_model.checkpoint import save_checkpoint
from par_model.load_policy import load_policy
from tests.model.fixtures import INSTRUCTIONS, random_checkpoint_parts, random_observation


@pytest.fixture
def policy(tiny_checkpoint):
    return load_policy(tiny_checkpoint, backend="eager", device="cpu")


def run(policy, num_chunks, seed=0, world_seed=0):
    """An episode that executes what the policy says; returns the chunks."""
    world = np.random.default_rng(world_seed)
    policy.reset(INSTRUCTIONS[0], seed)
    executed, chunks = None, []
    for n in range(num_chunks):
        policy.observe(random_observation(world, policy.spec, 0.4 * n, executed))
        chunk = policy.act()
        chunk.validate(policy.spec)
        executed = chunk.joint_positions
        chunks.append(executed)
    return np.stack(chunks)


def test_same_seed_same_chunks_other_seed_others(policy):
    first, second, other = run(policy, 4), run(policy, 4), run(policy, 4, seed=1)
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)


def test_two_policies_share_nothing(tiny_checkpoint, policy):
    alone = run(policy, 3)
    one, two = (load_policy(tiny_checkpoint, backend="eager", device="cpu") for _ in range(2))
    worlds = [np.random.default_rng(0), np.random.default_rng(7)]
    for each in (one, two):
        each.reset(INSTRUCTIONS[0], 0)
    executed = [None, None]
    for n in range(3):
        for k, each in enumerate((one, two)):
            each.observe(random_observation(worlds[k], each.spec, 0.4 * n, executed[k]))
            executed[k] = each.act().joint_positions
        assert np.array_equal(executed[0], alone[n])


def test_history_is_what_was_executed(policy):
    """The same frames with other executed actions give another chunk."""

    def second_chunk(shift):
        world = np.random.default_rng(0)
        policy.reset(INSTRUCTIONS[0], 0)
        policy.observe(random_observation(world, policy.spec, 0.0))
        executed = policy.act().joint_positions + shift
        policy.observe(random_observation(world, policy.spec, 0.4, executed))
        return policy.act().joint_positions

    assert np.array_equal(second_chunk(0.0), second_chunk(0.0))
    assert np.abs(second_chunk(0.0) - second_chunk(0.1)).max() > 1e-4


def test_relative_actions_are_made_absolute(policy, rng):
    """Arm targets follow the measured joints; the finger's target does not."""
    policy.reset(INSTRUCTIONS[0], 0)
    observation = random_observation(rng, policy.spec, 0.0)
    policy.observe(observation)
    chunk = policy.act().joint_positions
    offset = chunk - observation.measured_joint_positions
    assert np.abs(offset[:, :7]).max() < 0.7  # statistics: -0.2 .. 0.3, clipped to 1.5 of it
    assert chunk[:, 7].min() > -0.4
    assert chunk[:, 7].max() < 0.5


@pytest.mark.parametrize("overflow", ["rebase", "slide"])
def test_long_episode_goes_on(tmp_path, overflow):
    save_checkpoint(tmp_path / "c", **random_checkpoint_parts("par_tiny", overflow=overflow))
    chunks = run(load_policy(tmp_path / "c", backend="eager", device="cpu"), 20)
    assert np.isfinite(chunks).all()


def test_after_a_rebase_the_policy_is_one_that_began_there(tmp_path):
    """6 slots; the 7th observation keeps the last 3 and re-encodes them from slot 0."""
    parts = random_checkpoint_parts("par_tiny")
    save_checkpoint(tmp_path / "c", **parts)
    policy = load_policy(tmp_path / "c", backend="eager", device="cpu")
    world = np.random.default_rng(0)
    observations, executed = [], None
    policy.reset(INSTRUCTIONS[0], 0)
    for n in range(7):
        observations.append(random_observation(world, policy.spec, 0.4 * n, executed))
        policy.observe(observations[-1])
        context = policy._episode.context
        executed = policy.act().joint_positions
    fresh = load_policy(tmp_path / "c", backend="eager", device="cpu")
    fresh.reset(INSTRUCTIONS[0], 0)
    kept = [dataclasses.replace(observations[3], executed_actions=None), *observations[4:]]
    for observation in kept:
        fresh.observe(observation)
    assert (context.action - fresh._episode.context.action).abs().max() < 1e-5


def test_error_mode_refuses_the_seventh_slot(tmp_path):
    save_checkpoint(tmp_path / "c", **random_checkpoint_parts("par_tiny", overflow="error"))
    with pytest.raises(ValueError, match="longer than the context's 6 slots"):
        run(load_policy(tmp_path / "c", backend="eager", device="cpu"), 7)


def test_asking_for_a_picture_changes_no_action(policy):
    plain = run(policy, 2)
    world = np.random.default_rng(0)
    policy.reset(INSTRUCTIONS[0], 0)
    policy.observe(random_observation(world, policy.spec, 0.0))
    first = policy.act().joint_positions
    picture = policy.predict_frame()
    policy.observe(random_observation(world, policy.spec, 0.4, first))
    assert np.array_equal(policy.act().joint_positions, plain[1])
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": np.zeros((32, 31, 3), np.uint8)}, r"image must be uint8 \[32, 32, 3\], got"),
        ({"image": np.zeros((32, 32, 3), np.float32)}, "image must be uint8"),
        ({"measured_joint_positions": np.full(8, np.nan)}, "holds NaN or Inf"),
        ({"measured_joint_positions": np.zeros(7)}, "measured_joint_positions must be float64"),
        ({"joint_names": ("a",) * 8}, "joints must be"),
        ({"stamp_s": float("inf")}, "stamp_s must be finite"),
        ({"executed_actions": np.zeros((8, 8))}, "must carry no executed actions"),
    ],
)
def test_bad_observation_is_refused(policy, rng, change, sentence):
    policy.reset(INSTRUCTIONS[0], 0)
    bad = dataclasses.replace(random_observation(rng, policy.spec, 0.0), **change)
    with pytest.raises(ValueError, match=sentence):
        policy.observe(bad)
    policy.observe(random_observation(rng, policy.spec, 0.0))  # nothing was lost
    assert np.isfinite(policy.act().joint_positions).all()


def test_order_of_calls_is_refused_with_a_sentence(policy, rng):
    with pytest.raises(ValueError, match="call reset"):
        policy.act()
    with pytest.raises(ValueError, match="it knows: 'push the cube'; 'pick the cube'"):
        policy.reset("dance", 0)
    policy.reset(INSTRUCTIONS[0], 0)
    with pytest.raises(ValueError, match="observe first"):
        policy.act()
    policy.observe(random_observation(rng, policy.spec, 0.0))
    with pytest.raises(ValueError, match="every later one must"):
        policy.observe(random_observation(rng, policy.spec, 0.4))


def test_unknown_backend_and_device_are_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="backend 'quantum' is unknown; choose one of auto"):
        load_policy(tiny_checkpoint, backend="quantum")
    with pytest.raises(ValueError, match="device 'tpu' is unknown"):
        load_policy(tiny_checkpoint, backend="eager", device="tpu")


def test_context_of_one_slot_forgets_everything(tiny_checkpoint):
    """Chunk n of such a policy depends on observation n alone."""
    policy = load_policy(tiny_checkpoint, backend="eager", device="cpu", context_slots=1)

    def third_context(world_seed):
        world = np.random.default_rng(world_seed)
        last = random_observation(np.random.default_rng(9), policy.spec, 0.8, np.zeros((8, 8)))
        policy.reset(INSTRUCTIONS[0], 0)
        policy.observe(random_observation(world, policy.spec, 0.0))
        policy.observe(random_observation(world, policy.spec, 0.4, np.ones((8, 8))))
        policy.observe(last)
        return policy._episode.context.action

    assert torch.equal(third_context(1), third_context(2))
    whole = load_policy(tiny_checkpoint, backend="eager", device="cpu")
    assert not np.allclose(run(whole, 3)[2], run(policy, 3)[2])
    with pytest.raises(ValueError, match="context_slots is 0"):
        load_policy(tiny_checkpoint, context_slots=0)
