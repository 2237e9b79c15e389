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

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from par_ros import messages
from par_ros.control.joint_states import JointSample, JointStateSelector, MissingJoints
from par_ros.control.supervision import Supervision
from par_ros.controllers import ControllerQueries, command_topics
from par_ros.leaving import leave
from par_ros.lifecycle import ManagedNode
from par_ros.parameters import RealArmNodeParameters, declare, read_arm_spec
from par_ros.process import report_error, run_node, transition
from par_ros.topics import (
    DIAGNOSTICS,
    DISENGAGE,
    GUARD,
    GUARD_STATE,
    JOINT_STATES,
)
from par_ros.wire_records import GuardState

NAME = "real_arm_node"

_CHECK_PERIOD_S = 0.1
_DIAGNOSTICS_PERIOD_S = 1.0
_CONTROLLERS_PERIOD_S = 2.0


class RealArmNode(ManagedNode):
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
        self._selector = JointStateSelector(self._spec.joint_names, self._settings.joint_prefix)
        self._supervision = Supervision(
            min_joint_state_rate_hz=self._settings.min_joint_state_rate_hz,
            max_guard_silence_s=self._settings.max_guard_silence_s,
            dry_run=self._settings.dry_run,
            use_sim_time=bool(self.get_parameter("use_sim_time").value),
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
        self._disengage = self.create_client(Trigger, DISENGAGE.client_name)
        self._queries = ControllerQueries(self, self._spec, self._supervision)
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(_CHECK_PERIOD_S, self._check, clock=steady),
            self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady),
            self.create_timer(_CONTROLLERS_PERIOD_S, self._queries.ask, clock=steady),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        for timer in self._timers:
            self.destroy_timer(timer)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self.destroy_publisher(self._status)
        self.destroy_client(self._disengage)
        self._queries.destroy()
        return TransitionCallbackReturn.SUCCESS

    # Inputs

    def _on_joint_state(self, message: JointState) -> None:
        now_s = time.monotonic()
        try:
            sample = self._selector.take(messages.read_joint_state(message))
        except ValueError as error:
            self._supervision.on_bad_joint_state(str(error))
            return
        if isinstance(sample, MissingJoints):
            self._supervision.on_missing_joints(sample.reason)
        elif isinstance(sample, JointSample):
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
        now_s = time.monotonic()
        self._supervision.on_clock(int(self.get_clock().now().nanoseconds), now_s)
        view = command_topics(self, (NAME,))
        problems = self._supervision.problems(view, self._guard_status_name, now_s)
        if problems != self._problems:
            self._problems = problems
            self._publish_diagnostics()
        if self._supervision.must_disengage(problems):
            self.get_logger().error(f"disengaging the guard: {'; '.join(problems)}")
            self._disengage.call_async(Trigger.Request())

    def _publish_diagnostics(self) -> None:
        level = messages.WARN if self._problems else messages.OK
        text = "; ".join(self._problems) or "the arm is ready"
        values = {"ready": str(not self._problems).lower(), "arm": self._settings.arm}
        status = messages.Status(messages.status_name(self), level, text, values)
        now_ns = self.get_clock().now().nanoseconds
        self._status.publish(messages.diagnostics_message((status,), now_ns))


def main() -> int:
    """Entry point of the executable real_arm_node."""
    return run_node(RealArmNode)


if __name__ == "__main__":
    leave(main())
