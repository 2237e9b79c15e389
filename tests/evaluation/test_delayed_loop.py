# SPDX-License-Identifier: Apache-2.0
"""Delays of 0 to 10 control steps of 0.05 s, chunks of 8 actions, horizon 18; targets that are the
number of their control step, so that a target says when it was meant."""

import dataclasses

import numpy as np
import pytest

from par_model.evaluation.delayed_loop import Timing, run_delayed_episode
from par_model.evaluation.direct_loop import run_episode
from par_model.simulation.maniskill_env import ManiSkillArm
from tests.evaluation.scripted_loop import CountingArm, ScriptedPolicy, TimedPolicy

TARGETS = np.tile(np.arange(1.0, 101.0)[:, None], (1, 8))


def overlapped(delay_steps, kind="overlapped", max_steps=60, **kwargs):
    arm, policy = CountingArm(), TimedPolicy(TARGETS, **kwargs)
    timing = Timing(kind, 0.05 * delay_steps)
    return policy, run_delayed_episode(arm, policy, timing, 4, max_steps)


@pytest.mark.sim
def test_sequential_without_delay_is_the_direct_loop_to_the_bit():
    rng = np.random.default_rng(0)
    with ManiSkillArm("PushCube") as arm:
        targets = arm.read_joints()[0] + 0.05 * rng.standard_normal((40, 8))
        plain = ScriptedPolicy(targets)
        expected = run_episode(arm, plain, 4, 40)
        timed = ScriptedPolicy(targets)
        found = run_delayed_episode(arm, timed, Timing(), 4, 40)
    np.testing.assert_array_equal(found.episode.joint_targets, expected.joint_targets)
    assert found.episode.success == expected.success
    for one, other in zip(timed.observations, plain.observations, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.measured_joint_positions, other.measured_joint_positions)
        assert one.stamp_s == other.stamp_s
        if one.executed_actions is not None:
            np.testing.assert_array_equal(one.executed_actions, other.executed_actions)


def test_a_sequential_arm_stands_for_the_delay():
    """4 steps: 0 0 0 0 1 .. 8, then 8 again 4 times, and so on; the chunk alone is told of."""
    arm, policy = CountingArm(), ScriptedPolicy(TARGETS)
    result = run_delayed_episode(arm, policy, Timing("sequential", 0.2), 4, 24)
    expected = [0, 0, 0, 0, *range(1, 9), 8, 8, 8, 8, *range(9, 17)]
    assert result.episode.joint_targets[:, 0].tolist() == expected
    assert result.seams == (16,)
    np.testing.assert_array_equal(policy.observations[1].executed_actions, TARGETS[:8])


@pytest.mark.parametrize("delay_steps", range(11))
def test_an_overlapped_chunk_is_timed_from_its_picture_and_told_what_is_committed(delay_steps):
    """Each prefix is what was followed in the steps after its picture."""
    policy, result = overlapped(delay_steps)
    followed = result.episode.joint_targets
    period = max(8, delay_steps)
    for index, committed in enumerate(policy.committed):
        first = period * index
        whole = followed[first : first + delay_steps]
        np.testing.assert_array_equal(committed[: len(whole)], whole)
        assert committed.shape == (delay_steps, 8)
    # After the first chunk has come, an arm that never waits is where it is meant to be.
    if delay_steps < 10:
        np.testing.assert_array_equal(
            followed[period + delay_steps :], TARGETS[period + delay_steps : 60]
        )
    assert result.num_late == 0


@pytest.mark.parametrize("delay_steps", [0, 3, 8, 10])
@pytest.mark.parametrize("kind", ["overlapped", "overlapped_without_prefix"])
def test_an_overlapped_policy_is_told_what_was_followed_between_its_pictures(delay_steps, kind):
    policy, result = overlapped(delay_steps, kind)
    steps = [round(observation.stamp_s / 0.05) for observation in policy.observations]
    for before, now, observation in zip(steps, steps[1:], policy.observations[1:], strict=False):
        np.testing.assert_array_equal(
            observation.executed_actions, result.episode.joint_targets[before:now]
        )


