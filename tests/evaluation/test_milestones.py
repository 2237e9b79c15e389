# SPDX-License-Identifier: Apache-2.0
"""Kinds of failure from measured positions: each kind of each task once, by hand-made episodes.

Cubes have a half edge of 20 mm; the gripper's centre must come within 25 mm to grasp.
"""

import numpy as np
import pytest

from par_model.evaluation.milestones import MilestoneWatcher
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.milestones import Milestones, SceneMoment, summarise
from par_model.simulation.task import SUCCESS
from par_model.simulation.tasks import PAPER_TASKS, TASKS

CUBE = (0.0, 0.0, 0.02)
GOAL = (0.2, 0.0, 0.0)


def episode(second, second_place, *moments):
    """moments: (cube, gripper, grasped); the cube starts at CUBE."""
    return summarise(
        [
            SceneMoment(
                {"cube": np.array(cube), second: np.array(second_place)},
                np.array(gripper),
                grasped,
            )
            for cube, gripper, grasped in [(CUBE, (0.3, 0.0, 0.3), False), *moments]
        ]
    )


FAR = (0.3, 0.0, 0.3)
NEAR = (0.0, 0.0, 0.03)
PUSHES = {
    "cube moved by less than 1 cm": [(CUBE, FAR, False)],
    "pushed aside": [((0.12, 0.11, 0.02), FAR, False)],
    "stopped short of the goal": [((0.05, 0.01, 0.02), FAR, False)],
    "pushed too far": [((0.32, 0.01, 0.02), FAR, False)],
}
IN_AIR = (0.05, 0.0, 0.2)
PICKS = {
    "never reached the cube": [(CUBE, FAR, False)],
    # Closed fingers push it, which ManiSkill calls a grasp.
    "cube knocked away": [((0.05, 0.0, 0.02), (0.05, 0.0, 0.06), True)],
    "reached, not grasped": [(CUBE, NEAR, False)],
    "grasped, lost": [(IN_AIR, IN_AIR, True), ((0.05, 0.0, 0.02), IN_AIR, False)],
    "held, stopped short of the goal": [(IN_AIR, IN_AIR, True)],
    "at the goal, not at rest": [((0.2, 0.0, 0.015), GOAL, True)],
}
OVER = (0.2, 0.01, 0.06)
STACKS = {
    "never reached the cube": [(CUBE, FAR, False)],
    # Closed fingers push it, which ManiSkill calls a grasp.
    "cube knocked away": [((0.05, 0.0, 0.02), (0.05, 0.0, 0.06), True)],
    "reached, not grasped": [(CUBE, NEAR, False)],
    "grasped, lost": [(IN_AIR, IN_AIR, True), ((0.05, 0.0, 0.02), IN_AIR, False)],
    "held, not over the other cube": [(IN_AIR, IN_AIR, True)],
    "held over the other cube, not released": [(OVER, OVER, True)],
    "released over the other cube, not stacked": [(OVER, OVER, True), (OVER, FAR, False)],
}
CASES = [
    (task, second, kind, moments)
    for task, second, kinds in (
        ("PushCube", "goal", PUSHES),
        ("PickCube", "goal", PICKS),
        ("StackCube", "cube_b", STACKS),
    )
    for kind, moments in kinds.items()
]


@pytest.mark.parametrize(
    ("task", "second", "kind", "moments"), CASES, ids=[f"{c[0]}: {c[2]}" for c in CASES]
)
def test_each_kind_is_found(task, second, kind, moments):
    milestones = episode(second, GOAL, *moments)
    assert TASKS[task].outcome(False, milestones) == kind
    assert TASKS[task].outcome(True, milestones) == SUCCESS


def test_every_kind_has_a_case():
    assert {(task, kind) for task in PAPER_TASKS for kind in TASKS[task].failure_kinds} == {
        (task, kind) for task, _, kind, _ in CASES
    }


def test_numbers():
    """Raised by 18 cm, moved by hypot(5, 18) cm, grasped after step 1 and for one step."""
    milestones = episode("goal", GOAL, *PICKS["grasped, lost"])
    assert milestones.initial_positions == {"cube": list(CUBE), "goal": list(GOAL)}
    assert milestones.max_cube_raised_m == pytest.approx(0.18)
    assert milestones.max_cube_moved_m == pytest.approx(0.1868, abs=1e-4)
    assert (milestones.first_grasp_step, milestones.num_grasped_steps) == (1, 1)
    assert not milestones.is_grasped_at_end
    assert Milestones(**vars(milestones)) == milestones


@pytest.mark.sim
def test_the_simulator_is_measured():
    """At reset of PickCube the gripper is 10 to 40 cm above the cube and holds nothing."""
    with ManiSkillArm("PickCube") as arm:
        arm.reset(4)
        watcher = MilestoneWatcher(arm)
        watcher.started()
        arm.step(arm.read_joints()[0])
        watcher.stepped()
        milestones = watcher.milestones()
    assert 0.1 < milestones.min_gripper_cube_m < 0.4
    assert milestones.first_grasp_step is None
    assert milestones.max_cube_moved_m < 0.001
    assert arm.task.outcome(False, milestones) == "never reached the cube"
