# SPDX-License-Identifier: Apache-2.0
"""The guard as a lifecycle node: action_chunk in, joint_trajectory and gripper_trajectory out.

What is decided lives in control/guard.py; this file takes messages, calls it and publishes. The
process never loads torch. It starts disengaged, after a restart too: ~/engage lets chunks pass. Its
watchdogs run on the steady clock, so a stopped /clock cannot stop them. The emergency stop is heard
in every state of the lifecycle, and its latch survives them all.
"""

import sys

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import guard_report, messages
from par_ros.control.command import Command, Reply
from par_ros.control.guard import Guard, StopLatch
from par_ros.control.joint_states import JointStateSelector
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import Moment
from par_ros.guard_outputs import GuardOutputs
from par_ros.parameters import (
    SafetyNodeParameters,
    declare,
    expects_reference,
    guard_settings,
    read_guarded_arm,
)
from par_ros.process import ClockReader, report_error, run_node, transition
from par_ros.reference_input import ReferenceInput
from par_ros.simulated_clock import SimulatedClock
from par_ros.topics import (
    ACTION_CHUNK,
    DISENGAGE,
    E_STOP,
    E_STOP_STATE,
    ENGAGE,
    GUARD,
    JOINT_STATES,
    RESET_STOP,
    STOP,
    sensor_qos,
)

_TICK_S = 0.02
_DIAGNOSTICS_PERIOD_S = 1.0
# Looking for a second policy asks the ROS graph: not at every tick.
_TICKS_PER_GRAPH_LOOK = 10
# A stop that could not be published in time is planned again this many times.
_SEND_TRIES = 3


