# SPDX-License-Identifier: Apache-2.0
"""The guard without ROS: what is commanded, when it stops, what it takes to go on.

It starts disengaged. `engage` takes the measured positions as commanded and lets chunks pass;
every fault stops the arm and disengages; an emergency stop latches besides. Three ways to come to
rest:

- the tail: each motion that is sent ends at rest, so silence is a stop;
- the hold: a jerk-limited stop from what is commanded now (position, velocity, acceleration), for
  emergency stops, faults and chunks that cannot be followed;
- the retreat: after a tracking error the arm is somewhere else than commanded; the command moves
  to where the arm was measured, within the limits, and rests there.

Commands live on a timeline: in lockstep the chunks' stamps, otherwise the node's clock with its
steps taken out (watchdog.SteadyTimeline). Where the stamp of what is sent fixes its start, a new
motion follows the running one for `splice_s` and departs from it there; a controller that picks the
message up within that time runs the same curve, however late. With stamp 0 it starts at pick-up:
the arm has then moved on by an unknown stretch, and what is sent must make up for it. Chunks are
checked for pick-up delays up to `max_pickup_delay_s`; a stop follows the running motion for as long
as it takes to make up for such a delay within the limits, and brakes then. Where no stop can (the
running motion brakes almost as hard as it may), none is sent: that motion ends at rest by itself,
and each tick tries again. So stamp 0 is for simulators, whose clock moves in control steps, and for
the stop after a clock has stepped: nobody knows then what a stamp means to the controller. On an
arm the stamp fixes the start otherwise.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from par_ros.control import braking
from par_ros.control.action_schedule import (
    ActionSchedule,
    ChunkStart,
    PlacedChunk,
    ScheduleRefusal,
    ScheduleSettings,
)
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.hermite_curve import Nodes
from par_ros.control.joint_trajectory import (
    NANOSECONDS,
    FloatArray,
    JointTrajectory,
    Motion,
    MotionState,
)
from par_ros.control.observation_assembler import JointSample
from par_ros.control.safety_filter import (
    Fault,
    FilteredChunk,
    Join,
    RequestedChunk,
    SafetyFilter,
    arm_trajectory,
)
from par_ros.control.watchdog import SteadyTimeline, Watchdog

TrajectoryStamp = Literal["start", "pickup"]
Level = Literal["info", "warning", "error"]

_JOINT_STATES = "joint_states"
_CHUNK = "chunk"
_DEAD_POLICY = "dead_policy"

# Joint states may come this much further apart than full speed allows (noise, a late message).
_JOINT_JUMP_RAD = 0.05
# A tracking error must last: one late joint state is none.
_TRACKING_ERROR_TIME_S = 0.1
_NUM_TRACKING_SAMPLES = 6
# A stop's trajectory lasts at least this long, at rest in the end: a controller rejects a stamped
# trajectory that is over when it arrives, and a stop must not be rejected for coming late.
_MIN_STOP_S = 1.0
# Points closer to the splice than this are dropped: a controller's cycle is of this order.
_MIN_SPACING_S = 0.002
_MOTIONS_KEPT = 4


@dataclass(frozen=True)
class GuardSettings:
    """All that is not about one arm. See parameters.SafetyNodeParameters for the meanings."""

    lockstep: bool = False
    chunk_start: ChunkStart = "arrival"
    trajectory_stamp: TrajectoryStamp = "start"
    num_actions: int = 8
    step_s: float = 0.05
    max_observation_age_s: float = 0.4
    max_joint_state_age_s: float = 0.2
    late_after_s: float = 0.1
    policy_timeout_s: float = 1.0
    first_chunk_timeout_s: float = 10.0
    tail_s: float = 0.3
    splice_s: float = 0.01
    max_pickup_delay_s: float = 0.01
    max_engage_speed_rad_s: float = 0.1


@dataclass(frozen=True)
class Event:
    """One line for the log."""

    level: Level
    text: str


@dataclass(frozen=True)
class Command:
    """What goes out after one input; None where there is nothing of that kind.

    Attributes:
        stamp_ns: header.stamp of arm and gripper; 0: from pick-up.
        executed: 8 points of all joints as they are really sent; executed_stamp_ns is the chunk's.
        events: for the log.
    """

    arm: JointTrajectory | None = None
    gripper: JointTrajectory | None = None
    stamp_ns: int = 0
    executed: JointTrajectory | None = None
    executed_stamp_ns: int = 0
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Reply:
    """Answer of a service: whether it was done, a sentence, and what goes out."""

    success: bool
    message: str
    command: Command = field(default_factory=Command)


@dataclass(frozen=True)
class _Running:
    """What the arm and the gripper follow from `start_ns` (timeline) on."""

    start_ns: int
    arm: Motion
    gripper: Motion

    @property
    def begin_ns(self) -> int:
        """When it took over; `start_ns` may lie before, where a chunk is timed from its stamp."""
        return self.start_ns + round(float(self.arm.times_s[0]) * NANOSECONDS)

    def arm_at(self, time_ns: int) -> MotionState:
        return self.arm.state_at((time_ns - self.start_ns) / NANOSECONDS)

    def gripper_at(self, time_ns: int) -> float:
        seconds = (time_ns - self.start_ns) / NANOSECONDS
        return float(self.gripper.state_at(seconds).positions[0])


class Guard:
    """See the module. Every method takes the node's clock (ns) and the monotonic clock (s)."""

    def __init__(self, spec: ArmSpec, settings: GuardSettings) -> None:
        if settings.splice_s + _MIN_SPACING_S > settings.step_s:
            raise ValueError(
                f"splice_s must end {_MIN_SPACING_S:g} s before the first action at "
                f"{settings.step_s:g} s, got {settings.splice_s:g} s; lower it or "
                "check step_s."
            )
        self.spec = spec
        self.settings = settings
        self._filter = SafetyFilter(
            spec,
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
        self._timeline = SteadyTimeline()
        self._watchdog = Watchdog()
        self._engaged = False
        self._stop_latched = False
        self._holding = ""
        self._last_fault: Fault | None = None
        self._measured: JointSample | None = None
        self._motions: deque[_Running] = deque(maxlen=_MOTIONS_KEPT)
        self._off_track_since_ns: int | None = None
        # Whether a stop that is still to be sent retreats; None where none is.
        self._owed_retreat: bool | None = None
        self._tracking_lags_ns = np.linspace(
            0.0, spec.tracking_lag_s * NANOSECONDS, _NUM_TRACKING_SAMPLES
        )
        self._num_policies = 0
        self.counters: Counter[str] = Counter()

    # What it is doing.

    @property
    def engaged(self) -> bool:
        """True while chunks pass."""
        return self._engaged

    @property
    def stop_latched(self) -> bool:
        """True from an emergency stop until reset_stop."""
        return self._stop_latched

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
        """True once a complete joint state has come."""
        return self._measured is not None

    def commanded_positions(self, now_ns: int) -> FloatArray | None:
        """Arm positions [J] that are commanded now; None before anything was."""
        if not self._motions:
            return None
        return self._motions[-1].arm_at(now_ns + self._timeline.offset_ns).positions

    # Inputs.

    def on_joint_state(self, sample: JointSample, now_ns: int, monotonic_s: float) -> Command:
        """Take measured positions of all joints [J + 1], gripper last."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        if stepped is not None:
            return stepped
        previous, self._measured = self._measured, sample
        self._watchdog.feed(_JOINT_STATES, monotonic_s, self.settings.max_joint_state_age_s)
        if not self._engaged or previous is None or not self._motions:
            return Command()
        fault = self._check_joint_jump(previous, sample)
        if fault is not None:
            return self._trip(fault, now_ns, time_ns)
        stamp_ns = sample.stamp_ns + self._timeline.offset_ns
        fault = self._check_tracking(sample, stamp_ns)
        if fault is not None:
            return self._trip(fault, now_ns, time_ns, retreat=True)
        return Command()

    def on_bad_joint_state(self, reason: str, now_ns: int, monotonic_s: float) -> Command:
        """Take a joint state that could not be read: a joint is missing, a number is not finite."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        if stepped is not None:
            return stepped
        self.counters["bad_joint_states"] += 1
        if not self._engaged:
            return Command()
        return self._trip(Fault("joint_states", reason), now_ns, time_ns)

    def on_chunk(self, chunk: RequestedChunk, now_ns: int, monotonic_s: float) -> Command:
        """Pass, track or refuse one chunk. In lockstep every new chunk is answered."""
        self.counters["chunks"] += 1
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        if stepped is not None:
            return stepped
        if self.settings.lockstep:
            refused = self._check_lockstep_stamp(chunk, now_ns)
            if refused is not None:
                return refused
            time_ns = chunk.stamp_ns
        if self._engaged:
            # Before its stamp: a policy that sends NaN is broken, late or not.
            fault = self._filter.check_form(chunk)
            if fault is not None:
                return self._trip(fault, now_ns, time_ns, chunk=chunk)
        placed = self._schedule.place(chunk.stamp_ns, now_ns)
        if isinstance(placed, ScheduleRefusal):
            return self._refuse_unplaced(chunk, placed, now_ns, time_ns)
        if not self._motions and not self._stand_at_measured(time_ns):
            self.counters["refused"] += 1
            return _log(
                "error",
                "a chunk came before any complete joint state, so there is nothing to hold; check "
                "the joint_states topic.",
            )
        if not self._engaged:
            self.counters["refused"] += 1
            return self._answer_with_hold(chunk, now_ns, time_ns)
        fault = self._check_chunk(chunk, time_ns)
        if fault is not None:
            return self._trip(fault, now_ns, time_ns, chunk=chunk)
        return self._follow(chunk, placed, now_ns, time_ns, monotonic_s)

    def on_bad_chunk(self, reason: str, now_ns: int, monotonic_s: float) -> Command:
        """Take a chunk that could not even be read into arrays."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        if stepped is not None:
            return stepped
        self.counters["refused"] += 1
        if not self._engaged:
            return _log("warning", f"chunk refused: {reason}")
        return self._trip(Fault("shape", reason), now_ns, time_ns)

    def on_tick(self, num_policies: int, now_ns: int, monotonic_s: float) -> Command:
        """Look at every deadline. num_policies: publishers on action_chunk."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        if stepped is not None:
            return stepped
        self._num_policies = num_policies
        if self._owed_retreat is not None:
            return self._hold(now_ns, time_ns, retreat=self._owed_retreat, stamped=False)
        if not self._engaged:
            return Command()
        if num_policies > 1:
            fault = Fault(
                "two_policies",
                f"one policy may publish action_chunk, {num_policies} publishers are there; stop "
                "all but one.",
            )
            return self._trip(fault, now_ns, time_ns)
        if self.settings.lockstep:
            return Command()
        return self._check_deadlines(now_ns, time_ns, monotonic_s)

    # Services.

    def engage(self, now_ns: int, monotonic_s: float) -> Reply:
        """Let chunks pass, from the measured positions on."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        if stepped is not None:
            return Reply(False, "the clock has just stepped; look at it, then engage", stepped)
        refusal = self._why_not_engage(monotonic_s)
        if refusal:
            return Reply(False, refusal)
        assert self._measured is not None
        if self.settings.lockstep:
            time_ns = self._measured.stamp_ns
        self._motions.clear()
        self._owed_retreat = None
        self._stand_at_measured(time_ns)
        self._schedule.reset()
        self._engaged = True
        self._last_fault = None
        self._holding = ""
        self._off_track_since_ns = None
        self._watchdog.stop(_CHUNK)
        self._watchdog.feed(_DEAD_POLICY, monotonic_s, self.settings.first_chunk_timeout_s)
        return Reply(True, "engaged from the measured joint positions")

    def disengage(self, now_ns: int, monotonic_s: float) -> Reply:
        """Come to rest and let nothing pass."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        # The arm may be moved by hand, or put back to its start, before the next engage.
        self._measured = None
        if stepped is not None:
            return Reply(True, "disengaged by a clock step; the arm comes to rest", stepped)
        if not self._engaged:
            return Reply(True, "was not engaged")
        self._engaged = False
        return Reply(True, "disengaged; the arm comes to rest", self._hold(now_ns, time_ns))

    def e_stop(self, now_ns: int, monotonic_s: float) -> Reply:
        """Stop now; nothing passes until reset_stop and then engage."""
        time_ns, stepped = self._advance(now_ns, monotonic_s)
        was_latched, self._stop_latched = self._stop_latched, True
        was_engaged, self._engaged = self._engaged, False
        if was_latched:
            return Reply(True, "was stopped already", stepped or Command())
        self.counters["e_stops"] += 1
        command = stepped
        if command is None:
            command = self._hold(now_ns, time_ns) if was_engaged else Command()
        return Reply(True, "stopped; reset_stop and then engage clear it", command)

    def reset_stop(self) -> Reply:
        """Clear the latch; the guard stays disengaged."""
        if not self._stop_latched:
            return Reply(True, "was not stopped")
        self._stop_latched = False
        return Reply(True, "stop cleared; engage when the arm is safe to move")

    # Chunks.

    def _check_chunk(self, chunk: RequestedChunk, time_ns: int) -> Fault | None:
        commanded = self._motions[-1].arm_at(time_ns).positions
        measured = None if self._measured is None else self._measured.positions[:-1]
        return self._filter.check(chunk, commanded, measured)

    def _check_lockstep_stamp(self, chunk: RequestedChunk, now_ns: int) -> Command | None:
        """In lockstep the newest joint state is of the observation that physics waits with."""
        if self._measured is None:
            return None
        age_s = (self._measured.stamp_ns - chunk.stamp_ns) / NANOSECONDS
        if age_s > 0.0:
            self.counters["late"] += 1
            return _log(
                "warning", f"chunk refused: physics is {age_s:.3f} s beyond its observation"
            )
        if not self._engaged or -age_s <= self.settings.max_joint_state_age_s:
            return None
        fault = Fault(
            "joint_states_stale",
            f"joint states must be at most {self.settings.max_joint_state_age_s:g} s older than "
            f"the chunk, the last is {-age_s:.3f} s older; check the joint_states topic.",
        )
        return self._trip(fault, now_ns, self._measured.stamp_ns)

    def _follow(
        self,
        chunk: RequestedChunk,
        placed: PlacedChunk,
        now_ns: int,
        time_ns: int,
        monotonic_s: float,
    ) -> Command:
        running = self._motions[-1]
        start_ns = placed.start_ns + (0 if self.settings.lockstep else self._timeline.offset_ns)
        join, lead = self._join(running, start_ns, time_ns)
        before_m = running.gripper_at(time_ns)
        filtered = self._filter.apply(join, chunk.positions, before_m, placed.first_action)
        if filtered.nodes is None:
            self._expect_next_chunk(start_ns, time_ns, monotonic_s)
            return self._hold_chunk(chunk, filtered, now_ns, time_ns)
        events = self._count(filtered)
        knots = self._with_past_knots(filtered.knots, placed, running, start_ns)
        nodes = filtered.nodes if lead is None else filtered.nodes.after(lead)
        arm = arm_trajectory(self.spec, nodes)
        gripper = self._gripper_trajectory(knots[placed.first_action :, -1], placed.first_action)
        begin = running.arm_at(time_ns)
        begin_s = (time_ns - start_ns) / NANOSECONDS
        self._run(
            _Running(
                start_ns,
                Motion(arm, begin, begin_s),
                Motion(gripper, MotionState.at_rest(np.array([before_m])), begin_s),
            )
        )
        self._holding = ""
        self._expect_next_chunk(start_ns, time_ns, monotonic_s)
        return Command(
            arm=arm,
            gripper=self._gripper_command(gripper),
            stamp_ns=self._header_stamp(placed.start_ns),
            executed=self._executed(knots, placed.start_ns - chunk.stamp_ns),
            executed_stamp_ns=chunk.stamp_ns,
            events=events,
        )

    def _join(self, running: _Running, start_ns: int, time_ns: int) -> tuple[Join, Nodes | None]:
        """Where the chunk departs from the running motion, and the points that lead there."""
        begin_s = (time_ns - start_ns) / NANOSECONDS
        if self.settings.lockstep:
            return Join(running.arm_at(time_ns), begin_s), None
        lead = _lead(running, time_ns, begin_s, self.settings.splice_s)
        return Join(_last_state(lead), float(lead.times_s[-1])), lead

    def _with_past_knots(
        self, knots: FloatArray, placed: PlacedChunk, running: _Running, start_ns: int
    ) -> FloatArray:
        """Knots that were due before the chunk came are what was being sent at that time."""
        result = knots.copy()
        for action in range(placed.first_action):
            due_ns = start_ns + round((action + 1) * self.settings.step_s * NANOSECONDS)
            result[action, :-1] = running.arm_at(due_ns).positions
            result[action, -1] = running.gripper_at(due_ns)
        return result

    def _count(self, filtered: FilteredChunk) -> tuple[Event, ...]:
        self.counters[filtered.outcome] += 1
        events = [Event("warning", f"chunk: {warning}") for warning in filtered.warnings]
        if filtered.changes:
            changes = "; ".join(str(change) for change in filtered.changes)
            events.append(Event("warning", f"chunk tracked: {changes}"))
            for change in filtered.changes:
                for limit in change.limits:
                    self.counters[f"limited_{limit}"] += 1
        return tuple(events)

    def _hold_chunk(
        self, chunk: RequestedChunk, filtered: FilteredChunk, now_ns: int, time_ns: int
    ) -> Command:
        """Hold for one chunk that no curve can follow; the next one may end it."""
        self.counters["refused"] += 1
        self._start_holding("limits")
        event = Event("warning", f"chunk held: {filtered.reason}")
        return _with_events(self._answer_with_hold(chunk, now_ns, time_ns, send=True), event)

    def _refuse_unplaced(
        self, chunk: RequestedChunk, refusal: ScheduleRefusal, now_ns: int, time_ns: int
    ) -> Command:
        self.counters[refusal.kind] += 1
        if refusal.kind == "future" and self._engaged:
            return self._trip(Fault("future", refusal.reason), now_ns, time_ns)
        event = Event("warning", f"chunk refused: {refusal.reason}")
        if refusal.kind == "late" and self._motions:
            # The tail is running already: nothing to send, but the policy must know.
            self._start_holding("late")
            return _with_events(self._answer_with_hold(chunk, now_ns, time_ns), event)
        return Command(events=(event,))

    def _start_holding(self, why: str) -> None:
        if self._holding != why:
            self.counters["holds"] += 1
            self.counters[f"hold_{why}"] += 1
        self._holding = why

    def _answer_with_hold(
        self, chunk: RequestedChunk, now_ns: int, time_ns: int, *, send: bool = False
    ) -> Command:
        """executed_actions of a refused chunk; with a stop, which lockstep always needs."""
        command = Command()
        if send or self.settings.lockstep:
            command = self._hold(now_ns, time_ns)
        running = self._motions[-1]
        times_s = (time_ns - running.start_ns) / NANOSECONDS + self._filter.knot_times_s
        knots = np.column_stack(
            (running.arm.sample(times_s).positions, running.gripper.sample(times_s).positions)
        )
        start_ns = chunk.stamp_ns if self.settings.lockstep else now_ns
        return Command(
            arm=command.arm,
            gripper=command.gripper,
            stamp_ns=command.stamp_ns,
            executed=self._executed(knots, start_ns - chunk.stamp_ns),
            executed_stamp_ns=chunk.stamp_ns,
        )

    def _expect_next_chunk(self, start_ns: int, time_ns: int, monotonic_s: float) -> None:
        duration_s = self.settings.num_actions * self.settings.step_s
        left_s = duration_s - (time_ns - start_ns) / NANOSECONDS
        self._watchdog.feed(_CHUNK, monotonic_s, left_s + self.settings.late_after_s)
        self._watchdog.feed(_DEAD_POLICY, monotonic_s, left_s + self.settings.policy_timeout_s)

    # Stopping.

    def _trip(
        self,
        fault: Fault,
        now_ns: int,
        time_ns: int,
        *,
        retreat: bool = False,
        chunk: RequestedChunk | None = None,
        stamped: bool = True,
    ) -> Command:
        """Stop, disengage, and say why; answer the chunk that was the reason."""
        self._engaged = False
        self._last_fault = fault
        self._holding = fault.kind
        self.counters["holds"] += 1
        self.counters[f"fault_{fault.kind}"] += 1
        event = Event("error", f"stopped and disengaged: {fault.reason}")
        if chunk is not None:
            self.counters["refused"] += 1
            return _with_events(self._answer_with_hold(chunk, now_ns, time_ns, send=True), event)
        hold = self._hold(now_ns, time_ns, retreat=retreat, stamped=stamped)
        return _with_events(hold, event)

    def _hold(
        self, now_ns: int, time_ns: int, *, retreat: bool = False, stamped: bool = True
    ) -> Command:
        """Stop from what is commanded now, and send it; not `stamped`: to start at pick-up.

        Sends nothing, and leaves it to the next tick, where no stop keeps the limits.
        """
        if not self._motions or self._physics_runs(time_ns):
            return Command()
        running = self._motions[-1]
        stamped = stamped and (self.settings.lockstep or self.settings.trajectory_stamp == "start")
        stop = self._stop_trajectory(running, time_ns, retreat, stamped)
        self._owed_retreat = retreat if stop is None else None
        if stop is None:
            return Command()
        arm, begin = stop
        gripper_m = running.gripper_at(time_ns)
        gripper = self._gripper_trajectory(np.full(self.settings.num_actions, gripper_m), 0)
        self._run(
            _Running(
                time_ns,
                Motion(arm, begin),
                Motion(gripper, MotionState.at_rest(np.array([gripper_m]))),
            )
        )
        start_ns = time_ns if self.settings.lockstep else now_ns
        return Command(
            arm=arm,
            gripper=self._gripper_command(gripper),
            stamp_ns=start_ns if stamped else 0,
        )

    def _physics_runs(self, time_ns: int) -> bool:
        """Lockstep: whether physics is on its way through a chunk, and waits for nobody.

        It follows answers to its observations only: what was to be stopped now is stopped by the
        next answer, and until then the running motion is what is commanded.
        """
        if not self.settings.lockstep:
            return False
        duration_s = self.settings.num_actions * self.settings.step_s
        start_ns = self._motions[-1].start_ns
        return start_ns < time_ns < start_ns + round(duration_s * NANOSECONDS)

    def _stop_trajectory(
        self, running: _Running, time_ns: int, retreat: bool, stamped: bool
    ) -> tuple[JointTrajectory, MotionState] | None:
        """The stop and the state it begins in; None where none keeps the limits."""
        begin = running.arm_at(time_ns)
        if self.settings.lockstep:
            nodes = self._stop_nodes(begin, retreat)
        else:
            if not stamped:
                return None
            lead = _lead(running, time_ns, 0.0, self.settings.splice_s)
            nodes = self._stop_nodes(_last_state(lead), retreat)
            nodes = _shifted(nodes, lead.times_s[-1]).after(lead)
        return arm_trajectory(self.spec, _resting_until(nodes, _MIN_STOP_S)), begin

    def _stop_nodes(self, begin: MotionState, retreat: bool) -> Nodes:
        if retreat and self._measured is not None:
            limits = self.spec.limits
            target = np.clip(
                self._measured.positions[:-1], limits.min_position, limits.max_position
            )
            return braking.move_to_rest(begin, target, limits)
        return braking.stop(begin, self.spec.limits)

    # Joint states.

    def _check_joint_jump(self, previous: JointSample, sample: JointSample) -> Fault | None:
        elapsed_s = max((sample.stamp_ns - previous.stamp_ns) / NANOSECONDS, 0.0)
        moved = np.abs(sample.positions - previous.positions)[:-1]
        allowed = 2.0 * self.spec.limits.max_velocity * elapsed_s + _JOINT_JUMP_RAD
        if not np.any(moved > allowed):
            return None
        joint = int(np.argmax(moved - allowed))
        return Fault(
            "joint_jump",
            f"{self.spec.arm_joint_names[joint]} was measured {moved[joint]:.3g} rad away from "
            f"where it was {elapsed_s:.3f} s before; check the encoder and for two joint_states "
            "publishers.",
        )

    def _check_tracking(self, sample: JointSample, stamp_ns: int) -> Fault | None:
        """Measured must lie near what was commanded within the arm's lag before it."""
        if stamp_ns < self._motions[0].begin_ns:
            return None
        commanded = self._commanded(stamp_ns - self._tracking_lags_ns)
        measured = sample.positions[:-1]
        below = commanded.min(axis=0) - measured
        above = measured - commanded.max(axis=0)
        error = np.maximum(below, above)
        if not np.any(error > self.spec.max_tracking_error_rad):
            self._off_track_since_ns = None
            return None
        if self._off_track_since_ns is None:
            self._off_track_since_ns = stamp_ns
        if stamp_ns - self._off_track_since_ns < _TRACKING_ERROR_TIME_S * NANOSECONDS:
            return None
        joint = int(np.argmax(error))
        return Fault(
            "tracking_error",
            f"{self.spec.arm_joint_names[joint]} must stay within "
            f"{self.spec.max_tracking_error_rad:g} rad of its command, it is {error[joint]:.3g} "
            "rad away; check for a collision, a stopped controller, or a soft arm's lag_s.",
        )

    def _commanded(self, times_ns: FloatArray) -> FloatArray:
        """Positions [M, J] that were commanded at `times_ns` [M]."""
        positions = np.empty((len(times_ns), self.spec.num_arm_joints))
        open_ = np.ones(len(times_ns), np.bool_)
        # The newest first: a later motion took over from the ones before it.
        for running in reversed(self._motions):
            taken = open_ & (times_ns >= running.begin_ns)
            if running is self._motions[0]:
                taken = open_
            if taken.any():
                times_s = (times_ns[taken] - running.start_ns) / NANOSECONDS
                positions[taken] = running.arm.positions_at(times_s)
                open_ = open_ & ~taken
            if not open_.any():
                break
        return positions

    # Deadlines and clocks.

    def _check_deadlines(self, now_ns: int, time_ns: int, monotonic_s: float) -> Command:
        if self._watchdog.expired(_JOINT_STATES, monotonic_s):
            fault = Fault(
                "joint_states_stale",
                f"joint states must come every {self.settings.max_joint_state_age_s:g} s, none "
                "has; check the arm's driver and the joint_states topic.",
            )
            return self._trip(fault, now_ns, time_ns)
        if self._watchdog.expired(_DEAD_POLICY, monotonic_s):
            fault = Fault(
                "dead_policy",
                "no chunk has answered an observation in time; check policy_node and the camera.",
            )
            return self._trip(fault, now_ns, time_ns)
        if self._watchdog.expired(_CHUNK, monotonic_s):
            self._watchdog.stop(_CHUNK)
            # The tail that was sent with the last chunk is the hold.
            self._start_holding("late")
            return _log("warning", "no chunk came in time; the arm comes to rest and waits")
        return Command()

    def _advance(self, now_ns: int, monotonic_s: float) -> tuple[int, Command | None]:
        """The timeline now; and a stop where the clock has just stepped while engaged."""
        if self.settings.lockstep:
            return now_ns, None
        time_ns, step = self._timeline.update(now_ns, monotonic_s)
        if step is None:
            return time_ns, None
        self.counters["clock_steps"] += 1
        self._schedule.reset()
        if not self._engaged:
            return time_ns, None
        fault = Fault(
            "clock",
            f"the clock must not step, it went {step.step_s:+.3f} s; check time synchronisation "
            "and use_sim_time.",
        )
        return time_ns, self._trip(fault, now_ns, time_ns, stamped=False)

    # Engaging.

    def _why_not_engage(self, monotonic_s: float) -> str:
        if self._stop_latched:
            return "the emergency stop is latched; call reset_stop first"
        if self._num_policies > 1:
            return (
                f"{self._num_policies} policies publish action_chunk; stop all but one (one that "
                "was killed stays in the ROS graph for some seconds)"
            )
        sample = self._measured
        if sample is None:
            return "no complete joint state has come; check the joint_states topic"
        if not self.settings.lockstep and self._watchdog.expired(_JOINT_STATES, monotonic_s):
            return "joint states are stale; check the arm's driver"
        speed = float(np.max(np.abs(sample.velocities[:-1])))
        if speed > self.settings.max_engage_speed_rad_s:
            return f"the arm must stand still to engage, it moves at {speed:.3g} rad/s"
        limits, positions = self.spec.limits, sample.positions[:-1]
        outside = (positions < limits.min_position) | (positions > limits.max_position)
        if np.any(outside):
            names = [
                name for name, out in zip(self.spec.arm_joint_names, outside, strict=True) if out
            ]
            return f"{', '.join(names)} stands outside the position limits; move the arm by hand"
        return ""

    def _stand_at_measured(self, time_ns: int) -> bool:
        """Take the measured positions as commanded; False where there are none."""
        if self._measured is None:
            return False
        gripper = self.spec.gripper
        finger_m = float(
            np.clip(self._measured.positions[-1], gripper.min_target_m, gripper.max_target_m)
        )
        self._run(
            _Running(
                time_ns,
                Motion.standing(self.spec.arm_joint_names, self._measured.positions[:-1]),
                Motion.standing((gripper.joint_name,), np.array([finger_m])),
            )
        )
        return True

    # Messages.

    def _run(self, running: _Running) -> None:
        self._motions.append(running)

    def _gripper_trajectory(self, targets_m: FloatArray, first_action: int) -> JointTrajectory:
        times_s = self._filter.knot_times_s[first_action:]
        return JointTrajectory((self.spec.gripper.joint_name,), times_s, targets_m[:, None])

    def _gripper_command(self, trajectory: JointTrajectory) -> JointTrajectory:
        gripper = self.spec.gripper
        return JointTrajectory(
            (gripper.command_joint_name,),
            trajectory.times_s,
            gripper.command(trajectory.positions),
        )

    def _executed(self, knots: FloatArray, offset_ns: int) -> JointTrajectory:
        times_s = offset_ns / NANOSECONDS + self._filter.knot_times_s
        return JointTrajectory(self.spec.joint_names, times_s, knots)

    def _header_stamp(self, start_ns: int) -> int:
        pickup = self.settings.trajectory_stamp == "pickup" and not self.settings.lockstep
        return 0 if pickup else start_ns


def _lead(running: _Running, time_ns: int, begin_s: float, splice_s: float) -> Nodes:
    """The running motion at `time_ns`, its own points for `splice_s` from there, and at their end.

    begin_s: that moment in the new trajectory's time. It has a point of its own, so that none is
    ahead when a controller picks the message up: each release of joint_trajectory_controller has
    its own way to a first point that is ahead, and none of them is the running motion.
    """
    now_s = (time_ns - running.start_ns) / NANOSECONDS
    own_s = running.arm.times_s
    between = own_s[(own_s > now_s + _MIN_SPACING_S) & (own_s < now_s + splice_s - _MIN_SPACING_S)]
    states = [running.arm.state_at(float(time)) for time in (now_s, *between, now_s + splice_s)]
    return Nodes(
        np.array([begin_s, *(between - now_s + begin_s), begin_s + splice_s]),
        np.array([state.positions for state in states]),
        np.array([state.velocities for state in states]),
        np.array([state.accelerations for state in states]),
    )


def _resting_until(nodes: Nodes, end_s: float) -> Nodes:
    """The same nodes, and one more at rest at `end_s` where they end before."""
    if nodes.times_s[-1] >= end_s:
        return nodes
    rest = np.zeros((1, nodes.positions.shape[1]))
    return Nodes(np.array([end_s]), nodes.positions[-1:], rest, rest).after(nodes)


def _shifted(nodes: Nodes, offset_s: float) -> Nodes:
    return Nodes(nodes.times_s + offset_s, nodes.positions, nodes.velocities, nodes.accelerations)


def _last_state(nodes: Nodes) -> MotionState:
    return MotionState(nodes.positions[-1], nodes.velocities[-1], nodes.accelerations[-1])


def _log(level: Level, text: str) -> Command:
    return Command(events=(Event(level, text),))


def _with_events(command: Command, event: Event) -> Command:
    return Command(
        command.arm,
        command.gripper,
        command.stamp_ns,
        command.executed,
        command.executed_stamp_ns,
        (event, *command.events),
    )
