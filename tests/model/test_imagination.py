# SPDX-License-Identifier: Apache-2.0
"""An episode that is continued in pictures of the policy's own, on par_tiny with random weights."""

import dataclasses

import numpy as np
import pytest

from par_model.imagination import imagine, joints_after
from par_model.load_policy import load_policy
from par_model.policy import PARPolicy
from tests.backends.runtimes import make_runtime, small_checkpoint
from tests.model.fixtures import INSTRUCTIONS, random_observation


@pytest.fixture
def policy(tiny_checkpoint):
    return load_policy(tiny_checkpoint, backend="eager", device="cpu")


def started(policy, seed=3):
    """A policy that has observed twice and acted; its newest observation and chunk."""
    world = np.random.default_rng(0)
    policy.reset(INSTRUCTIONS[0], seed)
    executed = None
    for n in range(2):
        observation = random_observation(world, policy.spec, 0.4 * n, executed)
        policy.observe(observation)
        chunk = policy.act()
        executed = chunk.joint_positions
    return observation, chunk


def test_the_first_picture_is_the_policys_and_nothing_of_the_policy_changes(policy):
    observation, chunk = started(policy)
    undisturbed = policy.forked()
    pictures = imagine(policy, observation, chunk, 3)
    assert len(pictures) == 3
    assert np.array_equal(pictures[0], policy.predict_frame())
    assert np.array_equal(policy.act().joint_positions, undisturbed.act().joint_positions)
    assert np.array_equal(policy.predict_frame(), undisturbed.predict_frame())


def test_it_goes_on_from_its_own_picture_and_chunk(policy):
    observation, chunk = started(policy)
    pictures = imagine(policy, observation, chunk, 2)
    mind = policy.forked()
    joints = joints_after(observation, chunk.joint_positions)
    mind.observe(
        dataclasses.replace(
            observation,
            image=pictures[0],
            measured_joint_positions=joints,
            executed_actions=chunk.joint_positions,
            stamp_s=observation.stamp_s + 0.4,
        )
    )
    assert np.array_equal(pictures[1], mind.predict_frame())


def finger_that_is_observed(policy, monkeypatch, finger, told, asked):
    """What the finger is observed at, after a chunk that asks for `asked`."""
    observation, chunk = started(policy)
    joints, before = observation.measured_joint_positions.copy(), chunk.joint_positions.copy()
    joints[-1], before[:, -1] = finger, told
    targets = chunk.joint_positions.copy()
    targets[:, -1] = asked
    observed = []
    real = PARPolicy.observe

    def observe(mind, one):
        observed.append(one.measured_joint_positions[-1])
        real(mind, one)

    monkeypatch.setattr(PARPolicy, "observe", observe)
    imagine(
        policy,
        dataclasses.replace(observation, measured_joint_positions=joints, executed_actions=before),
        dataclasses.replace(chunk, joint_positions=targets),
        2,
    )
    return observed


@pytest.mark.parametrize(
    ("finger", "told", "asked", "then"),
    [
        (0.02, -0.01, -0.01, 0.02),  # it holds a cube and goes on holding it
        (0.02, -0.01, 0.04, 0.04),  # it lets go
        (0.04, 0.04, -0.01, -0.01),  # it closes: on what is not known
    ],
)
def test_a_finger_that_holds_something_stays(policy, monkeypatch, finger, told, asked, then):
    assert finger_that_is_observed(policy, monkeypatch, finger, told, asked) == [then]


def test_the_arm_stays_as_far_behind_its_targets_as_it_was(policy):
    observation, _ = started(policy)
    targets = np.arange(64.0).reshape(8, 8) / 100
    sent = np.linspace(0.0, 0.7, 8)[:, None].repeat(8, axis=1)
    for steps_behind in (0, 2, 7):
        measured = sent[-1 - steps_behind] + 0.02
        measured[-1] = 0.0
        before = dataclasses.replace(
            observation, measured_joint_positions=measured, executed_actions=sent
        )
        after = joints_after(before, targets)
        np.testing.assert_array_equal(after[:-1], targets[-1 - steps_behind, :-1])
        assert after[-1] == targets[-1, -1]
    first = dataclasses.replace(observation, executed_actions=None)
    np.testing.assert_array_equal(joints_after(first, targets), targets[-1])
    np.testing.assert_array_equal(joints_after(before, targets[:3])[:-1], targets[0, :-1])


def test_two_ways_from_one_episode_share_nothing(policy):
    _, chunk = started(policy)
    one, two = policy.forked(), policy.forked()
    world = np.random.default_rng(5)
    for each in (one, two):
        each.observe(random_observation(world, policy.spec, 0.8, chunk.joint_positions))
    assert not np.array_equal(one.act().joint_positions, two.act().joint_positions)
    three = policy.forked()
    three.observe(random_observation(np.random.default_rng(5), policy.spec, 0.8,
                                     chunk.joint_positions))  # fmt: skip
    again = policy.forked()
    again.observe(random_observation(np.random.default_rng(5), policy.spec, 0.8,
                                     chunk.joint_positions))  # fmt: skip
    assert np.array_equal(three.act().joint_positions, again.act().joint_positions)


def test_a_runtime_with_one_cache_is_refused():
    checkpoint = small_checkpoint()
    graphs = make_runtime("static", checkpoint, None)
    policy = PARPolicy(checkpoint.config, checkpoint.statistics, checkpoint.instructions, graphs)
    policy.reset(policy.spec.instructions[0], 0)
    observation = random_observation(np.random.default_rng(0), policy.spec, 0.0)
    policy.observe(observation)
    assert len(imagine(policy, observation, policy.act(), 1)) == 1
    with pytest.raises(ValueError, match="holds one episode at a time; use the backend eager"):
        imagine(policy, observation, policy.act(), 2)


def test_a_policy_of_clips_is_refused(policy, monkeypatch):
    observation, chunk = started(policy)
    monkeypatch.setattr(policy, "_spec", dataclasses.replace(policy.spec, observation_mode="clip"))
    with pytest.raises(ValueError, match="cannot go on from one picture of its own"):
        imagine(policy, observation, chunk, 2)
