# SPDX-License-Identifier: Apache-2.0
"""The direct loop with a scripted policy: chunks of 8, the same float64 targets, its own end."""

import numpy as np
import pytest

from par_model.evaluation.direct_loop import run_episode
from par_model.interface import ActionChunk, PolicySpec
from par_model.simulation.demonstrations import NoiseSettings, record_demonstration
from par_model.simulation.maniskill_env import JOINT_NAMES, ManiSkillArm
from par_model.simulation.tasks import task

SEED = 4


class ScriptedPolicy:
    """Plays given targets, 8 at a time, and keeps what it was shown."""

    def __init__(self, targets, image_size=128):
        self.spec = PolicySpec(
            arm="panda",
            joint_names=JOINT_NAMES,
            image_height=image_size,
            image_width=image_size,
            num_actions=8,
            step_s=0.05,
            instructions=(task("PushCube").instruction,),
        )
        self.targets = targets
        self.observations = []
        self.resets = []

    def reset(self, instruction, seed):
        self.spec.require_instruction(instruction)
        self.resets.append((instruction, seed))
        self.observations = []

    def observe(self, observation):
        observation.validate(self.spec)
        self.observations.append(observation)

    def act(self):
        start = 8 * (len(self.observations) - 1)
        rows = [self.targets[min(start + row, len(self.targets) - 1)] for row in range(8)]
        return ActionChunk(np.stack(rows), JOINT_NAMES, 0.05, self.observations[-1].stamp_s)


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
