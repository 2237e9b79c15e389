# SPDX-License-Identifier: Apache-2.0
"""The guard as a lifecycle node: action_chunk in, joint_trajectory and gripper_trajectory out.

What is decided lives in control/guard.py; this file takes messages, calls it and publishes. The
process never loads torch. It starts disengaged, after a restart too: ~/engage lets chunks pass. Its
watchdogs run on the monotonic clock, so a stopped /clock cannot stop them.
"""

import sys

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.guard import Command, Guard, Reply
from par_ros.control.joint_states import JointStateSelector
from par_ros.control.safety_filter import RequestedChunk
from par_ros.parameters import SafetyNodeParameters, declare, guard_settings, read_guarded_arm
from par_ros.process import read_together, report_error, run_node, transition
from par_ros.topics import (
    ACTION_CHUNK,
    DIAGNOSTICS,
    DISENGAGE,
    E_STOP,
    E_STOP_STATE,
    ENGAGE,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    GRIPPER_TRAJECTORY_SHADOW,
    GUARD,
    GUARD_INPUTS,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
    RESET_STOP,
    STOP,
    sensor_qos,
)

_TICK_S = 0.02
_DIAGNOSTICS_PERIOD_S = 1.0
# Looking for a second policy asks the ROS graph: not at every tick.
_TICKS_PER_GRAPH_LOOK = 10


