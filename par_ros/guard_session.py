# SPDX-License-Identifier: Apache-2.0
"""A configured guard between its topics: takes messages, calls it, publishes what it commands."""

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.command import Command, Reply
from par_ros.control.guard import Guard, StopLatch
from par_ros.control.joint_states import JointSample, JointStateSelector, MissingJoints
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import MAX_DIVERGENCE_NS, Moment
from par_ros.guard_outputs import GuardOutputs
from par_ros.guarded_arm import read_guarded_arm, require_a_person_to_engage
from par_ros.parameters import (
    SafetyNodeParameters,
    expects_reference,
    guard_settings,
)
from par_ros.process import ClockReader
from par_ros.reference_input import ReferenceInput
from par_ros.simulated_clock import SimulatedClock
from par_ros.topics import (
    ACTION_CHUNK,
    JOINT_STATES,
    TELEOP_CHUNK,
    TELEOP_DEADMAN,
    Topic,
    sensor_qos,
)
from par_ros.wire_records import GuardInput

# Looking for a second policy asks the ROS graph: not at every tick.
_TICKS_PER_GRAPH_LOOK = 10
# A stop that could not be published in time is planned again this many times.
_SEND_TRIES = 3


class GuardSession:
    """One guard, from configuring to cleaning up.

    Attributes:
        is_active: whether chunks and joint states are taken.
    """

    def __init__(
        self,
        node: Node,
        parameters: SafetyNodeParameters,
        latch: StopLatch,
        clocks: ClockReader,
        on_news: Callable[[], None],
    ) -> None:
        """on_news: called where the guard's state, or what it counts, has changed.

        Raises ValueError for parameters that are not possible.
        """
        self._node = node
        self._parameters = parameters
        self._clocks = clocks
        self._on_news = on_news
        self.is_active = False
        self._num_ticks = 0
        self._num_policies = 0
        # The newest joint state that the guard was given: its stamp, and both clocks then.
        self._joint_state_taken: tuple[int, Moment] | None = None
        require_a_person_to_engage(parameters)
        self.spec = read_guarded_arm(parameters)
        use_sim_time = bool(node.get_parameter("use_sim_time").value)
        settings = guard_settings(parameters, use_sim_time=use_sim_time)
        self._guard = Guard(self.spec, settings, latch)
        self._reference: ReferenceInput | None = None
        if expects_reference(parameters):
            names = tuple(parameters.joint_prefix + name for name in self.spec.arm_joint_names)
            self._reference = ReferenceInput(node, parameters.reference, names)
        # Of a simulation in real time.
        self._simulated_clock: SimulatedClock | None = None
        if use_sim_time and not settings.lockstep:
            self._simulated_clock = SimulatedClock(node, parameters.clock_lead_s)
        self._selector = JointStateSelector(self.spec.joint_names, parameters.joint_prefix)
        self._outputs = GuardOutputs(
            node, dry_run=parameters.dry_run, joint_prefix=parameters.joint_prefix
        )
        self._chunks = self._subscribe_chunks(ACTION_CHUNK, by_operator=False)
        self._joint_states = node.create_subscription(
            JointState,
            JOINT_STATES.name,
            self._on_joint_state,
            sensor_qos(JOINT_STATES, reliable=parameters.mode == "lockstep"),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            raw=True,
        )
        self._subscriptions = [self._chunks, self._joint_states]
        self._switch: Any = None
        if not settings.lockstep:
            # In lockstep physics waits for the policy's answer, and for nobody else.
            self._switch = node.create_subscription(
                Bool, TELEOP_DEADMAN.name, self._on_deadman, TELEOP_DEADMAN.reader_qos.profile()
            )
            chunks = self._subscribe_chunks(TELEOP_CHUNK, by_operator=True)
            self._subscriptions += [self._switch, chunks]
        self._note_input("configure", self._now())
        self._outputs.publish_notes()

    def destroy(self) -> None:
        """Stop listening and publishing."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for source in (self._reference, self._simulated_clock):
            if source is not None:
                source.destroy(self._node)
        self._outputs.destroy()

    @property
    def has_joint_state(self) -> bool:
        """True once a usable joint state has come."""
        return self._guard.has_joint_state

    # Inputs

    def _subscribe_chunks(self, topic: Topic, *, by_operator: bool) -> Any:
        return self._node.create_subscription(
            JointTrajectoryMessage,
            topic.name,
            lambda data: self._on_chunk(data, by_operator=by_operator),
            topic.reader_qos.profile(),
            # A message of 100,000 points or joints is not made into an object: that takes seconds.
            raw=True,
        )

    def _on_deadman(self, message: Bool) -> None:
        if not self.is_active:
            return
        moment = self._now()
        self._note_input("deadman", moment, held=message.data)
        self.send(self._guard.on_deadman(message.data, moment), moment)

    def _on_chunk(self, data: bytes, *, by_operator: bool) -> None:
        if not self.is_active:
            return
        self._take_switch()
        _take_waiting(self._joint_states, self._on_joint_state)
        self.take_references()
        try:
            message = messages.deserialize_chunk(data)
            trajectory = messages.read_joint_trajectory(message)
        except ValueError as error:
            reason, moment = str(error), self._now()
            self._note_input(
                "bad_teleop_chunk" if by_operator else "bad_chunk", moment, reason=reason
            )
            command = self._guard.on_bad_chunk(reason, moment, by_operator=by_operator)
            self.send(command, moment)
            return
        chunk = RequestedChunk(
            messages.stamp_ns(message),
            trajectory.joint_names,
            trajectory.times_s,
            trajectory.positions,
        )
        moment = self._now()
        # First for a replay: what is withdrawn is noted behind it.
        kind = "teleop_chunk" if by_operator else "chunk"
        self._note_input(kind, moment, chunk_stamp_ns=chunk.stamp_ns)
        self.send(self._guard.on_chunk(chunk, moment, by_operator=by_operator), moment)

    def _take_switch(self) -> None:
        if self._switch is not None:
            _take_waiting(self._switch, self._on_deadman)

    def _on_joint_state(self, data: bytes) -> None:
        if not self.is_active:
            return
        moment = self._now()
        try:
            message = messages.deserialize_joint_state(data)
            sample = self._selector.take(messages.read_joint_state(message))
        except ValueError as error:
            reason = str(error)
            self._note_input("bad_joint_state", moment, reason=reason)
            self.send(self._guard.on_bad_joint_state(reason, moment), moment)
            return
        if isinstance(sample, MissingJoints):
            self._guard.on_missing_joints(sample.reason)
        if not isinstance(sample, JointSample):
            return
        self._joint_state_taken = sample.stamp_ns, moment
        command = self._guard.on_joint_state(sample, moment)
        if _is_something(command):
            self._note_input("joint_state", moment)
        self.send(command, moment)

    def take_references(self) -> None:
        """The controller's reference: every sample while a pick-up is awaited, else the newest."""
        if self._reference is None:
            return
        samples = self._reference.take(only_newest=not self._guard.awaits_reference)
        if not samples:
            return
        moment = self._now()
        for sample in samples:
            # Each by itself: what is withdrawn is noted behind its own input.
            self._note_input("references", moment, references=(sample,))
            self.send(self._guard.on_reference(sample, moment), moment)

    def tick(self) -> None:
        """Let the guard look at its deadlines."""
        self.take_references()
        if self._num_ticks % _TICKS_PER_GRAPH_LOOK == 0:
            self._num_policies = self._node.count_publishers(self._chunks.topic_name)
        self._num_ticks += 1
        moment = self._now()
        command = self._guard.on_tick(self._num_policies, moment)
        if _is_something(command):
            self._note_input("tick", moment)
        self.send(command, moment)

    # Requests

    def engage(self) -> Reply:
        """Let chunks pass, if the guard agrees."""
        # A "true" that waits would take the arm from the policy again, though it was sent before.
        self._take_switch()
        moment = self._now()
        reply = self._guard.engage(moment)
        if reply.success or _is_something(reply.command):
            # auto_engage asks at every tick until it may.
            self._note_input("engage", moment)
        self.send(reply.command, moment)
        return reply

    def disengage(self) -> Reply:
        """Come to rest and let nothing pass."""
        moment = self._now()
        reply = self._guard.disengage(moment)
        self._note_input("disengage", moment)
        self.send(reply.command, moment)
        return self._guard.as_sent(reply, self._now())

    def let_go(self, timeout_s: float) -> None:
        """Disengage and take nothing more; a stop that is not sent at once has `timeout_s`."""
        self.disengage()
        # A simulation's /clock is not heard meanwhile, and a stop would be of the past.
        left_s = timeout_s if self._simulated_clock is None else 0.0
        end_s = time.monotonic() + left_s
        while self._guard.owes_stop and time.monotonic() < end_s:
            self.tick()
        self.is_active = False

    def leave(self, timeout_s: float) -> None:
        """Let go, and wait for as long again until the controllers have the stop."""
        self.let_go(timeout_s)
        self.publish_state()
        self._outputs.wait_for_arrival(timeout_s)

    def e_stop(self) -> Reply:
        """Stop whatever moves, and latch."""
        moment = self._now()
        reply = self._guard.e_stop(moment)
        self._note_input("e_stop", moment)
        self.send(reply.command, moment)
        return self._guard.as_sent(reply, self._now())

    def reset_stop(self) -> Reply:
        """Clear the latch."""
        reply = self._guard.reset_stop()
        self._note_input("reset_stop", self._now())
        self._outputs.publish_notes()
        return reply

    # Outputs

    def send(self, command: Command, moment: Moment) -> None:
        """Publish, unless it has become too late for the arm: then what the guard says instead.

        moment: what the guard was given, from which the splice counts.
        """
        for attempt in range(_SEND_TRIES):
            if command.arm is None or not command.has_splice or self._guard.settings.lockstep:
                break
            now = self._now()
            if self._is_in_time(moment, now):
                break
            self._outputs.report(command)
            last = attempt == _SEND_TRIES - 1
            self._note_input("withdraw", now, last=last)
            command, moment = self._guard.withdraw(now, last=last), now
        self._outputs.publish(command)
        if self._outputs.has_news(self._guard):
            self._on_news()

    def _is_in_time(self, moment: Moment, now: Moment) -> bool:
        """Whether what was planned at `moment` reaches the arm before it has departed from it."""
        if self._simulated_clock is not None:
            return self._simulated_clock.is_in_time(moment, now)
        if abs(now.offset_ns - moment.offset_ns) > MAX_DIVERGENCE_NS:
            # The ROS clock has stepped since: the stamp would be of another time.
            return False
        within_ns = messages.seconds_to_ns(self._guard.settings.send_within_s)
        return now.steady_ns - moment.steady_ns <= within_ns

    def _note_input(self, kind: str, moment: Moment, **details: Any) -> None:
        """Publish the guard's latest input with its times, so that a recording can be replayed."""
        joint_stamp_ns, taken = self._joint_state_taken or (None, None)
        self._outputs.note_input(
            GuardInput(kind, moment, joint_stamp_ns, taken, self._num_policies, **details)
        )

    def publish_state(self) -> None:
        """guard_state, and more on /diagnostics."""
        more = {
            "dry_run": str(self._parameters.dry_run).lower(),
            "reference": self._reference_text(),
            "num_policies": str(self._num_policies),
            "teleoperated": str(self._guard.teleoperated).lower(),
            "collisions": self._guard.collisions,
        }
        self._outputs.publish_state(self._guard, more, self._now())

    def _reference_text(self) -> str:
        """Whether the controller's reference is available."""
        if self._reference is None:
            return "none: engaging leads the arm to where it is measured"
        if self._reference.fault:
            return f"{self._reference.topic_name}: {self._reference.fault}"
        unusable = self._guard.why_reference_unusable
        if unusable:
            return f"{self._reference.topic_name}: {unusable}"
        heard = "" if self._guard.has_reference else ", nothing has come"
        return f"{self._reference.topic_name}{heard}"

    def _now(self) -> Moment:
        return self._clocks.now()


def _is_something(command: Command) -> bool:
    return command.arm is not None or command.executed is not None or bool(command.events)


def _take_waiting(subscription: Any, take: Callable[[Any], None]) -> None:
    """Read what has arrived already. The executor takes one message of each topic a round, so a
    guard that got no CPU for a while would judge by old ones."""
    for _ in range(subscription.qos_profile.depth):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return
        take(taken[0])
