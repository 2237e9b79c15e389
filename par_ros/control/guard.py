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

from par_ros.control.action_schedule import ActionSchedule, ScheduleSettings
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.authority import Authority, StopLatch
from par_ros.control.chunk_answers import LIVE_POLICY, NEXT_CHUNK, ChunkAnswers
from par_ros.control.chunk_form import Fault, RequestedChunk
from par_ros.control.command import Command, Reply, log
from par_ros.control.commanded_motion import MotionHistory
from par_ros.control.commander import Commander
from par_ros.control.engaging import Engaging, why_slowed
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.joint_watch import JointWatch
from par_ros.control.reference_watch import ReferenceSample, ReferenceWatch, Verdict
from par_ros.control.safety_filter import SafetyFilter
from par_ros.control.timeline import Moment, Timeline
from par_ros.control.watchdog import Watchdog

__all__ = ["Guard", "GuardSettings", "StopLatch"]

_JOINT_STATES = "joint_states"

# Planning stays this far inside the position limits.
_POSITION_MARGIN_RAD = 0.005


class Guard:
    """One arm's guard; every input comes with the Moment at which it was taken."""

    def __init__(
        self, spec: ArmSpec, settings: GuardSettings, latch: StopLatch | None = None
    ) -> None:
        """latch: of an emergency stop before this guard. Raises ValueError for its settings."""
        settings.validate()
        self.spec = spec
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self._watchdog = Watchdog()
        self._num_policies = 0
        simulated = settings.sim_clock or settings.lockstep
        timeline = Timeline(simulated=simulated)
        limits = spec.limits.scaled(settings.limit_share).inside(_POSITION_MARGIN_RAD)
        planning = dataclasses.replace(spec, limits=limits)
        safety_filter = SafetyFilter(
            planning,
            num_actions=settings.num_actions,
            step_s=settings.step_s,
            tail_s=settings.tail_s,
        )
        self._motions = MotionHistory(spec)
        self._joints = JointWatch(
            spec,
            max_age_s=settings.max_joint_state_age_s,
            max_engage_speed_rad_s=settings.max_engage_speed_rad_s,
            simulated=simulated,
            lockstep=settings.lockstep,
        )
        self._reference = ReferenceWatch(timeline)
        self._engaging = Engaging(
            planning,
            self._joints,
            self._reference,
            lockstep=settings.lockstep,
            expects_reference=settings.expects_reference,
        )
        self._commander = Commander(
            spec,
            planning,
            timeline,
            self._motions,
            splice_s=settings.splice_s,
            knot_times_s=safety_filter.knot_times_s,
            lockstep=settings.lockstep,
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
        chunk_ns = round(settings.num_actions * settings.step_s * NANOSECONDS)
        self._authority = Authority(
            timeline,
            self._motions,
            self._commander,
            self._joints,
            self._reference,
            latch if latch is not None else StopLatch(),
            self.counters,
            lockstep_chunk_ns=chunk_ns if settings.lockstep else None,
            on_clock_step=self._schedule.reset,
        )
        self._chunks = ChunkAnswers(
            settings,
            self._authority,
            self._motions,
            self._commander,
            self._joints,
            self._reference,
            self._engaging,
            safety_filter,
            self._schedule,
            self._watchdog,
            self.counters,
        )

    # What it is doing.

    @property
    def engaged(self) -> bool:
        """True while chunks pass."""
        return self._authority.engaged

    @property
    def stop_latched(self) -> bool:
        """True from an emergency stop until reset_stop."""
        return self._authority.latch.is_set

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
        return self._motions.running.state_at(self._authority.timeline.time_ns(moment)).positions

    # Joint states and the controller's reference.

    def on_joint_state(self, sample: JointSample, moment: Moment) -> Command:
        """Take measured positions of all joints [J + 1], gripper last."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        if self._joints.take(sample, moment):
            self.counters["unusable_joint_states"] += 1
            return Command()
        self._watchdog.feed(
            _JOINT_STATES,
            self._authority.timeline.seconds(moment),
            self.settings.max_joint_state_age_s,
        )
        if not self._authority.engaged or not self._motions:
            return Command()
        stamp_ns = self._authority.timeline.of_stamp(sample.stamp_ns, moment)
        fault = self._joints.jump() or self._joints.two_sources(self._motions, stamp_ns)
        if fault is not None:
            return self._authority.trip(fault, moment)
        fault = self._joints.tracking(self._motions, stamp_ns)
        if fault is not None:
            return self._authority.trip(fault, moment, retreats=True)
        return Command()

    def on_bad_joint_state(self, reason: str, moment: Moment) -> Command:
        """Take a joint state that could not be read: doubled names, a number is not finite."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        self.counters["bad_joint_states"] += 1
        command = Command()
        if self._authority.engaged:
            command = self._authority.trip(Fault("joint_states", reason), moment)
        self._joints.forget()
        return command

    def on_missing_joints(self, names: tuple[str, ...]) -> None:
        """Take note of joints that no joint state has reported."""
        self._joints.missing = names

    def on_reference(self, sample: ReferenceSample, moment: Moment) -> Command:
        """Take what the arm's controller commands; compare it with what was sent."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        if not self._reference.take(sample, moment):
            self.counters["unusable_references"] += 1
            return Command()
        if self._authority.engaged and self._reference.is_slowed:
            return self._authority.trip(
                Fault("speed_scaling", why_slowed(sample.speed_scaling)), moment
            )
        if not self._motions or self.settings.lockstep or self._authority.is_quiet(moment):
            return Command()
        time_ns = self._authority.timeline.of_stamp(sample.stamp_ns, moment)
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
        if verdict == "elsewhere":
            return self._lose_track(moment)
        return Command()

    def _lose_track(self, moment: Moment) -> Command:
        """The controller follows what was not sent: from where a stop would begin is not known."""
        command = Command()
        if self._authority.engaged:
            fault = Fault(
                "foreign_motion",
                "the controller follows a motion that the guard has not sent; check for other "
                "publishers on its topic, and for limits in the controller that clip commands.",
            )
            command = self._authority.trip(fault, moment, stops=False)
        reference = self._reference.newest
        assert reference is not None
        time_ns = self._authority.timeline.time_ns(moment)
        gripper_m = self._motions.running.gripper_at(time_ns)
        self._motions.clear()
        if self._reference.is_at_rest:
            self._motions.stand_at(reference.positions.copy(), gripper_m, time_ns)
        return command

    def _adopt(self, moment: Moment) -> Command:
        """The controller stands elsewhere (it holds where it measured): so does the guard."""
        reference = self._reference.newest
        assert reference is not None
        time_ns = self._authority.timeline.time_ns(moment)
        running = self._motions.running
        apart_rad = float(abs(reference.positions - running.state_at(time_ns).positions).max())
        self._motions.stand_at(reference.positions.copy(), running.gripper_at(time_ns), time_ns)
        self._joints.restart_tracking()
        self.counters["adopted_references"] += 1
        if self._authority.engaged and apart_rad > self.spec.max_tracking_error_rad:
            fault = Fault(
                "reference_moved",
                f"the controller's reference moved by {apart_rad:.3g} rad while the arm was to "
                "stand; check what else commands the controller.",
            )
            return self._authority.trip(fault, moment)
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
        if self._authority.engaged:
            return self._authority.trip(fault, moment)
        return self._authority.stop(moment).saying("error", fault.reason)

    # Chunks.

    def on_chunk(self, chunk: RequestedChunk, moment: Moment) -> Command:
        """Pass, track or refuse one chunk. In lockstep every new chunk is answered."""
        return self._chunks.on_chunk(chunk, moment)

    def on_bad_chunk(self, reason: str, moment: Moment) -> Command:
        """Take a chunk that could not even be read into arrays."""
        return self._chunks.on_bad_chunk(reason, moment)

    def withdraw(self, moment: Moment, *, last: bool = False) -> Command:
        """What was returned last was not published, because it took too long; what is instead.

        A chunk is held. A stop is planned anew from now, unless this was the last try.
        """
        running = self._motions.running
        if running.kind in ("standing", "found"):
            # Nothing that departs from a motion was sent.
            return Command()
        self._motions.withdraw()
        self._reference.begin()
        self.counters["withdrawn"] += 1
        if running.kind == "chunk":
            return self._chunks.withdrawn(moment)
        if last:
            return log(
                "error",
                "no stop could be sent in time; the running motion ends at rest by itself; check "
                "the machine's load.",
            )
        return self._authority.stop(moment)

    # Deadlines.

    def on_tick(self, num_policies: int, moment: Moment) -> Command:
        """Look at every deadline. num_policies: publishers on action_chunk."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        self._num_policies = num_policies
        if not self._authority.engaged:
            return Command()
        if num_policies > 1:
            fault = Fault(
                "two_policies",
                f"one policy may publish action_chunk, {num_policies} publishers are there; stop "
                "all but one.",
            )
            return self._authority.trip(fault, moment)
        if self.settings.lockstep:
            return Command()
        if self._authority.timeline.has_stopped(moment):
            fault = Fault(
                "clock", "the simulated clock has stood for 10 s; check /clock and the simulator."
            )
            return self._authority.trip(fault, moment)
        fault_or_none = self._missed_deadline(moment)
        if fault_or_none is not None:
            return self._authority.trip(fault_or_none, moment)
        if self._watchdog.expired(NEXT_CHUNK, self._authority.timeline.seconds(moment)):
            self._watchdog.stop(NEXT_CHUNK)
            # The tail that was sent with the last chunk is the hold.
            self._authority.hold("late")
            return log("warning", "no chunk came in time; the arm comes to rest and waits")
        return Command()

    def _missed_deadline(self, moment: Moment) -> Fault | None:
        now_s = self._authority.timeline.seconds(moment)
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
        if self._watchdog.expired(LIVE_POLICY, now_s):
            return Fault(
                "dead_policy",
                "no chunk has answered an observation in time; check policy_node and the camera.",
            )
        return None

    # Services.

    def engage(self, moment: Moment) -> Reply:
        """Let chunks pass, from where the controller holds the arm on."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return Reply(False, "the clock has just stepped; look at it, then engage", stepped)
        if self._authority.engaged:
            return Reply(True, "is engaged already")
        refusal = self._why_not_engage(moment)
        if refusal:
            return Reply(False, refusal)
        start = self._engaging.start()
        time_ns = self._authority.timeline.time_ns(moment)
        if self.settings.lockstep:
            assert self._joints.newest is not None
            time_ns = self._joints.newest.stamp_ns
        self._motions.stand_at(start.state.positions, start.gripper_m, time_ns)
        self._reference.begin()
        self._joints.restart_tracking()
        self._schedule.reset()
        self._authority.begin()
        self._watchdog.stop(NEXT_CHUNK)
        now_s = self._authority.timeline.seconds(moment)
        self._watchdog.feed(LIVE_POLICY, now_s, self.settings.first_chunk_timeout_s)
        if not start.settles:
            return Reply(True, "engaged from where the arm is held")
        command, self._authority.latch.settled_ns = self._commander.settle(start, time_ns, moment)
        duration_s = (self._authority.latch.settled_ns - time_ns) / NANOSECONDS
        return Reply(
            True,
            "engaged from the measured positions; the controller's reference is not known, so the "
            f"arm is led there first, within {duration_s:.1f} s",
            command,
        )

    def disengage(self, moment: Moment) -> Reply:
        """Come to rest and let nothing pass."""
        stepped = self._authority.advance(moment)
        was_engaged, self._authority.engaged = self._authority.engaged, False
        command = self._authority.stop(moment) if stepped is None else stepped
        # The arm may be moved by hand, or put back to its start, before the next engage.
        self._joints.forget()
        if stepped is not None:
            return Reply(True, "disengaged by a clock step; the arm comes to rest", stepped)
        if not was_engaged:
            return Reply(True, "was not engaged", command)
        return Reply(True, "disengaged; the arm comes to rest", command)

    def e_stop(self, moment: Moment) -> Reply:
        """Stop whatever moves; nothing passes until reset_stop and then engage."""
        stepped = self._authority.advance(moment)
        was_latched, self._authority.latch.is_set = self._authority.latch.is_set, True
        self._authority.engaged = False
        self.counters["e_stops"] += not was_latched
        if self._authority.is_quiet(moment):
            return Reply(
                True,
                "latched; after a clock step nothing can be sent, the running motion ends at rest "
                "by itself",
                stepped or Command(),
            )
        command = self._authority.stop(moment)
        if not self._motions and self._reference.is_known and not self._reference.is_at_rest:
            return Reply(
                True,
                "latched; the controller follows a motion that the guard has not sent: stop it at "
                "the controller or the robot",
                command,
            )
        if was_latched:
            return Reply(True, "was stopped already", command)
        return Reply(True, "stopped; reset_stop and then engage clear it", command)

    def reset_stop(self) -> Reply:
        """Clear the latch; the guard stays disengaged."""
        if not self._authority.latch.is_set:
            return Reply(True, "was not stopped")
        self._authority.latch.is_set = False
        return Reply(True, "stop cleared; engage when the arm is safe to move")

    def _why_not_engage(self, moment: Moment) -> str:
        if self._authority.latch.is_set:
            return "the emergency stop is latched; call reset_stop first"
        if self._authority.is_quiet(moment):
            return "the clock has stepped; wait until the running motion has ended"
        if self._num_policies > 1:
            return (
                f"{self._num_policies} policies publish action_chunk; stop all but one (one that "
                "was killed stays in the ROS graph for some seconds)"
            )
        time_ns = self._authority.timeline.time_ns(moment)
        if self._authority.moves(time_ns):
            return "the arm is still coming to rest; try again in a moment"
        behind_s = self._authority.behind_s(moment)
        if behind_s > 0.0 and not self.settings.sim_clock:
            return (
                f"the clock went back; a controller may stand until it has caught up in "
                f"{behind_s:.1f} s; wait, or restart the controller and then the guard"
            )
        commanded = self._motions.running.arm.positions[-1] if self._motions else None
        return self._engaging.why_not(moment, commanded)