class SafetyNode(LifecycleNode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__(GUARD)
        self._settings = declare(self, SafetyNodeParameters)
        self._guard: Guard | None = None
        self._active = False
        self._waits_to_engage = False
        self._num_ticks = 0
        self._num_policies = 0
        # The newest joint state that the guard was given: its stamp, and both clocks then.
        self._joint_state_taken: tuple[int, int, float] | None = None
        # Two arms' guards share /diagnostics.
        self._status_name = messages.status_name(self)
        self._last_event = ""
        self._reported = (0, 0)

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            spec = read_guarded_arm(self._settings)
            use_sim_time = bool(self.get_parameter("use_sim_time").value)
            self._guard = Guard(spec, guard_settings(self._settings, use_sim_time=use_sim_time))
        except ValueError as error:
            report_error(error)
            return TransitionCallbackReturn.FAILURE
        self._selector = JointStateSelector(spec.joint_names)
        self._create_outputs()
        self._create_inputs()
        self._note_input("configure", *self._now())
        self._publish_e_stop_state()
        self.get_logger().info(f"arm {spec.name}; limits: {spec.source}")
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = True
        self._waits_to_engage = self._settings.auto_engage
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(_TICK_S, self._on_tick, clock=steady),
            self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disengage_and_send()
        self._active = False
        for timer in self._timers:
            self.destroy_timer(timer)
        self._publish_diagnostics()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for publisher in self._outputs:
            self.destroy_publisher(publisher)
        for service in self._services_served:
            self.destroy_service(service)
        self._guard = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disengage_and_send()
        self._active = False
        return TransitionCallbackReturn.SUCCESS

    def _create_outputs(self) -> None:
        dry_run = self._settings.dry_run
        arm_topic = JOINT_TRAJECTORY_SHADOW if dry_run else JOINT_TRAJECTORY
        gripper_topic = GRIPPER_TRAJECTORY_SHADOW if dry_run else GRIPPER_TRAJECTORY
        outputs = (arm_topic, gripper_topic, EXECUTED_ACTIONS, E_STOP_STATE, DIAGNOSTICS)
        self._outputs = [
            self.create_publisher(topic.message_type, topic.name, topic.writer_qos.profile())
            for topic in (*outputs, GUARD_INPUTS)
        ]
        self._arm, self._gripper, self._executed, self._stop_state, self._status, self._taken = (
            self._outputs
        )

    def _create_inputs(self) -> None:
        lockstep = self._settings.mode == "lockstep"
        self._chunks = self.create_subscription(
            JointTrajectoryMessage,
            ACTION_CHUNK.name,
            self._on_chunk,
            ACTION_CHUNK.reader_qos.profile(),
        )
        self._joint_states = self.create_subscription(
            JointState,
            JOINT_STATES.name,
            self._on_joint_state,
            sensor_qos(JOINT_STATES, reliable=lockstep),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        stop = self.create_subscription(
            Bool, E_STOP.name, self._on_stop_message, E_STOP.reader_qos.profile()
        )
        self._inputs = [self._chunks, self._joint_states, stop]
        self._services_served = [
            self.create_service(Trigger, service.private_name, callback)
            for service, callback in (
                (ENGAGE, self._on_engage),
                (DISENGAGE, self._on_disengage),
                (STOP, self._on_stop),
                (RESET_STOP, self._on_reset_stop),
            )
        ]

    # Inputs

    def _on_chunk(self, message: JointTrajectoryMessage) -> None:
        if not self._active:
            return
        assert self._guard is not None
        self._take_joint_states()
        now_ns, monotonic_s = self._now()
        try:
            trajectory = messages.read_joint_trajectory(message)
        except ValueError as error:
            reason = str(error)
            self._send(self._guard.on_bad_chunk(reason, now_ns, monotonic_s))
            self._note_input("bad_chunk", now_ns, monotonic_s, reason=reason)
            return
        chunk = RequestedChunk(
            messages.stamp_ns(message),
            trajectory.joint_names,
            trajectory.times_s,
            trajectory.positions,
        )
        self._send(self._guard.on_chunk(chunk, now_ns, monotonic_s))
        self._note_input("chunk", now_ns, monotonic_s, chunk_stamp_ns=str(chunk.stamp_ns))

    def _take_joint_states(self) -> None:
        """Read what has arrived already. The executor takes one message a round and the chunk's
        first, so a guard that got no CPU for a while would judge a chunk by old joints."""
        subscription = self._joint_states
        for _ in range(subscription.qos_profile.depth):
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is None:
                return
            self._on_joint_state(taken[0])

    def _on_joint_state(self, message: JointState) -> None:
        if not self._active:
            return
        assert self._guard is not None
        now_ns, monotonic_s = self._now()
        if not set(message.name) & set(self._selector.joint_names):
            # Another robot's joints, or another part's: on some systems all share one topic.
            return
        try:
            raw = messages.read_joint_state(message)
            sample = self._selector.select(
                raw.stamp_ns, raw.joint_names, raw.positions, raw.velocities
            )
        except ValueError as error:
            reason = str(error)
            self._send(self._guard.on_bad_joint_state(reason, now_ns, monotonic_s))
            self._note_input("bad_joint_state", now_ns, monotonic_s, reason=reason)
            return
        self._joint_state_taken = sample.stamp_ns, now_ns, monotonic_s
        command = self._guard.on_joint_state(sample, now_ns, monotonic_s)
        self._send(command)
        if _is_something(command):
            self._note_input("joint_state", now_ns, monotonic_s)

    def _on_stop_message(self, message: Bool) -> None:
        if message.data:
            self._stop()

    def _on_tick(self) -> None:
        assert self._guard is not None
        now_ns, monotonic_s = self._now()
        if self._num_ticks % _TICKS_PER_GRAPH_LOOK == 0:
            self._num_policies = self.count_publishers(self._chunks.topic_name)
        self._num_ticks += 1
        command = self._guard.on_tick(self._num_policies, now_ns, monotonic_s)
        self._send(command)
        if _is_something(command):
            self._note_input("tick", now_ns, monotonic_s)
        if self._waits_to_engage and self._guard.has_joint_state:
            self._waits_to_engage = not self._engage_and_send(now_ns, monotonic_s).success

    # Services

    def _on_engage(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._guard is not None
        if not self._active:
            return _fill(response, Reply(False, "the guard is not active; activate it first"))
        return self._finish(response, self._engage_and_send(*self._now()))

    def _on_disengage(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        self._waits_to_engage = False
        return self._finish(response, self._disengage_and_send())

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return _fill(response, self._stop())

    def _on_reset_stop(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        assert self._guard is not None
        reply = self._guard.reset_stop()
        self._note_input("reset_stop", *self._now())
        self._publish_e_stop_state()
        return self._finish(response, reply)

    def _stop(self) -> Reply:
        assert self._guard is not None
        self._waits_to_engage = False
        now_ns, monotonic_s = self._now()
        reply = self._guard.e_stop(now_ns, monotonic_s)
        # The arm first, then everybody else.
        self._send(reply.command)
        self._note_input("e_stop", now_ns, monotonic_s)
        self._publish_e_stop_state()
        self.get_logger().error(f"emergency stop: {reply.message}")
        self._publish_diagnostics()
        return reply

    def _engage_and_send(self, now_ns: int, monotonic_s: float) -> Reply:
        assert self._guard is not None
        reply = self._guard.engage(now_ns, monotonic_s)
        self._send(reply.command)
        if reply.success or _is_something(reply.command):
            # auto_engage asks at every tick until it may.
            self._note_input("engage", now_ns, monotonic_s)
        return reply

    def _disengage_and_send(self) -> Reply:
        if self._guard is None:
            return Reply(True, "was not configured")
        now_ns, monotonic_s = self._now()
        reply = self._guard.disengage(now_ns, monotonic_s)
        self._send(reply.command)
        self._note_input("disengage", now_ns, monotonic_s)
        return reply

    def _finish(self, response: Trigger.Response, reply: Reply) -> Trigger.Response:
        self.get_logger().info(reply.message)
        self._publish_diagnostics()
        return _fill(response, reply)

    # Outputs

    def _send(self, command: Command) -> None:
        if command.arm is not None:
            self._arm.publish(messages.joint_trajectory_message(command.arm, command.stamp_ns))
        if command.gripper is not None:
            self._gripper.publish(
                messages.joint_trajectory_message(command.gripper, command.stamp_ns)
            )
        if command.executed is not None:
            self._executed.publish(
                messages.joint_trajectory_message(command.executed, command.executed_stamp_ns)
            )
        for event in command.events:
            self._last_event = event.text
            # One call site a level: rclpy ties each to one severity.
            if event.level == "error":
                self.get_logger().error(event.text)
            elif event.level == "warning":
                self.get_logger().warning(event.text)
            else:
                self.get_logger().info(event.text)
        if self._holds_and_changes() != self._reported:
            self._publish_diagnostics()

    def _note_input(self, kind: str, now_ns: int, monotonic_s: float, **details: str) -> None:
        """Say what the guard was just given and when, so that a recording can be replayed.

        Joint states and ticks that changed nothing are left out: `joint_stamp_ns` says up to which
        joint state the guard had seen them, and `joint_now_ns` and `joint_monotonic_s` when it took
        that one.
        """
        joint_stamp_ns, joint_now_ns, joint_s = self._joint_state_taken or ("", "", "")
        values = {
            "kind": kind,
            "now_ns": str(now_ns),
            "monotonic_s": repr(monotonic_s),
            "joint_stamp_ns": str(joint_stamp_ns),
            "joint_now_ns": str(joint_now_ns),
            "joint_monotonic_s": str(joint_s),
            "num_policies": str(self._num_policies),
            **details,
        }
        status = messages.Status(self._status_name, messages.OK, kind, values)
        self._taken.publish(messages.status_message(status))

    def _publish_e_stop_state(self) -> None:
        assert self._guard is not None
        self._stop_state.publish(Bool(data=self._guard.stop_latched))

    def _holds_and_changes(self) -> tuple[int, int]:
        assert self._guard is not None
        counters = self._guard.counters
        return counters["holds"], counters["tracked"]

    def _publish_diagnostics(self) -> None:
        guard = self._guard
        if guard is None:
            return
        holds, changes = self._reported = self._holds_and_changes()
        if guard.stop_latched:
            level, text = messages.ERROR, "stopped; reset_stop, then engage"
        elif guard.last_fault is not None:
            level, text = messages.ERROR, f"disengaged: {guard.last_fault.reason}"
        elif not guard.engaged:
            level, text = messages.WARN, "disengaged"
        elif guard.holding:
            level, text = messages.WARN, f"holding: {guard.holding}"
        else:
            level, text = messages.OK, "engaged"
        values = {
            "engaged": str(guard.engaged).lower(),
            "stop_latched": str(guard.stop_latched).lower(),
            "holding": guard.holding,
            "holds": str(holds),
            "changes": str(changes),
            "last_hold_reason": self._last_event,
            "dry_run": str(self._settings.dry_run).lower(),
            "num_policies": str(self._num_policies),
            **{
                name: str(count)
                for name, count in sorted(guard.counters.items())
                if name != "holds"
            },
        }
        status = messages.Status(self._status_name, level, text, values)
        message: DiagnosticArray = messages.diagnostics_message((status,), self._now()[0])
        self._status.publish(message)

    def _now(self) -> tuple[int, float]:
        """The node's clock in nanoseconds and the monotonic clock in seconds."""
        return read_together(lambda: int(self.get_clock().now().nanoseconds))


def _is_something(command: Command) -> bool:
    return command.arm is not None or command.executed is not None or bool(command.events)


def _fill(response: Trigger.Response, reply: Reply) -> Trigger.Response:
    response.success = reply.success
    response.message = reply.message
    return response


def main() -> int:
    """Entry point of the executable safety_node."""
    return run_node(SafetyNode)


if __name__ == "__main__":
    sys.exit(main())
