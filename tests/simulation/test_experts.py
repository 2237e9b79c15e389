# SPDX-License-Identifier: Apache-2.0
"""The tasks' experts, asked where no planner's path leads.

Chunks of 8 targets at 20 Hz; the planners' joints move at most 0.9 rad/s, 0.045 rad a step; the
fingers are fully open (0.04 m) or closed (-0.01 m). Cubes have a half edge of 20 mm.
"""

import numpy as np
import pytest

from par_model.evaluation.labelled_episodes import (
    ExpertActs,
    disturb_start,
    run_labelled_episode,
)
from par_model.simulation.demonstrations import Disturbance, NoiseSettings
from par_model.simulation.hand_motion import CLOSED_M, OPEN_M
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.tasks import FIRST_SELECTION_SEED, PAPER_TASKS

QUIET = NoiseSettings(share=0.0)
A_QUARTER = NoiseSettings(share=1.0, probability=0.25)
FASTEST_RAD = 0.9 * 0.05


@pytest.fixture(scope="module", params=PAPER_TASKS)
def arm(request):
    with ManiSkillArm(request.param) as arm:
        arm.reset(0)
        yield arm


def play(arm, expert, seed, noise):
    arm.reset(seed)
    expert.reset()
    return run_labelled_episode(arm, expert, ExpertActs(Disturbance(seed, noise, 7)), 8, 200)


@pytest.mark.sim
def test_it_does_the_task_and_its_labels_are_whole(arm):
    """Three undisturbed and five disturbed episodes; one of the latter may fail."""
    expert = arm.task.expert(arm)
    first = FIRST_SELECTION_SEED
    quiet = [play(arm, expert, seed, QUIET) for seed in range(first, first + 3)]
    disturbed = [play(arm, expert, seed, A_QUARTER) for seed in range(first, first + 5)]

    assert all(episode.success[-1] for episode in quiet)
    assert sum(bool(episode.success[-1]) for episode in disturbed) >= 4
    for episode in [*quiet, *disturbed]:
        assert np.isin(episode.labels[:, 7], [OPEN_M, CLOSED_M]).all()
        inside = np.arange(1, episode.num_steps) % 8 != 0
        steps_rad = np.abs(np.diff(episode.labels[:, :7], axis=0)[inside])
        assert steps_rad.max() < 1.3 * FASTEST_RAD


@pytest.mark.sim
def test_it_goes_on_from_disturbed_starts_that_depend_on_the_seed_alone(arm):
    expert = arm.task.expert(arm)
    starts, successes = [], 0
    for seed in (3, 4, 5, 3):
        disturb_start(arm, expert, seed, 8)
        starts.append(arm.read_joints()[0])
        episode = run_labelled_episode(arm, expert, ExpertActs(Disturbance(0, QUIET, 7)), 8, 200)
        successes += bool(episode.success[-1])

    np.testing.assert_array_equal(starts[0], starts[3])
    assert np.abs(starts[0] - starts[1]).max() > 0.05
    assert successes >= 3


@pytest.mark.sim
def test_a_closed_hand_beside_the_cube_opens_and_rises_and_that_teaches():
    """The fingers are closed 40 mm beside the cube, at its height: a grasp was missed."""
    with ManiSkillArm("PickCube") as arm:
        arm.reset(FIRST_SELECTION_SEED)
        expert = arm.task.expert(arm)
        assert not expert.teaches()
        _put_hand(arm, expert, beside_m=0.04, finger_m=0.0)

        label = expert.label(8)

        assert (label[:, 7] == OPEN_M).all()
        heights_m = [expert.hand.place_at(joints[:7]).position_m[2] for joints in label]
        assert heights_m[-1] > heights_m[0] + 0.005
        assert expert.teaches()


@pytest.mark.sim
def test_fingers_around_the_cube_close():
    """8 mm beside its centre is as good as at it."""
    with ManiSkillArm("StackCube") as arm:
        for beside_m in (0.0, 0.008):
            arm.reset(FIRST_SELECTION_SEED)
            expert = arm.task.expert(arm)
            _put_hand(arm, expert, beside_m, finger_m=0.04)
            label = expert.label(8)
            assert (label[:, 7] == CLOSED_M).all()
            np.testing.assert_array_equal(label[1:6], label[:5])


def _put_hand(arm, expert, beside_m, finger_m):
    grasp = expert._grasp()
    place = type(grasp)(
        grasp.position_m + beside_m * grasp.orientation.as_matrix()[:, 0], grasp.orientation
    )
    joints = expert.hand.joints_at(place, arm.read_joints()[0][:7])
    robot = arm.maniskill_env.agent.robot
    robot.set_qpos(np.concatenate([joints, [finger_m, finger_m]])[None].astype(np.float32))
    robot.set_qvel(np.zeros((1, 9), np.float32))