def test_overlapped_without_delay_shows_the_policy_what_sequential_does():
    arm, plain = CountingArm(), TimedPolicy(TARGETS)
    sequential = run_delayed_episode(arm, plain, Timing(), 4, 40)
    policy, result = overlapped(0, max_steps=40)
    np.testing.assert_array_equal(result.episode.joint_targets, sequential.episode.joint_targets)
    for one, other in zip(policy.observations, plain.observations, strict=True):
        assert one.stamp_s == other.stamp_s
        if one.executed_actions is not None:
            np.testing.assert_array_equal(one.executed_actions, other.executed_actions)


def test_a_policy_without_look_ahead_is_asked_before_its_chunk_ends():
    """3 steps of delay: pictures every 5 steps, and the arm never waits after the first."""
    arm, policy = CountingArm(), TimedPolicy(TARGETS, max_delay_steps=0)
    timing = Timing("overlapped_without_prefix", 0.15)
    result = run_delayed_episode(arm, policy, timing, 4, 40)
    assert [round(seen.stamp_s / 0.05) for seen in policy.observations][:4] == [0, 5, 10, 15]
    np.testing.assert_array_equal(result.episode.joint_targets[3:], TARGETS[3:40])
    expected = np.concatenate(
        (result.episode.joint_targets[:5], result.episode.joint_targets[4:5].repeat(3, 0))
    )
    np.testing.assert_array_equal(policy.observations[1].executed_actions, expected)


def test_a_chunk_of_which_nothing_is_left_is_dropped_and_counted():
    """9 steps of delay, chunks of 8: no action is ever followed, and nothing fails."""
    arm, policy = CountingArm(), TimedPolicy(TARGETS, max_delay_steps=0)
    timing = Timing("overlapped_without_prefix", 0.45)
    result = run_delayed_episode(arm, policy, timing, 4, 40)
    assert result.num_late == 4
    assert not result.episode.joint_targets.any()


def test_jitter_is_drawn_once_for_a_seed_and_within_its_bounds():
    timing, generator = Timing("overlapped", 0.2, 0.1), np.random.default_rng(3)
    drawn = [timing.drawn_steps(0.05, generator) for _ in range(200)]
    assert (min(drawn), max(drawn)) == (2, 6)
    assert timing.planned_steps(0.05) == 6
    runs = [
        run_delayed_episode(CountingArm(), TimedPolicy(TARGETS), timing, 4, 60) for _ in range(2)
    ]
    assert runs[0].seams == runs[1].seams


def test_a_smoothed_motion_is_the_one_of_least_bends_from_standing_on():
    """Delay 4: the first chunk asks for 5, 6, .. at once; smoothed, it begins slowly."""
    policy = TimedPolicy(TARGETS)
    timing = Timing("overlapped_without_prefix", 0.2, smoothness=10.0)
    result = run_delayed_episode(CountingArm(), policy, timing, 4, 12)
    motion = np.concatenate(([0.0, 0.0], result.episode.joint_targets[:, 0]))
    assert np.abs(np.diff(motion, 2)).max() < 1.5
    assert (motion[:6] == 0.0).all()
    assert result.episode.joint_targets[4, -1] == 5.0
    np.testing.assert_array_equal(
        policy.observations[1].executed_actions, result.episode.joint_targets[:8]
    )


def test_what_a_policy_was_not_trained_for_is_refused():
    plain = ScriptedPolicy(TARGETS)
    with pytest.raises(ValueError, match=r"not trained to go on from committed actions"):
        run_delayed_episode(CountingArm(), plain, Timing("overlapped", 0.1), 4, 20)
    with pytest.raises(ValueError, match=r"must not be negative"):
        run_delayed_episode(CountingArm(), plain, Timing("sequential", -0.1), 4, 20)
    with pytest.raises(ValueError, match=r"seam_smoothness -1 must not be negative"):
        run_delayed_episode(CountingArm(), plain, Timing(smoothness=-1.0), 4, 20)
    plain.spec = dataclasses.replace(plain.spec, observation_mode="clip")
    with pytest.raises(ValueError, match=r"sees in clips"):
        run_delayed_episode(CountingArm(), plain, Timing(), 4, 20)
