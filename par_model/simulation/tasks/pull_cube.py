# SPDX-License-Identifier: Apache-2.0
"""PullCube: pull a blue cube 20 cm towards the robot, onto a target on the table."""

from typing import Any

import numpy as np

from par_model.simulation.milestones import CUBE_FEATURES, MOVED_M, Milestones
from par_model.simulation.task import Task

# From the cube's centre to the fingers', in x: half a cube (20 mm), half the fingers' thickness
# (10 mm), and room for the way down.
_BEHIND_M = 0.05
# Height of the fingers' centre above the cube's on the way to behind it.
_CLEAR_M = 0.08
# Where the fingers stop, in x from the goal's centre: the cube then lies 2 cm from that centre.
_STOP_M = 0.05


def plan(environment: Any, seed: int) -> None:
    """Close the gripper, go over the cube, down behind it, and back to the goal.

    ManiSkill's own solution goes down in a straight line, and pushes the cube up to 5.5 cm away.
    """
    from mani_skill.examples.motionplanning.panda.motionplanner import PandaArmMotionPlanningSolver
    from mani_skill.utils.structs import Pose

    environment.reset(seed=seed)
    scene = environment.unwrapped
    planner = PandaArmMotionPlanningSolver(
        environment,
        vis=False,
        base_pose=scene.agent.robot.pose,
        visualize_target_grasp_pose=False,
        print_env_info=False,
    )
    orientation = scene.agent.tcp.pose.sp.q
    behind = scene.obj.pose.sp.p + np.array([_BEHIND_M, 0.0, 0.0])
    over = behind + np.array([0.0, 0.0, _CLEAR_M])
    stop = np.array([scene.goal_region.pose.sp.p[0] + _STOP_M, *behind[1:]])
    planner.close_gripper()
    for position in (over, behind, stop):
        if planner.move_to_pose_with_screw(Pose.create_from_pq(position, orientation)) == -1:
            return


def failure_kind(milestones: Milestones) -> str:
    if milestones.max_cube_moved_m < MOVED_M:
        return "cube moved by less than 1 cm"
    missing_x_m, missing_y_m, _ = milestones.missing_m("goal")
    # The goal lies in -x from the cube's start.
    if abs(missing_y_m) > abs(missing_x_m):
        return "pulled aside"
    return "stopped short of the goal" if missing_x_m < 0 else "pulled too far"


PULL_CUBE = Task(
    name="PullCube",
    maniskill_id="PullCube-v1",
    instruction="Pull a cube onto a goal region on the robot's side of it.",
    objects={"cube": "obj", "goal": "goal_region"},
    planner=plan,
    failure_kinds=(
        "cube moved by less than 1 cm",
        "pulled aside",
        "stopped short of the goal",
        "pulled too far",
    ),
    failure_kind=failure_kind,
    features=CUBE_FEATURES,
)