class SafetyNode(LifecycleNode):
    """Takes chunks, joint states, the controller's reference and calls; publishes commands."""

    def __init__(self) -> None:
        super().__init__(GUARD)
        self._settings = declare(self, SafetyNodeParameters)
        self._guard: Guard | None = None
        self._latch = StopLatch()
        self._clocks = ClockReader(self)
        self._active = False
        self._waits_to_engage = False
        self._num_ticks = 0
        self._num_policies = 0
        self._reference: ReferenceInput | None = None
        # Of a simulation in real time.
        self._simulated_clock: SimulatedClock | None = None
        # The newest joint state that the guard was given: its stamp, and both clocks then.
        self._joint_state_taken: tuple[int, Moment] | None = None
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
            spec = read_guarded_arm(self._settings)
            use_sim_time = bool(self.get_parameter("use_sim_time").value)
            settings = guard_settings(self._settings, use_sim_time=use_sim_time)
            self._guard = Guard(spec, settings, self._latch)
            if expects_reference(self._settings):
                self._reference = ReferenceInput(
                    self, self._settings.reference, spec.arm_joint_names
                )
        except ValueError as error:
            report_error(error)
            return TransitionCallbackReturn.FAILURE
        if use_sim_time and not settings.lockstep:
            self._simulated_clock = SimulatedClock(self, self._settings.clock_lead_s)
        self._selector = JointStateSelector(spec.joint_names)
        self._outputs = GuardOutputs(self, dry_run=self._settings.dry_run)
        self._create_inputs()
        self._note_input("configure", self._now())
        self._outputs.publish_notes()
        self._publish_state()
        self.get_logger().info(f"arm {spec.name}; limits: {spec.source}")
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = True
        self._waits_to_engage = self._settings.auto_engage
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(_TICK_S, self._on_tick, clock=steady),
            self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_state, clock=steady),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disengage_and_send()
        self._active = False
        for timer in self._timers:
            self.destroy_timer(timer)
        self._publish_state()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._guard = None
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for source in (self._reference, self._simulated_clock):
            if source is not None:
                source.destroy(self)
        self._reference = self._simulated_clock = None
        self._outputs.destroy()
        for service in self._services_served:
            self.destroy_service(service)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disengage_and_send()
        self._active = False
        return TransitionCallbackReturn.SUCCESS

    def _create_inputs(self) -> None:
        lockstep = self._settings.mode == "lockstep"
        self._chunks = self.create_subscription(
            JointTrajectoryMessage,
            ACTION_CHUNK.name,
            self._on_chunk,
            ACTION_CHUNK.reader_qos.profile(),
            # A message of 100,000 points or joints is not made into an object: that takes seconds.
            raw=True,
        )
        self._joint_states = self.create_subscription(
            JointState,
            JOINT_STATES.name,
            self._on_joint_state,
            sensor_qos(JOINT_STATES, reliable=lockstep),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            raw=True,
        )
        self._inputs = [self._chunks, self._joint_states]
        self._services_served = [
            self.create_service(Trigger, ENGAGE.private_name, self._on_engage),
            self.create_service(Trigger, DISENGAGE.private_name, self._on_disengage),
        ]

    # Inputs

    def _on_chunk(self, data: bytes) -> None:
        if not self._active:
            return
        assert self._guard is not None
        self._take_joint_states()
        self._take_references()
        try:
            message = messages.deserialize_chunk(data)
            trajectory = messages.read_joint_trajectory(message)
        except ValueError as error:
            reason, moment = str(error), self._now()
            self._note_input("bad_chunk", moment, reason=reason)
            self._send(self._guard.on_bad_chunk(reason, moment), moment)
            return
        chunk = RequestedChunk(
            messages.stamp_ns(message),
            trajectory.joint_names,
            trajectory.times_s,
            trajectory.positions,
        )
        moment = self._now()
        # First for a replay: what is withdrawn is noted behind it.
        self._note_input("chunk", moment, chunk_stamp_ns=str(chunk.stamp_ns))
        self._send(self._guard.on_chunk(chunk, moment), moment)

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

    def _on_joint_state(self, data: bytes) -> None:
        if not self._active:
            return
        assert self._guard is not None
        moment = self._now()
        try:
            message = messages.deserialize_joint_state(data)
            if not set(message.name) & set(self._selector.joint_names):
                # Another robot's joints, or another part's: on some systems all share one topic.
                return
            raw = messages.read_joint_state(message)
            sample = self._selector.take(
                raw.stamp_ns, raw.joint_names, raw.positions, raw.velocities
            )
        except ValueError as error:
            reason = str(error)
            self._note_input("bad_joint_state", moment, reason=reason)
            self._send(self._guard.on_bad_joint_state(reason, moment), moment)
            return
        if sample is None:
            self._guard.on_missing_joints(self._selector.missing)
            return
        self._joint_state_taken = sample.stamp_ns, moment
        command = self._guard.on_joint_state(sample, moment)
        if _is_something(command):
            self._note_input("joint_state", moment)
        self._send(command, moment)

    def _take_references(self) -> None:
        """The controller's reference: every sample while a pick-up is awaited, else the newest."""
        if self._reference is None:
            return
        assert self._guard is not None
        samples = self._reference.take(only_newest=not self._guard.awaits_reference)
        if not samples:
            return
        moment = self._now()
        if self._outputs.is_recorded:
            packed = guard_report.pack_references(samples)
            self._note_input("references", moment, samples=packed)
        for sample in samples:
            self._send(self._guard.on_reference(sample, moment), moment)

    def _on_stop_message(self, message: Bool) -> None:
        if message.data:
            self._stop()

    def _on_tick(self) -> None:
        assert self._guard is not None
        self._take_references()
        if self._num_ticks % _TICKS_PER_GRAPH_LOOK == 0:
            self._num_policies = self.count_publishers(self._chunks.topic_name)
        self._num_ticks += 1
        moment = self._now()
        command = self._guard.on_tick(self._num_policies, moment)
        if _is_something(command):
            self._note_input("tick", moment)
        self._send(command, moment)
        if self._waits_to_engage and self._guard.has_joint_state:
            self._waits_to_engage = not self._engage_and_send().success

    # Services

    def _on_engage(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._guard is not None
        if not self._active:
            return _fill(response, Reply(False, "the guard is not active; activate it first"))
        self._take_references()
        return self._finish(response, self._engage_and_send())

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
        if self._guard is None:
            was_set, self._latch.is_set = self._latch.is_set, False
            reply = Reply(True, "stop cleared" if was_set else "was not stopped")
        else:
            reply = self._guard.reset_stop()
            self._note_input("reset_stop", self._now())
            self._outputs.publish_notes()
        self._publish_e_stop_state()
        return self._finish(response, reply)

    def _stop(self) -> Reply:
        self._waits_to_engage = False
        if self._guard is None:
            self._latch.is_set = True
            reply = Reply(True, "latched; the guard is not configured, nothing moves by it")
        else:
            moment = self._now()
            reply = self._guard.e_stop(moment)
            self._note_input("e_stop", moment)
            self._send(reply.command, moment)
        self._publish_e_stop_state()
        self.get_logger().error(f"emergency stop: {reply.message}")
        self._publish_state()
        return reply

    def _engage_and_send(self) -> Reply:
        assert self._guard is not None
        moment = self._now()
        reply = self._guard.engage(moment)
        if reply.success or _is_something(reply.command):
            # auto_engage asks at every tick until it may.
            self._note_input("engage", moment)
        self._send(reply.command, moment)
        return reply

    def _disengage_and_send(self) -> Reply:
        if self._guard is None:
            return Reply(True, "was not configured")
        moment = self._now()
        reply = self._guard.disengage(moment)
        self._note_input("disengage", moment)
        self._send(reply.command, moment)
        return reply

    def _finish(self, response: Trigger.Response, reply: Reply) -> Trigger.Response:
        self.get_logger().info(reply.message)
        self._publish_state()
        return _fill(response, reply)

    # Outputs

    def _send(self, command: Command, moment: Moment) -> None:
        """Publish, unless it has become too late for the arm: then what the guard says instead.

        moment: what the guard was given, from which the splice counts.
        """
        assert self._guard is not None
        for attempt in range(_SEND_TRIES):
            if command.arm is None or not command.has_splice or self._guard.settings.lockstep:
                break
            now = self._now()
            if self._is_in_time(moment, now):
                break
            self._outputs.report(command)
            last = attempt == _SEND_TRIES - 1
            self._note_input("withdraw", now, last=str(last).lower())
            command, moment = self._guard.withdraw(now, last=last), now
        self._publish(command)

    def _is_in_time(self, moment: Moment, now: Moment) -> bool:
        """Whether what was planned at `moment` reaches the arm before it has departed from it."""
        if self._simulated_clock is not None:
            return self._simulated_clock.is_in_time(moment, now)
        assert self._guard is not None
        within_ns = messages.seconds_to_ns(self._guard.settings.send_within_s)
        return now.steady_ns - moment.steady_ns <= within_ns

    def _publish(self, command: Command) -> None:
        assert self._guard is not None
        self._outputs.publish(command)
        if self._outputs.has_news(self._guard):
            self._publish_state()

    def _note_input(self, kind: str, moment: Moment, **details: str) -> None:
        """Publish the guard's latest input with its times, so that a recording can be replayed."""
        self._outputs.note_input(
            kind, moment, self._joint_state_taken, num_policies=str(self._num_policies), **details
        )

    def _publish_e_stop_state(self) -> None:
        self._stop_state.publish(Bool(data=self._latch.is_set))

    def _publish_state(self) -> None:
        if self._guard is None:
            return
        self._publish_e_stop_state()
        more = {
            "dry_run": str(self._settings.dry_run).lower(),
            "reference": self._reference_text(self._guard),
            "num_policies": str(self._num_policies),
        }
        self._outputs.publish_state(self._guard, more, self._now())

    def _reference_text(self, guard: Guard) -> str:
        """Tell the guard whether the controller's reference is available."""
        if self._reference is None:
            return "none: engaging leads the arm to where it is measured"
        if self._reference.fault:
            return f"{self._reference.topic_name}: {self._reference.fault}"
        heard = "" if guard.has_reference else ", nothing has come"
        return f"{self._reference.topic_name}{heard}"

    def _now(self) -> Moment:
        return self._clocks.now()


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
