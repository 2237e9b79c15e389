# SPDX-License-Identifier: Apache-2.0
"""An arm that is not a Panda: SO-100, five joints and a jaw, pushes its cube."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from par_model import collect
from par_model.interface import PolicySpec
from par_model.simulation.demonstrations import NoiseSettings, record_demonstration
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.robots import PANDA, SO100
from par_model.simulation.tasks import PAPER_TASKS, TASKS, tasks_of_policy
from par_model.training.lerobot_dataset import open_episodes
from par_ros.graph_arguments import SimArguments
from par_ros.node_graph import sim_graph
from par_ros.parameters import read_arm_spec

TASK = "PushCubeSO100"


@pytest.fixture(scope="module")
def arm():
    with ManiSkillArm(TASK) as made:
        yield made


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_guard_s_arm_file_has_the_simulated_joints(task):
    assert read_arm_spec(task.robot.name).joint_names == task.robot.joint_names


def arm_of(node: str, *, view: bool) -> object:
    """The arm that a node of this task's graph gets."""
    instruction = TASKS["PushCube"].instruction
    graph = sim_graph(SimArguments(task=TASK, instruction=instruction, view=view))
    return {entry.name: entry.parameters.get("arm") for entry in graph.nodes}[node]


def test_the_graph_s_guard_gets_the_task_s_arm():
    assert arm_of("safety_node", view=False) == "so100"


def test_the_graph_s_viewer_gets_the_task_s_arm():
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    assert arm_of("viewer_node", view=True) == "so100"


def test_a_policy_s_tasks_are_those_of_its_joints():
    """Each policy knows the sentences of the paper's tasks, whatever its arm."""
    known = tuple(TASKS[name].instruction for name in (*PAPER_TASKS, TASK))
    spec = PolicySpec("so100", SO100.joint_names, 8, 0.05, 128, 128, known)
    assert tasks_of_policy(spec) == [TASK]
    assert tasks_of_policy(replace(spec, joint_names=PANDA.joint_names)) == list(PAPER_TASKS)


def test_a_robot_s_views_are_its_own():
    (front,) = SO100.named_views(("front",), 64)
    assert (front.eye_m, front.width) == ((-0.12, 0.36, 0.36), 64)
    assert PANDA.named_views(("front", "right"), 64)[0].eye_m == (0.6, 0.7, 0.6)
    with pytest.raises(ValueError, match=r"so100 has no view 'right'; it has front\."):
        SO100.named_views(("front", "right"), 64)


@pytest.mark.sim
def test_the_joints_are_the_arm_file_s_and_stand_within_its_limits(arm):
    arm.reset(3)
    positions, velocities = arm.read_joints()
    limits = read_arm_spec("so100").limits
    assert positions.shape == velocities.shape == (6,)
    assert (positions[:-1] > limits.min_position).all()
    assert (positions[:-1] < limits.max_position).all()
    with pytest.raises(ValueError, match=r"must be 6 finite numbers .*shoulder_pan"):
        arm.step(np.zeros(8))


@pytest.mark.sim
@pytest.mark.parametrize("seed", [0, 2])
def test_the_expert_pushes_the_cube_into_the_goal(arm, seed):
    """Disturbed or not; inside each chunk of 8 within the velocities of the arm file. Between two
    chunks the expert begins anew from what is measured, and the targets may step."""
    noise = NoiseSettings(share=float(seed == 0))
    done = record_demonstration(arm, seed, noise, 8)
    assert done.noisy == (seed == 0)
    assert done.success[-1]
    assert done.actions.shape[1] == len(SO100.joint_names)
    limits = read_arm_spec("so100").limits
    speeds = np.abs(np.diff(done.actions[: done.num_planned_steps, :-1], axis=0)) / arm.step_s
    inside = np.arange(len(speeds)) % 8 != 7
    assert (speeds[inside].max(axis=0) < limits.max_velocity).all()


@pytest.mark.sim
def test_the_expert_labels_any_state(arm):
    """Chunk by chunk from what is measured, as under a policy: the cube comes to the goal."""
    arm.reset(4)
    expert = TASKS[TASK].expert(arm)
    for _ in range(18):
        for targets in expert.label(8):
            result = arm.step(targets)
    assert result.success


@pytest.mark.sim
def test_collect_names_the_arm(tmp_path: Path):
    out = tmp_path / "data"
    words = ["--task", TASK, "--num-demos", "1", "--out", str(out), "--num-workers", "1"]
    assert collect.main(words) == 0
    assert json.loads((out / "meta/info.json").read_text())["robot_type"] == "so100"
    source = open_episodes(out)
    assert source.arm == "so100"
    assert source.joint_names == SO100.joint_names
    assert source.read(0).actions.shape[1] == 6
    recording = json.loads((out / "meta/recording.json").read_text())
    assert recording["camera_eye_m"] == [-0.12, 0.36, 0.36]
    card = (out / "README.md").read_text()
    assert "tags: [LeRobot, ManiSkill, so100]" in card
    assert "| units | rad, the gripper too |" in card
