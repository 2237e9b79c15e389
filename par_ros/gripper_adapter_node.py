# SPDX-License-Identifier: Apache-2.0
"""Drives a gripper that has an action: gripper_trajectory in, one goal at a time out.

Goals follow from gripper_trajectory alone, as the arm file's gripper.driver says. On any stop
(guard disengaged, e-stop, silence, deactivation, shutdown) the gripper keeps its goal: the node
never cancels a goal but to replace it. /diagnostics says what the action server does. Where the
driver's joint is a knuckle, the finger's position in metres is published beside its joint states.
"""

import dataclasses
import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from par_ros import messages
from par_ros.control.gripper_adapter import (
    GripperAdapter,
    GripperGoal,
    Phase,
    Server,
)
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.gripper_actions import (
    GripperAction,
    GripperActions,
    gripper_actions,
    outcome_of,
)
from par_ros.leaving import leave
from par_ros.lifecycle import ManagedNode
from par_ros.parameters import GripperAdapterNodeParameters, declare, read_arm_spec
from par_ros.process import read_together, report_error, run_node, transition
from par_ros.topics import DIAGNOSTICS, GRIPPER_TRAJECTORY, JOINT_STATES
from par_ros.watched_action import WatchedAction

NAME = "gripper_adapter_node"

_STEP_PERIOD_S = 0.02
_DIAGNOSTICS_PERIOD_S = 1.0


