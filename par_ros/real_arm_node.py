# SPDX-License-Identifier: Apache-2.0
"""Supervises a ros2_control arm: present, complete, and commanded by the guard only.

It drives nothing. Six things must hold: joint states come often enough and complete; the guard says
on guard_state that it is alive, and nobody else writes there; a controller listens on
joint_trajectory and one on gripper_trajectory; nobody but the guard publishes there; the arm's
controller interpolates from its desired state, where it tells; and the controllers are active,
where controller_manager_msgs is installed to ask and the controller manager has answered once.
/diagnostics says which do not. If one is lost while the guard is engaged, it calls the guard's
~/disengage: the arm comes to rest and stays so until a person engages again.
"""

import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.control.supervision import CommandTopics, Supervision
from par_ros.parameters import RealArmNodeParameters, declare, read_arm_spec
from par_ros.process import report_error, run_node, transition
from par_ros.topics import (
    CONTROLLER_PARAMETERS_NAME,
    DIAGNOSTICS,
    DISENGAGE,
    GRIPPER_TRAJECTORY,
    GUARD,
    GUARD_STATE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    RECORDER,
)
from par_ros.wire_records import GuardState

NAME = "real_arm_node"

_CHECK_PERIOD_S = 0.1
_DIAGNOSTICS_PERIOD_S = 1.0
_CONTROLLERS_PERIOD_S = 2.0
_LIST_CONTROLLERS = "controller_manager/list_controllers"
_INTERPOLATION = ("interpolate_from_desired_state", "open_loop_control")
# A controller manager that has not answered the third time is reported as missing.
_NUM_PATIENT_ASKS = 3


