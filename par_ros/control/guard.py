# SPDX-License-Identifier: Apache-2.0
"""The guard without ROS: what is commanded, when it stops, what it takes to go on.

It starts disengaged. `engage` takes what the arm's controller holds as commanded and lets chunks
pass; every fault stops the arm and disengages; an emergency stop latches besides. Ways to rest:

- the tail: each motion that is sent ends at rest, so silence is a stop;
- the stop: jerk-limited, from what is commanded, for emergency stops, disengaging and faults;
- the retreat: after a tracking error the arm is somewhere else than commanded; the command brakes
  and then moves, slowly, to where the arm was measured. It is a motion like any other: an emergency
  stop stops it.

A new motion follows the running one until the end of the splice and departs from it there, so a
controller that takes it within the splice runs one curve. What would be sent too late for that is
withdrawn. What the controller then reports as its reference shows whether it took the motion; one
that was not taken is a fault. After a step of the ROS clock nothing is sent, because nobody knows
what a stamp means to the controller then: the running motion ends at rest by itself.

An operator who holds a deadman switch has the arm instead of the policy (teleoperation.py).

Lockstep: time is that of the stamps, physics waits for each answer, and every chunk is answered.
"""

import dataclasses
from collections import Counter

from par_ros.control.action_schedule import ActionSchedule
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.arm_view import ArmView
from par_ros.control.authority import Authority, StopLatch
from par_ros.control.chunk_answers import ChunkAnswers
from par_ros.control.chunk_form import Fault, RequestedChunk
from par_ros.control.command import Command, Reply
from par_ros.control.commanded_motion import MotionHistory
from par_ros.control.commander import Commander
from par_ros.control.controller_feedback import ControllerFeedback
from par_ros.control.deadlines import Deadlines
from par_ros.control.engaging import Engaging
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_feedback import JointFeedback
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.joint_watch import JointWatch
from par_ros.control.operator_requests import OperatorRequests
from par_ros.control.reference_watch import ReferenceSample, ReferenceWatch
from par_ros.control.safety_filter import SafetyFilter
from par_ros.control.teleoperation import Teleoperation
from par_ros.control.timeline import Moment, Timeline

__all__ = ["Guard", "GuardSettings", "StopLatch"]

# Planning stays this far inside the position limits.
_POSITION_MARGIN_RAD = 0.005


