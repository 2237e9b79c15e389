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

Lockstep: time is that of the stamps, physics waits for each answer, and every chunk is answered.
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from par_ros.control.action_schedule import (
    ActionSchedule,
    ChunkStart,
    ScheduleRefusal,
    ScheduleSettings,
)
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.chunk_answers import ChunkAnswers, steady_s
from par_ros.control.command import Command, Reply, log
from par_ros.control.commanded_motion import MotionHistory
from par_ros.control.commander import Commander
from par_ros.control.engaging import Engaging, why_slowed
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.joint_watch import JointWatch
from par_ros.control.reference_watch import ReferenceSample, ReferenceWatch, Verdict
from par_ros.control.safety_filter import Fault, RequestedChunk, SafetyFilter
from par_ros.control.timeline import ClockStep, Moment, Timeline
from par_ros.control.watchdog import Watchdog

_JOINT_STATES = "joint_states"
_CHUNK = "chunk"
_DEAD_POLICY = "dead_policy"

# Of the splice, what computing may take: the rest is the message's way and the control cycle.
_COMPUTING_SHARE = 2.0 / 3.0
# Planning stays this far inside the position limits.
_POSITION_MARGIN_RAD = 0.005
MAX_SPLICE_S = 0.1


@dataclass(frozen=True)
class GuardSettings:
    """All that is not about one arm. See parameters.SafetyNodeParameters for the meanings."""

    lockstep: bool = False
    # The ROS clock is a simulator's: motions are kept on it.
    sim_clock: bool = False
    chunk_start: ChunkStart = "arrival"
    num_actions: int = 8
    step_s: float = 0.05
    max_observation_age_s: float = 0.4
    max_joint_state_age_s: float = 0.2
    late_after_s: float = 0.1
    policy_timeout_s: float = 1.0
    first_chunk_timeout_s: float = 10.0
    tail_s: float = 0.3
    splice_s: float = 0.03
    limit_share: float = 0.95
    expects_reference: bool = True
    max_engage_speed_rad_s: float = 0.1

    @property
    def send_within_s(self) -> float:
        """What is not published this long after the moment given to the guard is withdrawn."""
        return _COMPUTING_SHARE * self.splice_s


class StopLatch:
    """The emergency stop's memory; outlives a guard."""

    def __init__(self) -> None:
        self.is_set = False


