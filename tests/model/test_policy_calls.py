# SPDX-License-Identifier: Apache-2.0
"""What PARPolicy gives to its runtime, call by call: noise, seeds, steps, slots; par_tiny with
random weights behind a runtime that notes its arguments."""

import re

import numpy as np
import pytest

from par_model.camera_fit import CameraFit
from par_model.policy import PARPolicy
from tests.backends.runtimes import eager, small_checkpoint
from tests.model.fixtures import random_observation


class Noted:
    """A runtime that keeps the arguments of some of its calls."""

    def __init__(self, graphs):
        self._graphs = graphs
        self.calls = {name: [] for name in ("act", "extend", "predict_frame", "attention")}

    def __getattr__(self, name):
        function = getattr(self._graphs, name)
        if name not in self.calls:
            return function

        def call(*arguments):
            self.calls[name].append(arguments)
            return function(*arguments)

        return call


def make(**changes):
    checkpoint = small_checkpoint(**changes)
    graphs = Noted(eager(checkpoint))
    policy = PARPolicy(checkpoint.config, checkpoint.statistics, checkpoint.instructions, graphs)
    policy.reset(policy.spec.instructions[0], 7)
    return policy, graphs.calls, checkpoint.statistics


def told(calls):
    """The slot that was appended last."""
    return calls["extend"][-1][1]


def test_noise_and_seed_come_from_the_episodes_generator():
    policy, calls, _ = make()
    policy.observe(random_observation(np.random.default_rng(0), policy.spec, 0.0))
    steps = policy.sampling_steps[-1]
    policy.act()
    policy.act(num_steps=steps)
    expected = np.random.Generator(np.random.PCG64(7))
    for (_, noise, seed, prefix, num_steps), asked in zip(calls["act"], (None, steps), strict=True):
        assert noise.dtype == np.float32
        assert np.array_equal(noise, expected.standard_normal(noise.shape).astype(np.float32))
        assert seed == int(expected.integers(2**31))
        assert (prefix, num_steps) == (None, asked)


def test_a_prefix_is_normalised_in_single_precision():
    policy, calls, statistics = make(max_delay_steps=10)
    observation = random_observation(np.random.default_rng(0), policy.spec, 0.0)
    policy.observe(observation)
    committed = np.random.default_rng(1).normal(size=(3, 8))
    policy.act(committed)
    prefix = calls["act"][0][3]
    assert prefix.dtype == np.float32
    expected = statistics.normalize_actions(committed, observation.measured_joint_positions)
    np.testing.assert_allclose(prefix, expected, rtol=1e-6)


def test_refusals_are_the_sentences_of_the_documentation():
    policy, _, _ = make()
    unseen = "^the policy has seen no observation since its reset; observe first.$"
    for call in (policy.act, policy.predict_frame, policy.attention):
        with pytest.raises(ValueError, match=unseen):
            call()
    policy.observe(random_observation(np.random.default_rng(0), policy.spec, 0.0))
    steps = f"99 sampling steps were asked for and {policy.backend} has {policy.sampling_steps}; "
    with pytest.raises(ValueError, match=f"^{re.escape(steps)}choose one of these.$"):
        policy.act(num_steps=99)


def test_the_expected_picture_is_anchored_at_the_first_slot_from_the_second_on():
    policy, calls, _ = make()
    world = np.random.default_rng(0)
    executed = None
    for n in range(3):
        policy.observe(random_observation(world, policy.spec, 0.4 * n, executed))
        policy.predict_frame()
        executed = world.normal(size=(8, 8))
    (_, first, seed), (_, second, _), (_, third, _) = calls["predict_frame"]
    assert first is None
    assert second is not None
    assert third is second
    assert seed == 7


