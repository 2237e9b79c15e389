# SPDX-License-Identifier: Apache-2.0
"""The guard as a lifecycle node: action_chunk in, joint_trajectory and gripper_trajectory out.

What is decided lives in control/guard.py; guard_session.py takes messages, calls it and publishes.
This file has the lifecycle and the services. The process never loads torch. It starts disengaged,
after a restart too: ~/engage lets chunks pass. Its watchdogs run on the steady clock, so a stopped
/clock cannot stop them. The emergency stop is heard in every state of the lifecycle, and its latch
survives them all. SIGINT, SIGTERM, SIGHUP and an error of a callback stop the arm before the
process ends.
"""

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from par_ros.control.command import Reply
from par_ros.control.guard import StopLatch
from par_ros.guard_session import GuardSession
from par_ros.leaving import leave
from par_ros.lifecycle import ManagedNode
from par_ros.parameters import SafetyNodeParameters, declare
from par_ros.process import ClockReader, report_error, run_node, transition
from par_ros.topics import DISENGAGE, E_STOP, E_STOP_STATE, ENGAGE, GUARD, RESET_STOP, STOP

_TICK_S = 0.02
_DIAGNOSTICS_PERIOD_S = 1.0
# How long a stop at the end may take that could not be sent at once, and how long the end of the
# process then waits until the controllers have it.
_LAST_STOP_S = 0.3
_NOT_ACTIVE = (
    "the guard is not active yet: the run activates it when all of its nodes are up; a guard that "
    "was started by itself has to be activated first"
)


class SafetyNode(ManagedNode):
    """Has a guard while it is configured, and the emergency stop always."""

    def __init__(self) -> None:
        super().__init__(GUARD)
        self._settings = declare(self, SafetyNodeParameters)
        self._session: GuardSession | None = None
        self._latch = StopLatch()
        self._clocks = ClockReader(self)
        self._waits_to_engage = False
        self._create_stop()

    def _create_stop(self) -> None:
        """What is there in every state: the emergency stop."""
        self._stop_state = self.create_publisher(
            Bool, E_STOP_STATE.name, E_STOP_STATE.writer_qos.profile()
        )
        self.create_subscription(
            Bool, E_STOP.name, self._on_stop_message, E_STOP.reader_qos.profile()
        )
        self.create_service(Trigger, STOP.private_name, self._on_stop)
        self.create_service(Trigger, RESET_STOP.private_name, self._on_reset_stop)
        self._publish_e_stop_state()

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._session = GuardSession(
                self, self._settings, self._latch, self._clocks, self._publish_state
            )
        except ValueError as error:
            report_error(error)
            return TransitionCallbackReturn.FAILURE
        self._services_served = [
            self.create_service(Trigger, ENGAGE.private_name, self._on_engage),
            self.create_service(Trigger, DISENGAGE.private_name, self._on_disengage),
        ]
        self._publish_state()
        spec = self._session.spec
        self.get_logger().info(f"arm {spec.name}; limits: {spec.source}")
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._session is not None
        self._session.is_active = True
        self._waits_to_engage = self._settings.auto_engage
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(_TICK_S, self._on_tick, clock=steady),
            self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_state, clock=steady),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._let_go()
        for timer in self._timers:
            self.destroy_timer(timer)
        self._publish_state()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._session is not None
        self._session.destroy()
        self._session = None
        for service in self._services_served:
            self.destroy_service(service)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._let_go()
        return TransitionCallbackReturn.SUCCESS

    def leave(self) -> None:
        """What is done before the process ends, asked to or by an error: the arm comes to rest."""
        if self._session is not None:
            self._session.leave(_LAST_STOP_S)

    def _let_go(self) -> None:
        """Come to rest, and take nothing more."""
        if self._session is not None:
            self._session.let_go(_LAST_STOP_S)

    def _disengage(self) -> Reply:
        if self._session is None:
            return Reply(True, "was not configured")
        return self._session.disengage()

    def _on_tick(self) -> None:
        assert self._session is not None
        self._session.tick()
        if self._waits_to_engage and self._session.has_joint_state:
            self._waits_to_engage = not self._session.engage().success

    # Services

    def _on_engage(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._session is not None
        if not self._session.is_active:
            return _fill(response, Reply(False, _NOT_ACTIVE))
        self._session.take_references()
        return self._finish(response, self._session.engage())

    def _on_disengage(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        self._waits_to_engage = False
        return self._finish(response, self._disengage())

    def _on_reset_stop(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        if self._session is None:
            was_set, self._latch.is_set = self._latch.is_set, False
            reply = Reply(True, "stop cleared" if was_set else "was not stopped")
        else:
            reply = self._session.reset_stop()
        self._publish_e_stop_state()
        return self._finish(response, reply)

    def _finish(self, response: Trigger.Response, reply: Reply) -> Trigger.Response:
        self.get_logger().info(reply.message)
        self._publish_state()
        return _fill(response, reply)

    # The emergency stop

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return _fill(response, self._stop())

    def _on_stop_message(self, message: Bool) -> None:
        if message.data:
            self._stop()

    def _stop(self) -> Reply:
        self._waits_to_engage = False
        if self._session is None:
            self._latch.is_set = True
            reply = Reply(True, "latched; the guard is not configured, nothing moves by it")
        else:
            reply = self._session.e_stop()
        self._publish_e_stop_state()
        self.get_logger().error(f"emergency stop: {reply.message}")
        self._publish_state()
        return reply

    def _publish_state(self) -> None:
        if self._session is None:
            return
        self._publish_e_stop_state()
        self._session.publish_state()

    def _publish_e_stop_state(self) -> None:
        self._stop_state.publish(Bool(data=self._latch.is_set))


def _fill(response: Trigger.Response, reply: Reply) -> Trigger.Response:
    response.success = reply.success
    response.message = reply.message
    return response


def main() -> int:
    """Entry point of the executable safety_node."""
    return run_node(SafetyNode, before_end=SafetyNode.leave)


if __name__ == "__main__":
    leave(main())