class Guard:
    """One arm's guard; every input comes with the Moment at which it was taken."""

    def __init__(
        self, spec: ArmSpec, settings: GuardSettings, latch: StopLatch | None = None
    ) -> None:
        if not 0.0 < settings.splice_s <= MAX_SPLICE_S:
            raise ValueError(
                f"splice_s must be above 0 and at most {MAX_SPLICE_S:g} s, got "
                f"{settings.splice_s:g} s."
            )
        self.spec = spec
        self.settings = settings
        limits = spec.limits.scaled(settings.limit_share).inside(_POSITION_MARGIN_RAD)
        planning = dataclasses.replace(spec, limits=limits)
        self._filter = SafetyFilter(
            planning,
            num_actions=settings.num_actions,
            step_s=settings.step_s,
            tail_s=settings.tail_s,
        )
        self._schedule = ActionSchedule(
            ScheduleSettings(
                num_actions=settings.num_actions,
                step_s=settings.step_s,
                chunk_start=settings.chunk_start,
                lockstep=settings.lockstep,
                max_observation_age_s=settings.max_observation_age_s,
            )
        )
        simulated = settings.sim_clock or settings.lockstep
        self._timeline = Timeline(simulated=simulated)
        self._watchdog = Watchdog()
        self._motions = MotionHistory(spec)
        self._joints = JointWatch(
            spec,
            max_age_s=settings.max_joint_state_age_s,
            max_engage_speed_rad_s=settings.max_engage_speed_rad_s,
            simulated=simulated,
        )
        self._reference = ReferenceWatch()
        self._commander = Commander(
            spec,
            planning,
            self._timeline,
            self._motions,
            splice_s=settings.splice_s,
            knot_times_s=self._filter.knot_times_s,
            lockstep=settings.lockstep,
        )
        self._engaging = Engaging(
            planning,
            self._joints,
            self._reference,
            lockstep=settings.lockstep,
            expects_reference=settings.expects_reference,
        )
        self.counters: Counter[str] = Counter()
        self._answers = ChunkAnswers(self._filter, self._motions, self._commander, self.counters)
        self._latch = latch if latch is not None else StopLatch()
        self._engaged = False
        self._holding = ""
        self._last_fault: Fault | None = None
        self._last_time_ns = 0
        # After a clock step: until then (steady clock) nothing is sent.
        self._quiet_until_ns: int | None = None
        # Without a reference: until then (timeline) the arm goes to where the guard begins.
        self._settled_ns = 0
        # The chunk that was answered last, in case its answer is withdrawn.
        self._answered: RequestedChunk | None = None
        self._num_policies = 0

    # What it is doing.

    @property
    def engaged(self) -> bool:
        """True while chunks pass."""
        return self._engaged

    @property
    def stop_latched(self) -> bool:
        """True from an emergency stop until reset_stop."""
        return self._latch.is_set

    @property
    def holding(self) -> str:
        """Why the arm is being held although the guard is engaged; empty while it moves."""
        return self._holding

    @property
    def last_fault(self) -> Fault | None:
        """What disengaged the guard last; None since it was engaged."""
        return self._last_fault

    @property
    def has_joint_state(self) -> bool:
        """True once a usable joint state has come."""
        return self._joints.newest is not None

    @property
    def has_reference(self) -> bool:
        """True once the controller's reference has come."""
        return self._reference.is_known

    @property
    def awaits_reference(self) -> bool:
        """True while the controller has not shown yet whether it took the newest motion."""
        moves = bool(self._motions) and self._motions.running.kind != "standing"
        return moves and not self._reference.confirmed

    @property
    def can_withdraw(self) -> bool:
        """True while a motion was sent that may still be taken back."""
        return self._motions.before is not None

    def commanded_positions(self, moment: Moment) -> FloatArray | None:
        """Arm positions [J] that are commanded now; None before anything was."""
        if not self._motions:
            return None
        return self._motions.running.state_at(self._timeline.time_ns(moment)).positions

    # Joint states and the controller's reference.

    def on_joint_state(self, sample: JointSample, moment: Moment) -> Command:
        """Take measured positions of all joints [J + 1], gripper last."""
        stepped = self._advance(moment)
        if stepped is not None:
            return stepped
        if self._joints.take(sample, moment):
            self.counters["unusable_joint_states"] += 1
            return Command()
        self._watchdog.feed(_JOINT_STATES, steady_s(moment), self.settings.max_joint_state_age_s)
        if not self._engaged or not self._motions:
            return Command()
        stamp_ns = self._timeline.of_stamp(sample.stamp_ns, moment)
        fault = self._joints.jump() or self._joints.two_sources(self._motions, stamp_ns)
        if fault is not None:
            return self._trip(fault, moment)
        fault = self._joints.tracking(self._motions, stamp_ns)
        if fault is not None:
            return self._trip(fault, moment, retreats=True)
        return Command()

    def on_bad_joint_state(self, reason: str, moment: Moment) -> Command:
        """Take a joint state that could not be read: doubled names, a number is not finite."""
        stepped = self._advance(moment)
        if stepped is not None:
            return stepped
        self.counters["bad_joint_states"] += 1
        self._joints.forget()
        if not self._engaged:
            return Command()
        return self._trip(Fault("joint_states", reason), moment)

    def on_missing_joints(self, names: tuple[str, ...]) -> None:
        """Take note of joints that no joint state has reported."""
        self._joints.missing = names

    def on_reference(self, sample: ReferenceSample, moment: Moment) -> Command:
        """Take what the arm's controller commands; compare it with what was sent."""
        stepped = self._advance(moment)
        if stepped is not None:
            return stepped
        if not self._reference.take(sample, moment):
            self.counters["unusable_references"] += 1
            return Command()
        if self._engaged and self._reference.is_slowed:
            return self._trip(Fault("speed_scaling", why_slowed(sample.speed_scaling)), moment)
        if not self._motions or self.settings.lockstep or self._is_quiet(moment):
            return Command()
        time_ns = self._timeline.of_stamp(sample.stamp_ns, moment)
        verdict = self._reference.judge(self._motions, time_ns)
        return self._act_on(verdict, moment) if verdict else Command()

    def _act_on(self, verdict: Verdict, moment: Moment) -> Command:
        if verdict == "late":
            self.counters["picked_up_late"] += 1
            return log("warning", "the controller took a trajectory after its splice had ended")
        if verdict == "moved_at_rest":
            return self._adopt(moment)
        if verdict == "not_taken":
            return self._take_back(moment)
        if verdict == "elsewhere" and self._engaged:
            fault = Fault(
                "foreign_motion",
                "the controller follows a motion that the guard has not sent; check for other "
                "publishers on its topic, and for limits in the controller that clip commands.",
            )
            # From where a stop would have to begin is not known.
            return self._trip(fault, moment, stops=False)
        return Command()

    def _adopt(self, moment: Moment) -> Command:
        """The controller stands elsewhere (it holds where it measured): so does the guard."""
        reference = self._reference.newest
        assert reference is not None
        time_ns = self._timeline.time_ns(moment)
        running = self._motions.running
        apart_rad = float(abs(reference.positions - running.state_at(time_ns).positions).max())
        self._motions.stand_at(reference.positions.copy(), running.gripper_at(time_ns), time_ns)
        self._joints.restart_tracking()
        self.counters["adopted_references"] += 1
        if self._engaged and apart_rad > self.spec.max_tracking_error_rad:
            fault = Fault(
                "reference_moved",
                f"the controller's reference moved by {apart_rad:.3g} rad while the arm was to "
                "stand; check what else commands the controller.",
            )
            return self._trip(fault, moment)
        return log("info", f"the controller holds {apart_rad:.2g} rad elsewhere; so does the guard")

    def _take_back(self, moment: Moment) -> Command:
        """The newest motion was lost or rejected: the one before still runs, and is stopped."""
        self._motions.withdraw()
        self._reference.begin()
        self.counters["not_taken"] += 1
        fault = Fault(
            "not_taken",
            "the controller did not take a trajectory: lost on its way or rejected; check the "
            "controller's log, its clock and the network.",
        )
        if self._engaged:
            return self._trip(fault, moment)
        return self._stop(moment).saying("error", fault.reason)

    # Chunks.

    def on_chunk(self, chunk: RequestedChunk, moment: Moment) -> Command:
        """Pass, track or refuse one chunk. In lockstep every new chunk is answered."""
        self.counters["chunks"] += 1
        stepped = self._advance(moment)
        if stepped is not None:
            return stepped
        refused = self._check_lockstep_stamp(chunk, moment) if self.settings.lockstep else None
        if refused is not None:
            return refused
        if self._engaged:
            # Before its stamp: a policy that sends NaN is broken, late or not.
            fault = self._filter.check_form(chunk)
            if fault is not None:
                return self._trip(fault, moment, chunk=chunk)
        time_ns = self._chunk_time_ns(chunk, moment)
        if not self._motions and not self._stand_at_measured(time_ns):
            self.counters["refused"] += 1
            return log(
                "error",
                "a chunk came before any complete joint state, so there is nothing to hold; check "
                "the joint_states topic.",
            )
        return self._place(chunk, time_ns, moment)

    def on_bad_chunk(self, reason: str, moment: Moment) -> Command:
        """Take a chunk that could not even be read into arrays."""
        stepped = self._advance(moment)
        if stepped is not None:
            return stepped
        self.counters["refused"] += 1
        if not self._engaged:
            return log("warning", f"chunk refused: {reason}")
        return self._trip(Fault("shape", reason), moment)

    def withdraw(self, moment: Moment, *, last: bool = False) -> Command:
        """What was returned last was not published, because it took too long; what is instead.

        A chunk is held. A stop is planned anew from now, unless this was the last try.
        """
        running = self._motions.running
        self._motions.withdraw()
        self._reference.begin()
        self.counters["withdrawn"] += 1
        if running.kind == "chunk" and self._answered is not None:
            chunk = self._answered
            self._start_holding("slow")
            time_ns = self._timeline.time_ns(moment)
            return self._tell_held(Command(), chunk, time_ns, moment).saying(
                "warning",
                f"chunk held: the guard needed more than {self.settings.send_within_s:.3g} s; "
                "check the machine's load.",
            )
        if last:
            return log(
                "error",
                "no stop could be sent in time; the running motion ends at rest by itself; check "
                "the machine's load.",
            )
        return self._stop(moment)

    def _chunk_time_ns(self, chunk: RequestedChunk, moment: Moment) -> int:
        return chunk.stamp_ns if self.settings.lockstep else self._timeline.time_ns(moment)

    def _place(self, chunk: RequestedChunk, time_ns: int, moment: Moment) -> Command:
        """Give the chunk its time, or refuse it; then follow it."""
        timeline = self._timeline
        grid_ns = None
        if self.settings.chunk_start == "observation":
            grid_ns = timeline.of_stamp(min(chunk.stamp_ns, moment.ros_ns), moment)
        lead = self._commander.lead(time_ns, grid_ns)
        takes_over_ns = timeline.stamp_ns(lead.departs_ns, moment)
        placed = self._schedule.place(chunk.stamp_ns, moment.ros_ns, takes_over_ns)
        if isinstance(placed, ScheduleRefusal):
            return self._refuse_unplaced(chunk, placed, time_ns, moment)
        if not self._engaged:
            self.counters["refused"] += 1
            return self._answer_held(chunk, time_ns, moment)
        fault = self._filter.check(
            chunk,
            self._motions.running.state_at(time_ns).positions,
            None if self._joints.newest is None else self._joints.newest.positions[:-1],
        )
        if fault is not None:
            return self._trip(fault, moment, chunk=chunk)
        wait = self._why_wait(time_ns)
        if wait:
            return self._hold_chunk(chunk, *wait, time_ns, moment)
        start_ns = timeline.of_stamp(placed.start_ns, moment)
        followed, logged = self._answers.follow(chunk, lead, placed, start_ns, time_ns)
        self._expect_next_chunk(start_ns, time_ns, moment)
        if isinstance(followed, str):
            return self._hold_chunk(chunk, "limits", followed, time_ns, moment)
        self._holding = ""
        self._answered = chunk
        self._reference.begin()
        stamp_ns = timeline.of_stamp(chunk.stamp_ns, moment)
        command = self._commander.send(followed.motion, moment)
        command = command.telling(self._answers.executed(followed, stamp_ns), chunk.stamp_ns)
        return dataclasses.replace(command, events=logged.events)

    def _why_wait(self, time_ns: int) -> tuple[str, str] | None:
        """Why a good chunk is not followed now: one word and a sentence."""
        if time_ns < self._settled_ns:
            return "settling", "the arm is still being led to where the guard begins"
        running = self._motions.running
        judged = running.kind == "standing" or self._reference.confirmed
        if self._reference.is_known and not self.settings.lockstep and not judged:
            return "unconfirmed", "the controller has not shown yet that it took the motion before"
        return None

    def _check_lockstep_stamp(self, chunk: RequestedChunk, moment: Moment) -> Command | None:
        """In lockstep the newest joint state is of the observation that physics waits with."""
        sample = self._joints.newest
        if sample is None:
            return None
        age_s = (sample.stamp_ns - chunk.stamp_ns) / NANOSECONDS
        if age_s > 0.0:
            self.counters["late"] += 1
            return log("warning", f"chunk refused: physics is {age_s:.3f} s beyond its observation")
        if not self._engaged or -age_s <= self.settings.max_joint_state_age_s:
            return None
        fault = Fault(
            "joint_states_stale",
            f"joint states must be at most {self.settings.max_joint_state_age_s:g} s older than "
            f"the chunk, the last is {-age_s:.3f} s older; check the joint_states topic.",
        )
        return self._trip(fault, moment)

    def _refuse_unplaced(
        self, chunk: RequestedChunk, refusal: ScheduleRefusal, time_ns: int, moment: Moment
    ) -> Command:
        self.counters[refusal.kind] += 1
        if refusal.kind == "future" and self._engaged:
            return self._trip(Fault("future", refusal.reason), moment)
        text = f"chunk refused: {refusal.reason}"
        if refusal.kind == "late" and self._motions:
            # The tail is running already: nothing to send, but the policy must know.
            self._start_holding("late")
            return self._answer_held(chunk, time_ns, moment).saying("warning", text)
        return log("warning", text)

    def _hold_chunk(
        self, chunk: RequestedChunk, why: str, reason: str, time_ns: int, moment: Moment
    ) -> Command:
        """Hold for one chunk; the next one may end it. The running motion ends at rest."""
        self.counters["refused"] += 1
        self._start_holding(why)
        held = self._answer_held(chunk, time_ns, moment)
        return held.saying("warning", f"chunk held: {reason}")

    def _start_holding(self, why: str) -> None:
        if self._holding != why:
            self.counters["holds"] += 1
            self.counters[f"hold_{why}"] += 1
        self._holding = why

    def _answer_held(self, chunk: RequestedChunk, time_ns: int, moment: Moment) -> Command:
        """executed_actions of a refused chunk; with a stop in lockstep, which waits for one."""
        command = self._stop(moment, time_ns) if self.settings.lockstep else Command()
        return self._tell_held(command, chunk, time_ns, moment)

    def _tell_held(
        self, command: Command, chunk: RequestedChunk, time_ns: int, moment: Moment
    ) -> Command:
        if not self._motions:
            return command
        stamp_ns = self._timeline.of_stamp(chunk.stamp_ns, moment)
        begin_ns = stamp_ns if self.settings.lockstep else time_ns
        return command.telling(self._answers.held(begin_ns, stamp_ns), chunk.stamp_ns)

    def _expect_next_chunk(self, start_ns: int, time_ns: int, moment: Moment) -> None:
        duration_s = self.settings.num_actions * self.settings.step_s
        left_s = duration_s + (start_ns - time_ns) / NANOSECONDS
        now_s = steady_s(moment)
        self._watchdog.feed(_CHUNK, now_s, left_s + self.settings.late_after_s)
        self._watchdog.feed(_DEAD_POLICY, now_s, left_s + self.settings.policy_timeout_s)

    # Deadlines.

    def on_tick(self, num_policies: int, moment: Moment) -> Command:
        """Look at every deadline. num_policies: publishers on action_chunk."""
        stepped = self._advance(moment)
        if stepped is not None:
            return stepped
        self._num_policies = num_policies
        if not self._engaged:
            return Command()
        if num_policies > 1:
            fault = Fault(
                "two_policies",
                f"one policy may publish action_chunk, {num_policies} publishers are there; stop "
                "all but one.",
            )
            return self._trip(fault, moment)
        if self.settings.lockstep:
            return Command()
        fault_or_none = self._missed_deadline(moment)
        if fault_or_none is not None:
            return self._trip(fault_or_none, moment)
        if self._watchdog.expired(_CHUNK, steady_s(moment)):
            self._watchdog.stop(_CHUNK)
            # The tail that was sent with the last chunk is the hold.
            self._start_holding("late")
            return log("warning", "no chunk came in time; the arm comes to rest and waits")
        return Command()

    def _missed_deadline(self, moment: Moment) -> Fault | None:
        now_s = steady_s(moment)
        if self._watchdog.expired(_JOINT_STATES, now_s):
            return Fault(
                "joint_states_stale",
                f"joint states must come every {self.settings.max_joint_state_age_s:g} s: "
                f"{self._joints.why_silent()}.",
            )
        if self.settings.expects_reference and not self._reference.is_heard(moment):
            return Fault(
                "reference_silent",
                "the controller's reference must come every 0.2 s, none has: the controller is not "
                "active (a robot in reflex or user stop ends it), or not there; check "
                "controller_manager and the robot.",
            )
        if self._watchdog.expired(_DEAD_POLICY, now_s):
            return Fault(
                "dead_policy",
                "no chunk has answered an observation in time; check policy_node and the camera.",
            )
        return None

    # Services.

    def engage(self, moment: Moment) -> Reply:
        """Let chunks pass, from where the controller holds the arm on."""
        stepped = self._advance(moment)
        if stepped is not None:
            return Reply(False, "the clock has just stepped; look at it, then engage", stepped)
        if self._engaged:
            return Reply(True, "is engaged already")
        refusal = self._why_not_engage(moment)
        if refusal:
            return Reply(False, refusal)
        start = self._engaging.start()
        time_ns = self._timeline.time_ns(moment)
        if self.settings.lockstep:
            assert self._joints.newest is not None
            time_ns = self._joints.newest.stamp_ns
        self._motions.stand_at(start.positions, start.gripper_m, time_ns)
        self._reference.begin()
        self._joints.restart_tracking()
        self._schedule.reset()
        self._engaged = True
        self._last_fault = None
        self._holding = ""
        self._watchdog.stop(_CHUNK)
        now_s = steady_s(moment)
        self._watchdog.feed(_DEAD_POLICY, now_s, self.settings.first_chunk_timeout_s)
        if not start.settles:
            return Reply(True, "engaged from where the arm is held")
        command, self._settled_ns = self._commander.settle(start.positions, time_ns, moment)
        duration_s = (self._settled_ns - time_ns) / NANOSECONDS
        return Reply(
            True,
            "engaged from the measured positions; the controller's reference is not known, so the "
            f"arm is led there first, within {duration_s:.1f} s",
            command,
        )

    def disengage(self, moment: Moment) -> Reply:
        """Come to rest and let nothing pass."""
        stepped = self._advance(moment)
        # The arm may be moved by hand, or put back to its start, before the next engage.
        self._joints.forget()
        if stepped is not None:
            return Reply(True, "disengaged by a clock step; the arm comes to rest", stepped)
        was_engaged, self._engaged = self._engaged, False
        command = self._stop(moment)
        if not was_engaged:
            return Reply(True, "was not engaged", command)
        return Reply(True, "disengaged; the arm comes to rest", command)

    def e_stop(self, moment: Moment) -> Reply:
        """Stop whatever moves; nothing passes until reset_stop and then engage."""
        stepped = self._advance(moment)
        was_latched, self._latch.is_set = self._latch.is_set, True
        self._engaged = False
        if self._is_quiet(moment):
            return Reply(
                True,
                "latched; after a clock step nothing can be sent, the running motion ends at rest "
                "by itself",
                stepped or Command(),
            )
        command = self._stop(moment)
        if was_latched:
            return Reply(True, "was stopped already", command)
        self.counters["e_stops"] += 1
        return Reply(True, "stopped; reset_stop and then engage clear it", command)

    def reset_stop(self) -> Reply:
        """Clear the latch; the guard stays disengaged."""
        if not self._latch.is_set:
            return Reply(True, "was not stopped")
        self._latch.is_set = False
        return Reply(True, "stop cleared; engage when the arm is safe to move")

    def _why_not_engage(self, moment: Moment) -> str:
        if self._latch.is_set:
            return "the emergency stop is latched; call reset_stop first"
        if self._is_quiet(moment):
            return "the clock has stepped; wait until the running motion has ended"
        if self._num_policies > 1:
            return (
                f"{self._num_policies} policies publish action_chunk; stop all but one (one that "
                "was killed stays in the ROS graph for some seconds)"
            )
        time_ns = self._timeline.time_ns(moment)
        if not self.settings.lockstep and self._motions.is_moving(time_ns):
            return "the arm is still coming to rest; try again in a moment"
        return self._engaging.why_not(moment)

    # Stopping.

    def _trip(
        self,
        fault: Fault,
        moment: Moment,
        *,
        retreats: bool = False,
        stops: bool = True,
        chunk: RequestedChunk | None = None,
    ) -> Command:
        """Stop, disengage, and say why; answer the chunk that was the reason."""
        self._engaged = False
        self._last_fault = fault
        self._holding = fault.kind
        self.counters["holds"] += 1
        self.counters[f"fault_{fault.kind}"] += 1
        time_ns = None if chunk is None else self._chunk_time_ns(chunk, moment)
        command = self._stop(moment, time_ns, retreats=retreats) if stops else Command()
        if chunk is not None:
            assert time_ns is not None
            self.counters["refused"] += 1
            command = self._tell_held(command, chunk, time_ns, moment)
        return command.saying("error", f"stopped and disengaged: {fault.reason}")

    def _stop(
        self, moment: Moment, time_ns: int | None = None, *, retreats: bool = False
    ) -> Command:
        """A stop of what moves; nothing where nothing moves, or where nothing can be sent."""
        if time_ns is None:
            time_ns = self._timeline.time_ns(moment)
        if not self._motions or self._is_quiet(moment) or self._physics_runs(time_ns):
            return Command()
        moves = self._motions.is_moving(time_ns) and self._motions.running.kind != "stop"
        if not (moves or retreats or self.settings.lockstep):
            return Command()
        sample = self._joints.newest
        if retreats and sample is not None:
            motion = self._commander.retreat(sample.positions[:-1], time_ns)
        else:
            motion = self._commander.stop(time_ns)
        if isinstance(motion, str):
            self._latch.is_set = True
            self._engaged = False
            self.counters["failed_stops"] += 1
            return log(
                "error",
                f"latched: no stop passed the outgoing check ({motion}); the running motion ends "
                "at rest by itself.",
            )
        self._reference.begin()
        return self._commander.send(motion, moment)

    def _physics_runs(self, time_ns: int) -> bool:
        """Lockstep: whether physics is on its way through a chunk, and waits for nobody.

        It follows answers to its observations only: what was to be stopped now is stopped by the
        next answer, and until then the running motion is what is commanded.
        """
        if not self.settings.lockstep:
            return False
        duration_s = self.settings.num_actions * self.settings.step_s
        start_ns = self._motions.running.start_ns
        return start_ns < time_ns < start_ns + round(duration_s * NANOSECONDS)

    def _stand_at_measured(self, time_ns: int) -> bool:
        """Hold where the arm was measured, to answer a chunk; False where that is not known."""
        if self._joints.newest is None:
            return False
        start = self._engaging.start()
        self._motions.stand_at(start.positions, start.gripper_m, time_ns)
        return True

    # The clock.

    def _advance(self, moment: Moment) -> Command | None:
        """Look at the clocks; what a step of the ROS clock that was noticed just now does."""
        if self.settings.lockstep:
            return None
        last_ns, self._last_time_ns = self._last_time_ns, self._timeline.time_ns(moment)
        step = self._timeline.advance(moment)
        if step is not None:
            return self._on_clock_step(step, last_ns, moment)
        if self._quiet_until_ns is not None and moment.steady_ns >= self._quiet_until_ns:
            self._quiet_until_ns = None
            self._motions.clear()
        return None

    def _on_clock_step(self, step: ClockStep, last_ns: int, moment: Moment) -> Command | None:
        """Disengage and send nothing until what runs has ended at rest by itself."""
        self.counters["clock_steps"] += 1
        self._schedule.reset()
        self._joints.forget()
        if self._motions.is_moving(last_ns):
            left_ns = self._motions.running.rest_ns - last_ns
            self._quiet_until_ns = moment.steady_ns + left_ns
        elif not self._is_quiet(moment):
            self._motions.clear()
        if not self._engaged:
            return None
        fault = Fault(
            "clock",
            f"the clock must not step, it went {step.step_s:+.3f} s; check time synchronisation "
            "and use_sim_time.",
        )
        return self._trip(fault, moment)

    def _is_quiet(self, moment: Moment) -> bool:
        return self._quiet_until_ns is not None and moment.steady_ns < self._quiet_until_ns
