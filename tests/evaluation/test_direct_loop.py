# SPDX-License-Identifier: Apache-2.0
"""The direct loop with a scripted policy: chunks of 8, the same float64 targets, its own end."""

import dataclasses

import numpy as np
import pytest

from par_model.evaluation.direct_loop import run_episode
from par_model.simulation.demonstrations import NoiseSettings, record_demonstration
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.tasks import task
from tests.evaluation.scripted_loop import CountingArm, ScriptedPolicy

SEED = 4


@pytest.mark.parametrize("mode", ["image", "clip"])
def test_an_observation_is_of_its_step_and_tells_of_the_chunk_before(mode):
    """Rows of 24 distinct targets. Clips show what was seen after every second action."""
    arm, targets = CountingArm(), np.arange(24.0 * 8).reshape(24, 8)
    policy = ScriptedPolicy(targets)
    policy.spec = dataclasses.replace(policy.spec, observation_mode=mode)
    result = run_episode(arm, policy, SEED, 24)

    np.testing.assert_array_equal(arm.targets, targets)
    np.testing.assert_array_equal(result.joint_targets, targets)
    assert len(policy.observations) == 3
    for step, observation in zip((0, 8, 16), policy.observations, strict=True):
        assert (observation.image == step).all()
        assert (observation.measured_joint_positions == step).all()
        assert observation.stamp_s == pytest.approx(0.05 * step)
        if step:
            np.testing.assert_array_equal(observation.executed_actions, targets[step - 8 : step])
        if step and mode == "clip":
            shown = observation.recent_images[:, 0, 0, 0].tolist()
            assert shown == [step - 6, step - 4, step - 2, step]


@pytest.fixture(scope="module")
def arm():
    with ManiSkillArm("PushCube") as made:
        yield made


@pytest.fixture(scope="module")
def demonstration(arm):
    return record_demonstration(arm, SEED, NoiseSettings(share=0.0), 0)


@pytest.mark.sim
def test_a_replayed_demonstration_succeeds_at_its_first_success(arm, demonstration):
    targets = demonstration.actions.astype(np.float64)
    policy = ScriptedPolicy(targets)
    result = run_episode(arm, policy, SEED, 200, policy_seed=7)

    first_success = int(np.argmax(demonstration.success)) + 1
    assert result.success
    assert result.num_steps == first_success
    assert result.joint_targets.dtype == np.float64
    np.testing.assert_array_equal(result.joint_targets, targets[:first_success])
    assert policy.resets == [(task("PushCube").instruction, 7)]
    assert len(result.chunk_latencies_s) == len(policy.observations) == -(-first_success // 8)


@pytest.mark.sim
def test_the_policy_sees_what_the_arm_saw_and_was_sent(arm, demonstration):
    targets = demonstration.actions.astype(np.float64)
    policy = ScriptedPolicy(targets)
    run_episode(arm, policy, SEED, 40)

    assert policy.observations[0].executed_actions is None
    for index, observation in enumerate(policy.observations):
        np.testing.assert_array_equal(observation.image, demonstration.frames[8 * index])
        np.testing.assert_array_equal(
            observation.measured_joint_positions.astype(np.float32),
            demonstration.measured_joint_positions[8 * index],
        )
        assert observation.stamp_s == pytest.approx(0.4 * index)
        if index:
            np.testing.assert_array_equal(
                observation.executed_actions, targets[8 * index - 8 : 8 * index]
            )


@pytest.mark.sim
def test_the_step_limit_ends_a_chunk_in_the_middle(arm, demonstration):
    policy = ScriptedPolicy(demonstration.actions.astype(np.float64))
    result = run_episode(arm, policy, SEED, 13)
    assert (result.success, result.num_steps, len(result.chunk_latencies_s)) == (False, 13, 2)


@pytest.mark.sim
def test_a_policy_for_another_picture_size_is_refused(arm, demonstration):
    policy = ScriptedPolicy(demonstration.actions.astype(np.float64), image_size=96)
    with pytest.raises(ValueError, match=r"image must be uint8 \[96, 96, 3\]"):
        run_episode(arm, policy, SEED, 200)
