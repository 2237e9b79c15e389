# SPDX-License-Identifier: Apache-2.0
"""Recorded demonstrations: clean labels, noise in blocks of 8, a held end, exact replay."""

import numpy as np
import pytest

from par_model.simulation.demonstrations import (
    Disturbance,
    FailedDemonstration,
    NoiseSettings,
    record_demonstration,
)
from par_model.simulation.maniskill_env import ManiSkillArm

NUM_HOLD_STEPS = 16


def test_the_share_of_disturbed_seeds_is_a_matter_of_the_seed():
    third = NoiseSettings(share=1 / 3)
    disturbed = [Disturbance(seed, third, 7).noisy for seed in range(3000)]

    assert 0.30 < np.mean(disturbed) < 0.37
    assert disturbed == [Disturbance(seed, third, 7).noisy for seed in range(3000)]
    assert not any(Disturbance(seed, NoiseSettings(share=0.0), 7).noisy for seed in range(100))


@pytest.fixture(scope="module")
def arm():
    with ManiSkillArm("PushCube") as made:
        yield made


@pytest.fixture(scope="module")
def noisy(arm):
    return record_demonstration(arm, 5, NoiseSettings(share=1.0), NUM_HOLD_STEPS)


@pytest.mark.sim
def test_noise_is_on_what_is_sent_and_not_on_the_label(noisy):
    planned = slice(0, noisy.num_planned_steps)
    offset = noisy.executed_actions[planned, :7] - noisy.actions[planned, :7]
    blocks = [offset[start : start + 8] for start in range(0, len(offset), 8)]

    assert noisy.noisy
    for block in blocks:
        np.testing.assert_allclose(block, np.broadcast_to(block[0], block.shape), atol=1e-6)
    num_disturbed = sum(bool(np.abs(block).max() > 1e-6) for block in blocks)
    assert 0 < num_disturbed < len(blocks)
    assert 0.01 < np.abs(offset).max() < 0.15
    np.testing.assert_array_equal(noisy.executed_actions[:, 7], noisy.actions[:, 7])


@pytest.mark.sim
def test_the_end_is_held_and_successful(noisy):
    hold = slice(noisy.num_planned_steps, None)

    assert len(noisy.success) == noisy.num_planned_steps + NUM_HOLD_STEPS == len(noisy.frames)
    assert noisy.success[-1]
    np.testing.assert_array_equal(noisy.executed_actions[hold], noisy.actions[hold])
    assert (noisy.actions[hold] == noisy.actions[noisy.num_planned_steps - 1]).all()


@pytest.mark.sim
def test_frames_and_states_belong_to_the_moment_before_the_action(arm, noisy):
    """Sending executed_actions again gives every stored state and picture, bit for bit."""
    arm.reset(noisy.seed)
    for step, target in enumerate(noisy.executed_actions):
        measured = arm.read_joints()[0].astype(np.float32)
        np.testing.assert_array_equal(measured, noisy.measured_joint_positions[step])
        if step % 20 == 0:
            np.testing.assert_array_equal(arm.capture(), noisy.frames[step])
            positions = np.concatenate(list(arm.environment_state().values()))
            np.testing.assert_array_equal(
                positions.astype(np.float32), noisy.environment_state[step]
            )
        assert arm.step(target.astype(np.float64)).success == noisy.success[step]


@pytest.mark.sim
def test_a_seed_without_a_plan_says_so(arm):
    """Seed 9 is one where the planner's screw motion fails (measured)."""
    with pytest.raises(FailedDemonstration):
        record_demonstration(arm, 9, NoiseSettings(share=0.0), NUM_HOLD_STEPS)