class GripperAdapterNode(ManagedNode):
    """One action of one gripper; see docs/reference/gripper_adapter.md."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NAME, **options)
        self._settings = declare(self, GripperAdapterNodeParameters)
        self._problem = ""
        self._refusal = ""
        self._num_refused = 0
        # The goal handle of what runs.
        self._running: Any = None
        self._last_server = Server.ABSENT

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            spec = read_arm_spec(self._settings.arm)
            if spec.gripper.driver is None:
                raise ValueError(
                    f"arm {self._settings.arm!r} has no gripper.driver: its gripper has a "
                    "trajectory controller and needs no adapter; check the arm file."
                )
        except ValueError as error:
            report_error(error)
            return TransitionCallbackReturn.FAILURE
        self._driver = spec.gripper.driver
        self._finger_joint = self._settings.joint_prefix + spec.gripper.joint_name
        gripper = dataclasses.replace(
            spec.gripper,
            command_joint_name=self._settings.joint_prefix + spec.gripper.command_joint_name,
        )
        self._adapter = GripperAdapter(gripper, self._settings)
        self._missing, self._actions = "", None
        try:
            self._actions = gripper_actions(spec.gripper)
        except ValueError as error:
            # Guard and arm may run without a gripper; /diagnostics names what is missing.
            self._missing = str(error)
        self._action_clients = self._make_clients(self._actions)
        self._status = self.create_publisher(
            DiagnosticArray, DIAGNOSTICS.name, DIAGNOSTICS.writer_qos.profile()
        )
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        # Only now: what came while the node was inactive is not carried out later.
        self._input = self.create_subscription(
            JointTrajectory,
            GRIPPER_TRAJECTORY.name,
            self._on_trajectory,
            GRIPPER_TRAJECTORY.reader_qos.profile(),
        )
        self._knuckle = self._make_knuckle()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(_STEP_PERIOD_S, self._step, clock=steady),
            self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        for timer in self._timers:
            self.destroy_timer(timer)
        self.destroy_subscription(self._input)
        if self._knuckle is not None:
            knuckle, fingers = self._knuckle
            self.destroy_subscription(knuckle)
            self.destroy_publisher(fingers)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for client in self._action_clients.values():
            client.destroy()
        self.destroy_publisher(self._status)
        return TransitionCallbackReturn.SUCCESS

    def _make_clients(self, actions: GripperActions | None) -> dict[str, Any]:
        if actions is None:
            return {}
        return {
            action.name: WatchedAction(self, action.action_type, action.name)
            for action in actions.distinct
        }

    def _make_knuckle(self) -> tuple[Any, Any] | None:
        """From the knuckle's joint states to the finger's, or None where there is no linkage."""
        if self._driver.linkage is None:
            return None
        fingers = self.create_publisher(
            JointState, JOINT_STATES.name, JOINT_STATES.writer_qos.profile()
        )
        selector = JointStateSelector((self._driver.linkage.joint,), self._settings.joint_prefix)
        reader_qos = JOINT_STATES.reader_qos.profile()
        knuckle = self.create_subscription(
            JointState,
            JOINT_STATES.name,
            lambda message: self._on_joint_state(message, selector, fingers),
            reader_qos,
        )
        return knuckle, fingers

    # Inputs

    def _on_trajectory(self, message: JointTrajectory) -> None:
        moment, _ = read_together(lambda: int(self.get_clock().now().nanoseconds))
        now_s = moment.steady_ns / messages.NANOSECONDS
        stamp_ns = messages.stamp_ns(message)
        ahead_s = 0.0 if stamp_ns == 0 else (stamp_ns - moment.ros_ns) / messages.NANOSECONDS
        try:
            trajectory = messages.read_joint_trajectory(message)
            self._adapter.take(trajectory, now_s + ahead_s, now_s)
        except ValueError as error:
            self._num_refused += 1
            self._refusal = str(error)
            self.get_logger().warning(f"gripper_trajectory refused, the goal stays: {error}")

    def _on_joint_state(
        self, message: JointState, selector: JointStateSelector, fingers: Any
    ) -> None:
        linkage = self._driver.linkage
        assert linkage is not None
        try:
            sample = selector.take(messages.read_joint_state(message))
            if not isinstance(sample, JointSample):
                return
            # A driver without velocities gets none here; NaN has become 0, see JointStateSelector.
            speeds = np.empty(0) if sample.velocities is None else sample.velocities
            finger_m, per_rad_m = linkage.finger(float(sample.positions[0]))
        except ValueError as error:
            self.get_logger().warning(
                f"joint state not translated to metres: {error}", throttle_duration_sec=1.0
            )
            return
        fingers.publish(
            messages.joint_state_message(
                (self._finger_joint,), np.array([finger_m]), per_rad_m * speeds, sample.stamp_ns
            )
        )

    # Goals

    def _step(self) -> None:
        for client in self._action_clients.values():
            client.step()
        server, was = self._server(), self._last_server
        self._last_server = server
        if was is Server.SILENT and server is Server.READY and self._adapter.phase is Phase.RUNNING:
            self._ask_whether_known(self._adapter.goal, self._running)
        wanted = self._adapter.step(time.monotonic(), server)
        if wanted == "cancel":
            self._cancel()
        elif wanted is not None:
            self._send(wanted)
        self._watch()

    def _cancel(self) -> None:
        # A server that was started anew answers that there is nothing to cancel, and never ends it.
        goal, handle = self._adapter.goal, self._running

        def judge(answered: Any) -> None:
            if not answered.result().goals_canceling:
                self._ask_whether_known(goal, handle)

        handle.cancel_goal_async().add_done_callback(judge)

    def _ask_whether_known(self, goal: GripperGoal | None, handle: Any) -> None:
        assert goal is not None
        client = self._action_clients[self._action_of(goal).name]
        client.if_unknown(handle, lambda: self._adapter.on_unknown(goal.number))

    def _send(self, goal: GripperGoal) -> None:
        action = self._action_of(goal)
        self.get_logger().info(
            f"goal {goal.number}: {action.name} to {goal.finger_m:.4f} m (target "
            f"{goal.target_m:.4f} m)"
        )
        future = self._action_clients[action.name].send_goal_async(action.goal_message(goal))
        future.add_done_callback(lambda answered: self._on_answer(goal.number, answered))

    def _on_answer(self, number: int, future: Any) -> None:
        handle = future.result()
        self._adapter.on_answer(number, handle.accepted)
        if handle.accepted:
            self._running = handle
            handle.get_result_async().add_done_callback(
                lambda ended: self._on_result(number, ended)
            )
        self._watch()

    def _on_result(self, number: int, future: Any) -> None:
        response = future.result()
        outcome, reason = outcome_of(response.status, response.result)
        self._adapter.on_result(number, outcome, reason)
        self.get_logger().info(f"goal {number}: {outcome.value}")
        self._watch()

    def _action_of(self, goal: GripperGoal) -> GripperAction:
        assert self._actions is not None
        return self._actions.of(goal)

    def _server(self) -> Server:
        """The worst of the driver's actions."""
        servers = {client.server for client in self._action_clients.values()}
        return next((worst for worst in Server if worst in servers), Server.ABSENT)

    # Status

    def _watch(self) -> None:
        """A new problem is reported at once."""
        problem = self._missing or self._adapter.problem(time.monotonic(), self._server())
        # Sentences that only count on are one problem.
        is_new = problem.split(" for ")[0] != self._problem.split(" for ")[0]
        self._problem = problem
        if not is_new:
            return
        if problem:
            self.get_logger().warning(problem)
        self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        goal = self._adapter.goal
        values = {
            "driver": self._driver.kind,
            "action": self._driver.action,
            "server": self._server().value,
            "goal": "none" if goal is None else f"{goal.finger_m:.4f} m",
            "goals_sent": "0" if goal is None else str(goal.number),
            "grasp": "none" if goal is None else str(goal.grasp).lower(),
            "phase": self._adapter.phase.value,
            "trajectories_refused": str(self._num_refused),
            "last_refusal": self._refusal,
        }
        level = messages.WARN if self._problem else messages.OK
        text = self._problem or "the gripper follows"
        status = messages.Status(messages.status_name(self), level, text, values)
        now_ns = self.get_clock().now().nanoseconds
        self._status.publish(messages.diagnostics_message((status,), now_ns))


def main() -> int:
    """Entry point of the executable gripper_adapter_node."""
    return run_node(GripperAdapterNode)


if __name__ == "__main__":
    leave(main())