class RealArmNode(LifecycleNode):
    """Listens to arm, guard and controller manager; its one act is to disengage the guard."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._settings = declare(self, RealArmNodeParameters)
        self._problems: tuple[str, ...] = ("not looked yet",)
        # Another arm's guard reports on the same topic, and has the same name elsewhere.
        self._guard_status_name = messages.status_name(self).removesuffix(NAME) + GUARD

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._spec = read_arm_spec(self._settings.arm)
        except ValueError as error:
            report_error(error)
            return TransitionCallbackReturn.FAILURE
        self._selector = JointStateSelector(self._spec.joint_names)
        self._supervision = Supervision(
            min_joint_state_rate_hz=self._settings.min_joint_state_rate_hz,
            max_guard_silence_s=self._settings.max_guard_silence_s,
            dry_run=self._settings.dry_run,
        )
        self._status = self.create_publisher(
            DiagnosticArray, DIAGNOSTICS.name, DIAGNOSTICS.writer_qos.profile()
        )
        self._inputs = [
            self.create_subscription(
                JointState,
                JOINT_STATES.name,
                self._on_joint_state,
                JOINT_STATES.reader_qos.profile(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
            self.create_subscription(
                DiagnosticStatus,
                GUARD_STATE.name,
                self._on_guard_state,
                GUARD_STATE.reader_qos.profile(),
            ),
        ]
        # Commands: only to learn the names that the launch file mapped them to.
        self._commands = [
            self.create_subscription(
                JointTrajectoryMessage, topic.name, _ignore, topic.reader_qos.profile()
            )
            for topic in (JOINT_TRAJECTORY, GRIPPER_TRAJECTORY)
        ]
        self._disengage = self.create_client(Trigger, DISENGAGE.client_name)
        self._list_controllers = self._make_controller_client()
        self._interpolation = self.create_client(GetParameters, CONTROLLER_PARAMETERS_NAME)
        self._interpolation_is_known = False
        self._asked: Any = None
        self._num_asks = 0
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(_CHECK_PERIOD_S, self._check, clock=steady),
            self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady),
            self.create_timer(_CONTROLLERS_PERIOD_S, self._ask_for_controllers, clock=steady),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        for timer in self._timers:
            self.destroy_timer(timer)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for subscription in (*self._inputs, *self._commands):
            self.destroy_subscription(subscription)
        self.destroy_publisher(self._status)
        self.destroy_client(self._disengage)
        self.destroy_client(self._interpolation)
        if self._list_controllers is not None:
            self.destroy_client(self._list_controllers)
        return TransitionCallbackReturn.SUCCESS

    # Inputs

    def _on_joint_state(self, message: JointState) -> None:
        now_s = time.monotonic()
        try:
            sample = self._selector.take(messages.read_joint_state(message))
        except ValueError as error:
            self._supervision.on_bad_joint_state(str(error))
            return
        if isinstance(sample, JointSample):
            self._supervision.on_joint_state(now_s)

    def _on_guard_state(self, message: DiagnosticStatus) -> None:
        try:
            state = GuardState.from_values(messages.read_status(message).values)
        except ValueError as error:
            # Not a guard of this version: to the supervision it is silent.
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._supervision.on_guard(state.engaged, time.monotonic())

    # Checks

    def _check(self) -> None:
        view = CommandTopics(
            listeners={
                subscription.topic_name: len(
                    self._names(self.get_subscriptions_info_by_topic(subscription.topic_name))
                )
                for subscription in self._commands
            },
            publishers={
                subscription.topic_name: self._names(
                    self.get_publishers_info_by_topic(subscription.topic_name)
                )
                for subscription in (*self._commands, self._inputs[-1])
            },
        )
        problems = self._supervision.problems(view, self._guard_status_name, time.monotonic())
        if problems != self._problems:
            self._problems = problems
            self._publish_diagnostics()
        if self._supervision.must_disengage(problems):
            self.get_logger().error(f"disengaging the guard: {'; '.join(problems)}")
            self._disengage.call_async(Trigger.Request())

    def _names(self, ends: list[TopicEndpointInfo]) -> tuple[str, ...]:
        """Who is there, named as on /diagnostics; this node and the recorder only listen."""
        names = (f"{end.node_namespace}/{end.node_name}".lstrip("/") for end in ends)
        return tuple(name for name in names if name.rsplit("/", 1)[-1] not in (NAME, RECORDER))

    def _make_controller_client(self) -> Any:
        """A client of controller_manager, or None where its messages are not installed."""
        try:
            from controller_manager_msgs.srv import ListControllers
        except ImportError:
            self.get_logger().warning(
                "controller_manager_msgs is not installed: whether the controllers are active is "
                "not known, only whether their topics have subscribers"
            )
            return None
        self._controllers_request = ListControllers.Request()
        return self.create_client(ListControllers, _LIST_CONTROLLERS)

    def _ask_for_interpolation(self) -> None:
        """Until the arm's controller has answered; Humble calls it open_loop_control."""
        if self._interpolation_is_known or not self._interpolation.service_is_ready():
            return
        request = GetParameters.Request(names=list(_INTERPOLATION))
        self._interpolation.call_async(request).add_done_callback(self._on_interpolation)

    def _on_interpolation(self, future: Any) -> None:
        values = future.result().values
        told = [value.bool_value for value in values if value.type == ParameterType.PARAMETER_BOOL]
        if told:
            self._interpolation_is_known = True
            self._supervision.on_interpolation(any(told))

    def _ask_for_controllers(self) -> None:
        self._ask_for_interpolation()
        client = self._list_controllers
        if client is None:
            return
        self._num_asks += 1
        if self._num_asks == _NUM_PATIENT_ASKS and not self._supervision.controllers_known:
            self.get_logger().warning(
                f"{self.resolve_service_name(_LIST_CONTROLLERS)} does not answer: whether the "
                f"controllers are active is not known; start the controller manager, or remap "
                f"{_LIST_CONTROLLERS} to its name"
            )
        if self._asked is not None and not self._asked.done():
            client.remove_pending_request(self._asked)
        self._asked = None
        if client.service_is_ready():
            self._asked = client.call_async(self._controllers_request)
            self._asked.add_done_callback(self._on_controllers)

    def _on_controllers(self, future: Any) -> None:
        states = {controller.name: controller.state for controller in future.result().controller}
        wanted = (self._spec.arm_controller, self._spec.gripper_controller)
        self._supervision.on_controllers(
            {name: states.get(name, "missing") for name in wanted}, time.monotonic()
        )

    def _publish_diagnostics(self) -> None:
        level = messages.WARN if self._problems else messages.OK
        text = "; ".join(self._problems) or "the arm is ready"
        values = {"ready": str(not self._problems).lower(), "arm": self._settings.arm}
        status = messages.Status(messages.status_name(self), level, text, values)
        now_ns = self.get_clock().now().nanoseconds
        self._status.publish(messages.diagnostics_message((status,), now_ns))


def _ignore(_: JointTrajectoryMessage) -> None:
    return


def main() -> int:
    """Entry point of the executable real_arm_node."""
    return run_node(RealArmNode)


if __name__ == "__main__":
    sys.exit(main())
