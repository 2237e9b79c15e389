# SPDX-License-Identifier: Apache-2.0
"""The gripper actions' messages: the only file that touches their fields.

control_msgs and franka_msgs come with ros2_control and franka_ros2, not from PyPI: they are
imported when they are asked for.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from action_msgs.msg import GoalStatus
from sensor_msgs.msg import JointState

from par_ros.control.arm_spec import GripperSpec
from par_ros.control.gripper_adapter import GripperGoal, Outcome
from par_ros.control.gripper_driver import GripperDriver

_OUTCOMES = {
    GoalStatus.STATUS_SUCCEEDED: Outcome.SUCCEEDED,
    GoalStatus.STATUS_CANCELED: Outcome.CANCELED,
    GoalStatus.STATUS_ABORTED: Outcome.ABORTED,
}


@dataclass(frozen=True)
class GripperAction:
    """One action of a driver.

    Attributes:
        name: the action's name.
        action_type: a generated action class.
        goal_message: a goal of that class.
    """

    name: str
    action_type: Any
    goal_message: Callable[[GripperGoal], Any]


@dataclass(frozen=True)
class GripperActions:
    """The actions for grasping and moving; the same action twice if one serves both."""

    grasp: GripperAction
    move: GripperAction

    def of(self, goal: GripperGoal) -> GripperAction:
        """The action for `goal`."""
        return self.grasp if goal.grasp else self.move

    @property
    def distinct(self) -> tuple[GripperAction, ...]:
        """Each action once."""
        return (self.grasp,) if self.grasp is self.move else (self.grasp, self.move)


def gripper_actions(gripper: GripperSpec) -> GripperActions:
    """The actions of the gripper's driver. Raises ValueError where their package is missing."""
    driver = gripper.driver
    assert driver is not None, "a gripper with a trajectory controller has no action"
    return _ACTIONS[driver.kind](gripper, driver)


def outcome_of(status: int, result: Any) -> tuple[Outcome, str]:
    """How a goal ended, and the server's own words.

    A controller that does not allow stalling aborts the goal where the fingers meet an object.
    """
    reason = str(getattr(result, "error", ""))
    if getattr(result, "stalled", False):
        return Outcome.STALLED, reason
    return _OUTCOMES.get(status, Outcome.ABORTED), reason


def _gripper_command(gripper: GripperSpec, driver: GripperDriver) -> GripperActions:
    action_type = _action_type("control_msgs", "GripperCommand")

    def goal_message(goal: GripperGoal) -> Any:
        message = action_type.Goal()
        message.command.position = goal.position
        message.command.max_effort = driver.effort
        return message

    action = GripperAction(driver.action, action_type, goal_message)
    return GripperActions(action, action)


def _parallel_gripper_command(gripper: GripperSpec, driver: GripperDriver) -> GripperActions:
    action_type = _action_type("control_msgs", "ParallelGripperCommand")
    assert driver.speed_m_s is not None
    speed = driver.speed_m_s * abs(gripper.command_scale)
    # A linkage's joint is not the one that the arm file names.
    names = [gripper.command_joint_name] if driver.linkage is None else []

    def goal_message(goal: GripperGoal) -> Any:
        message = action_type.Goal()
        message.command = JointState(
            name=names,
            position=[goal.position],
            # m/s mean nothing to a joint that turns: its controller's own limit holds.
            velocity=[speed] if driver.linkage is None else [],
            effort=[driver.effort],
        )
        return message

    action = GripperAction(driver.action, action_type, goal_message)
    return GripperActions(action, action)


def _franka(gripper: GripperSpec, driver: GripperDriver) -> GripperActions:
    grasp_type, move_type = (_action_type("franka_msgs", name) for name in ("Grasp", "Move"))

    def grasp_message(goal: GripperGoal) -> Any:
        message = grasp_type.Goal()
        message.width = 2.0 * goal.finger_m
        message.speed = driver.speed_m_s
        message.force = driver.effort
        message.epsilon.inner = message.epsilon.outer = driver.epsilon_m
        return message

    def move_message(goal: GripperGoal) -> Any:
        message = move_type.Goal()
        message.width = 2.0 * goal.finger_m
        message.speed = driver.speed_m_s
        return message

    return GripperActions(
        GripperAction(f"{driver.action}/grasp", grasp_type, grasp_message),
        GripperAction(f"{driver.action}/move", move_type, move_message),
    )


_ACTIONS = {
    "gripper_command": _gripper_command,
    "parallel_gripper_command": _parallel_gripper_command,
    "franka": _franka,
}


def _action_type(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"{package}.action"), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"action {package}/action/{name} of gripper.driver is not installed: no goal can be "
            f"sent; install ros-<distro>-{package.replace('_', '-')}, or build it and source its "
            "workspace"
        ) from error
