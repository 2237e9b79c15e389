# SPDX-License-Identifier: Apache-2.0
"""PullCube: its planner pulls the cube onto the goal, and each kind of failure is found.

The cube (half edge 20 mm) starts at the origin; the goal lies 20 cm nearer to the robot (-x), with
a radius of 10 cm.
"""

import numpy as np
import pytest

from par_model.simulation.demonstrations import NoiseSettings, record_demonstration
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.milestones import SceneMoment, summarise
from par_model.simulation.tasks import task

CUBE = np.array([0.0, 0.0, 0.02])
GOAL = np.array([-0.2, 0.0, 0.001])
GRIPPER = np.array([0.3, 0.0, 0.3])
ENDS = {
    "cube moved by less than 1 cm": (0.005, 0.0, 0.02),
    "pulled aside": (-0.12, 0.11, 0.02),
    "stopped short of the goal": (-0.05, 0.01, 0.02),
    "pulled too far": (-0.32, 0.01, 0.02),
}


@pytest.mark.parametrize(("kind", "end"), ENDS.items())
def test_each_kind_of_failure_is_found(kind, end):
    moments = [
        SceneMoment({"cube": np.array(place), "goal": GOAL}, GRIPPER, False)
        for place in (CUBE, end)
    ]
    assert task("PullCube").outcome(False, summarise(moments)) == kind


def test_every_kind_has_a_case():
    assert set(task("PullCube").failure_kinds) == set(ENDS)


@pytest.mark.sim
def test_the_planner_pulls_the_cube_from_behind():
    """The cube moves towards the robot alone: not pushed away on the fingers' way down behind it,
    not to the side; it ends within 5 cm of the goal's centre."""
    with ManiSkillArm("PullCube") as arm:
        for seed in range(3):
            demonstration = record_demonstration(arm, seed, NoiseSettings(share=0.0), 16)
            positions_TP3 = demonstration.environment_state.reshape(-1, 2, 3)
            moved_T3 = positions_TP3[:, 0] - positions_TP3[0, 0]
            assert moved_T3[:, 0].max() < 0.002
            assert np.abs(moved_T3[:, 1]).max() < 0.01
            assert np.linalg.norm((positions_TP3[-1, 0] - positions_TP3[-1, 1])[:2]) < 0.05
            assert demonstration.success[-1]