def test_attention_is_asked_about_the_instruction_and_every_slot():
    policy, calls, _ = make()
    world = np.random.default_rng(0)
    policy.observe(random_observation(world, policy.spec, 0.0))
    policy.observe(random_observation(world, policy.spec, 0.4, world.normal(size=(8, 8))))
    weights = policy.attention()
    ((text, slots),) = calls["attention"]
    assert len(slots) == 2
    assert slots.actions[1] is told(calls).actions[0]
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    num_tokens = policy.config.num_frame_tokens + policy.config.num_actions
    assert weights.shape[-1] == len(text) + 2 * num_tokens


@pytest.mark.parametrize(
    ("most", "seconds", "clock"), [(0, 0.05, ()), (1, 0.05, (1,)), (1, 0.4, (8,))]
)
def test_the_clock_counts_control_steps_where_there_is_a_largest_delay(most, seconds, clock):
    policy, calls, _ = make(max_delay_steps=most)
    world = np.random.default_rng(0)
    policy.observe(random_observation(world, policy.spec, 1.0))
    executed = world.normal(size=(1 if most else 8, 8))
    policy.observe(random_observation(world, policy.spec, 1.0 + seconds, executed))
    assert told(calls).clock == clock


@pytest.mark.parametrize(("seconds", "clock"), [(0.92, (18,)), (0.93, None)])
def test_what_a_turn_may_show_is_what_a_policy_takes(seconds, clock):
    """8 actions and up to 10 committed ones: the spec's rule is the policy's."""
    policy, calls, _ = make(max_delay_steps=10)
    world = np.random.default_rng(0)
    policy.observe(random_observation(world, policy.spec, 1.0))
    later = random_observation(world, policy.spec, 1.0 + seconds, world.normal(size=(18, 8)))
    assert (policy.spec.steps_between(1.0, 1.0 + seconds) is None) == (clock is None)
    if clock is not None:
        policy.observe(later)
        assert told(calls).clock == clock
        return
    sentence = (
        "an observation may be 18 control steps after the one before, this one is 18.6; reset the "
        "policy where so much is missing."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        policy.observe(later)


@pytest.mark.parametrize("shown", ["commanded", "proprio"])
@pytest.mark.parametrize("count", [8, 3])
def test_history_shows_the_newest_actions_at_the_slots_end(shown, count):
    policy, calls, statistics = make(max_delay_steps=10, context_action=shown)
    world = np.random.default_rng(0)
    before = random_observation(world, policy.spec, 0.0)
    executed = world.normal(size=(count, 8))
    now = random_observation(world, policy.spec, 0.05 * count, executed)
    policy.observe(before)
    policy.observe(now)
    if shown == "proprio":
        executed = np.tile(now.measured_joint_positions, (count, 1))
    expected = statistics.normalize_actions(executed, before.measured_joint_positions)
    found = np.asarray(told(calls).actions).reshape(8, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[8 - count :], expected, rtol=1e-5, atol=1e-6)
    assert not found[: 8 - count].any()
    executed_rows = np.asarray(told(calls).executed).reshape(8)
    assert executed_rows.tolist() == [False] * (8 - count) + [True] * count


def test_a_chunk_is_of_its_picture_and_the_spec_of_the_checkpoint():
    checkpoint = small_checkpoint()
    parts = checkpoint.config, checkpoint.statistics, checkpoint.instructions, eager(checkpoint)
    fit = CameraFit(crop="none")
    policy = PARPolicy(*parts, camera_fit=fit)
    policy.reset(policy.spec.instructions[0], 7)
    policy.observe(random_observation(np.random.default_rng(0), policy.spec, 1.25))
    assert policy.act().stamp_s == 1.25
    assert policy.spec.arm == checkpoint.statistics.arm
    assert policy.spec.camera_fit == fit


def test_the_first_slot_shows_no_executed_action():
    policy, calls, _ = make(max_delay_steps=10)
    policy.observe(random_observation(np.random.default_rng(0), policy.spec, 0.0))
    assert not np.asarray(told(calls).executed).any()