class Guard:
    """One arm's guard; every input comes with the Moment at which it was taken.

    Attributes:
        collisions: whether collisions are looked at, for status messages.
    """

    def __init__(
        self, spec: ArmSpec, settings: GuardSettings, latch: StopLatch | None = None
    ) -> None:
        """latch: of an emergency stop before this guard. Raises ValueError for its settings."""
        settings.validate()
        self.spec = spec
        self.settings = settings
        self.counters: Counter[str] = Counter()
        limits = spec.limits.scaled(settings.limit_share).inside(_POSITION_MARGIN_RAD)
        planning = dataclasses.replace(spec, limits=limits)
        timeline = Timeline(simulated=settings.sim_clock or settings.lockstep)
        arm = _arm_view(spec, settings, timeline)
        safety_filter = SafetyFilter(
            planning,
            num_actions=settings.num_actions,
            step_s=settings.step_s,
            tail_s=settings.tail_s,
        )
        commander = Commander(
            spec,
            planning,
            timeline,
            arm.motions,
            splice_s=settings.splice_s,
            knot_times_s=safety_filter.knot_times_s,
            lockstep=settings.lockstep,
        )
        engaging = Engaging(
            planning,
            arm.joints,
            arm.reference,
            lockstep=settings.lockstep,
            expects_reference=settings.expects_reference,
            dry_run=settings.dry_run,
        )
        schedule = ActionSchedule(settings)
        chunk_ns = round(settings.chunk_s * NANOSECONDS)
        self.collisions = commander.collisions
        authority = Authority(
            timeline,
            arm,
            commander,
            latch if latch is not None else StopLatch(),
            self.counters,
            lockstep_chunk_ns=chunk_ns if settings.lockstep else None,
            on_clock_step=schedule.reset,
        )
        deadlines = Deadlines(settings, authority, arm)
        self._teleoperation = Teleoperation(authority, schedule, deadlines, self.counters)
        self._arm, self._authority, self._deadlines = arm, authority, deadlines
        self._joints = JointFeedback(authority, arm, deadlines, self.counters)
        self._controller = ControllerFeedback(spec, authority, arm, self.counters)
        self._chunks = ChunkAnswers(
            settings, authority, arm, commander, engaging, safety_filter, schedule, deadlines,
            self._teleoperation, self.counters,
        )  # fmt: skip
        self._operator = OperatorRequests(
            settings, authority, arm, commander, engaging, safety_filter, schedule, deadlines,
            self._teleoperation, self.counters,
        )  # fmt: skip

    # What it is doing.

    @property
    def engaged(self) -> bool:
        """True while chunks pass."""
        return self._authority.engaged

    @property
    def teleoperated(self) -> bool:
        """True while the arm is an operator's, and the policy's chunks are refused."""
        return self._teleoperation.is_active

    @property
    def stop_latched(self) -> bool:
        """True from an emergency stop until reset_stop."""
        return self._authority.latch.is_set

    @property
    def owes_stop(self) -> bool:
        """True while a stop is due that could not be sent; each tick plans it again."""
        return self._authority.owes_stop

    @property
    def holding(self) -> str:
        """Why the arm is being held although the guard is engaged; empty while it moves."""
        return self._authority.holding

    @property
    def last_fault(self) -> Fault | None:
        """What disengaged the guard last; None since it was engaged."""
        return self._authority.last_fault

    @property
    def has_joint_state(self) -> bool:
        """True once a usable joint state has come."""
        return self._arm.joints.newest is not None

    @property
    def has_reference(self) -> bool:
        """True once the controller's reference has come."""
        return self._arm.reference.is_known

    @property
    def why_reference_unusable(self) -> str:
        """What is wrong with the last reference that came; empty where it was good."""
        return self._arm.reference.why_unusable

    @property
    def awaits_reference(self) -> bool:
        """True while the controller has not shown yet whether it took the newest motion."""
        return self._arm.awaits_reference

    @property
    def can_withdraw(self) -> bool:
        """True while a motion was sent that may still be taken back."""
        return self._arm.motions.before is not None

    def commanded_positions(self, moment: Moment) -> FloatArray | None:
        """Arm positions [J] that are commanded now; None before anything was."""
        motions = self._arm.motions
        if not motions:
            return None
        return motions.running.state_at(self._authority.timeline.time_ns(moment)).positions

    # Joint states and the controller's reference.

    def on_joint_state(self, sample: JointSample, moment: Moment) -> Command:
        """Take measured positions of all joints [J + 1], gripper last."""
        return self._told(self._joints.on_joint_state(sample, moment), moment)

    def on_bad_joint_state(self, reason: str, moment: Moment) -> Command:
        """Take a joint state that could not be read: doubled names, a number is not finite."""
        return self._told(self._joints.on_bad_joint_state(reason, moment), moment)

    def on_missing_joints(self, reason: str) -> None:
        """Take note of why there is no whole joint state."""
        self._arm.joints.missing = reason

    def on_reference(self, sample: ReferenceSample, moment: Moment) -> Command:
        """Take what the arm's controller commands; compare it with what was sent."""
        return self._told(self._controller.on_reference(sample, moment), moment)

    # Chunks.

    def on_chunk(
        self, chunk: RequestedChunk, moment: Moment, *, by_operator: bool = False
    ) -> Command:
        """Pass, track or refuse one chunk. In lockstep every new chunk is answered."""
        return self._told(self._chunks.on_chunk(chunk, moment, by_operator=by_operator), moment)

    def on_bad_chunk(self, reason: str, moment: Moment, *, by_operator: bool = False) -> Command:
        """Take a chunk that could not even be read into arrays."""
        return self._told(
            self._chunks.on_bad_chunk(reason, moment, by_operator=by_operator), moment
        )

    def on_deadman(self, held: bool, moment: Moment) -> Command:
        """Take one message of the operator's switch."""
        return self._told(self._teleoperation.on_deadman(held, moment), moment)

    def withdraw(self, moment: Moment, *, last: bool = False) -> Command:
        """What was returned last was not published, because it took too long; what is instead.

        It is planned anew from now. On the last try a chunk is held, and a stop left to the ticks.
        """
        running = self._arm.motions.running
        if running.kind in ("standing", "found"):
            # Nothing that departs from a motion was sent.
            return Command()
        self._arm.motions.withdraw()
        self._arm.reference.take_back()
        self.counters["withdrawn"] += 1
        stepped = self._authority.advance(moment)
        if stepped is not None:
            # The clock stepped meanwhile: the running motion ends by itself.
            return stepped
        if running.kind == "chunk":
            return self._told(self._chunks.withdrawn(moment, last=last), moment)
        if last:
            why = "no stop could be sent in time; check the machine's load"
            return self._authority.miss_stop("late_stops", why)
        return self._told(self._authority.stop(moment), moment)

    # Deadlines.

    def on_tick(self, num_policies: int, moment: Moment) -> Command:
        """Look at every deadline. num_policies: publishers on action_chunk."""
        command = self._deadlines.on_tick(num_policies, moment)
        looked = self._teleoperation.look(moment)
        command = looked if looked.events else command
        if command.arm is None:
            again = self._authority.stop_again(moment)
            command = dataclasses.replace(again, events=(*command.events, *again.events))
        return self._told(command, moment)

    # Services.

    def engage(self, moment: Moment) -> Reply:
        """Let chunks pass, from where the controller holds the arm on."""
        return self._told_reply(self._operator.engage(moment), moment)

    def disengage(self, moment: Moment) -> Reply:
        """Come to rest and let nothing pass."""
        return self._told_reply(self._operator.disengage(moment), moment)

    def e_stop(self, moment: Moment) -> Reply:
        """Stop whatever moves; nothing passes until reset_stop and then engage."""
        return self._told_reply(self._operator.e_stop(moment), moment)

    def as_sent(self, reply: Reply, moment: Moment) -> Reply:
        """`reply` to e_stop or disengage, once its command was published or withdrawn."""
        return self._operator.as_sent(reply, moment)

    def reset_stop(self) -> Reply:
        """Clear the latch; the guard stays disengaged."""
        return self._operator.reset_stop()

    def _told(self, command: Command, moment: Moment) -> Command:
        return self._chunks.telling_of_stop(command, moment)

    def _told_reply(self, reply: Reply, moment: Moment) -> Reply:
        return dataclasses.replace(reply, command=self._told(reply.command, moment))


def _arm_view(spec: ArmSpec, settings: GuardSettings, timeline: Timeline) -> ArmView:
    joints = JointWatch(
        spec,
        max_age_s=settings.max_joint_state_age_s,
        max_engage_speed_rad_s=settings.max_engage_speed_rad_s,
        simulated=settings.sim_clock or settings.lockstep,
        lockstep=settings.lockstep,
    )
    return ArmView(
        MotionHistory(spec), joints, ReferenceWatch(timeline, settings.max_reference_age_s)
    )
