# SPDX-License-Identifier: Apache-2.0
"""Whether the guard commands the arm, and how it lets go: faults, stops, and steps of the clock.

Times are integer nanoseconds of the guard's timeline.
"""

from collections import Counter
from collections.abc import Callable

from par_ros.control.arm_view import ArmView
from par_ros.control.chunk_form import Fault
from par_ros.control.command import Command, log
from par_ros.control.commander import Commander
from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.control.timeline import ClockStep, Moment, Timeline


class StopLatch:
    """What outlives a guard.

    Attributes:
        is_set: the emergency stop's latch.
        settled_ns: until then (timeline) a controller whose reference is not known is led, from
            rest to rest, to where a guard began.
        settling_is_stopped: whether it was sent a stop on that way.
    """

    def __init__(self) -> None:
        self.is_set = False
        self.settled_ns = 0
        self.settling_is_stopped = False


class Authority:
    """Engaged or not, what was commanded, and the way to rest.

    Attributes:
        engaged: True while chunks pass.
        latch: the emergency stop's.
        holding: why the arm is held although the guard is engaged; empty while it moves.
        last_fault: what disengaged the guard last; None since it was engaged.
        owes_stop: whether a stop was due and could not be sent; it is planned again at each tick.
    """

    def __init__(
        self,
        timeline: Timeline,
        arm: ArmView,
        commander: Commander,
        latch: StopLatch,
        counters: Counter[str],
        *,
        lockstep_chunk_ns: int | None,
        on_clock_step: Callable[[], None],
    ) -> None:
        """lockstep_chunk_ns: how long physics runs for one answer; None: time passes by itself.

        on_clock_step: called where the ROS clock has stepped.
        """
        self.timeline = timeline
        self._motions = arm.motions
        self._joints = arm.joints
        self._reference = arm.reference
        self._commander = commander
        self.latch = latch
        self._counters = counters
        self._lockstep_chunk_ns = lockstep_chunk_ns
        self._on_step = on_clock_step
        self.engaged = False
        self.holding = ""
        self.last_fault: Fault | None = None
        self.owes_stop = False
        # Counters of the stops that were not sent since the arm moved: each is logged once.
        self._missed: set[str] = set()
        self._last_time_ns = 0
        self._ros_ns = self._last_ros_ns = 0
        # A controller may stand until its clock has reached this again (ROS time).
        self._caught_up_ns = 0
        # After a clock step: until then (steady clock) nothing is sent.
        self._quiet_until_ns: int | None = None

    @property
    def lockstep(self) -> bool:
        """Whether time is that of the stamps."""
        return self._lockstep_chunk_ns is not None

    def begin(self) -> None:
        """The guard was engaged."""
        self.engaged = True
        self.latch.settling_is_stopped = False
        self.last_fault = None
        self.follow()

    def follow(self) -> None:
        """From now on chunks move the arm: it is not held, and no stop is due."""
        self.holding = ""
        self.owes_stop = False
        self._missed.clear()

    def hold(self, why: str) -> None:
        """Stay engaged, but let the arm rest, for a reason of one word."""
        if self.holding != why:
            self._counters["holds"] += 1
            self._counters[f"hold_{why}"] += 1
        self.holding = why

    def trip(
        self,
        fault: Fault,
        moment: Moment,
        *,
        time_ns: int | None = None,
        retreats: bool = False,
        stops: bool = True,
    ) -> Command:
        """Stop, disengage, and say why.

        Args:
            time_ns: the stop's own time; not given: now.
            retreats: to where the arm was measured, where that is near.
            stops: False where nobody knows from where a stop would begin.
        """
        self.engaged = False
        self.last_fault = fault
        self.holding = fault.kind
        self._counters["holds"] += 1
        self._counters[f"fault_{fault.kind}"] += 1
        command = self.stop(moment, time_ns, retreats=retreats) if stops else Command()
        return command.saying("error", f"stopped and disengaged: {fault.reason}")

    def stop(
        self, moment: Moment, time_ns: int | None = None, *, retreats: bool = False
    ) -> Command:
        """A stop of what moves; nothing where nothing moves, or where nothing can be sent.

        In lockstep it answers a chunk, whose time is given; physics takes nothing else, and the
        next answer stops it.
        """
        if time_ns is None:
            if self.lockstep:
                return Command()
            time_ns = self.timeline.time_ns(moment)
        # Below it is set again where a stop is due and does not pass.
        self.owes_stop = False
        if not self._motions or self.is_quiet(moment) or self._physics_runs(time_ns):
            return Command()
        if time_ns < self.latch.settled_ns:
            return self._stop_settling(time_ns, moment)
        if not (self._can_be_stopped(time_ns) or retreats or self.lockstep):
            return Command()
        sample = self._joints.newest
        if retreats and sample is not None:
            motion = self._commander.retreat(sample.positions[:-1], time_ns)
        else:
            motion = self._commander.stop(time_ns)
        if isinstance(motion, str):
            self.latch.is_set = True
            self.engaged = False
            why = f"latched: no stop passed the outgoing check ({motion})"
            return self.miss_stop("failed_stops", why)
        self._reference.begin()
        return self._commander.send(motion, moment)

    def miss_stop(self, counter: str, why: str) -> Command:
        """A stop was due and is not sent; `counter` and the log have the first of each kind."""
        ends = "the running motion ends at rest by itself"
        if self.lockstep:
            self._counters[counter] += 1
            return log("error", f"{why}; {ends}.")
        self.owes_stop = True
        if counter in self._missed:
            return Command()
        self._missed.add(counter)
        self._counters[counter] += 1
        return log("error", f"{why}; the stop is planned again at each tick, and {ends}.")

    def stop_again(self, moment: Moment) -> Command:
        """The stop that could not be sent, from now; nothing where none is due any more."""
        return self.stop(moment) if self.owes_stop else Command()

    def _can_be_stopped(self, time_ns: int) -> bool:
        """Whether arm or gripper have something left of a motion that is no stop."""
        motions = self._motions
        has_left = motions.is_moving(time_ns) or motions.has_targets_left(time_ns)
        return has_left and motions.running.kind != "stop"

    def _stop_settling(self, time_ns: int, moment: Moment) -> Command:
        """Where the controller is on its way to the start is not known, but not far from the arm.

        It goes to where the arm is measured, from its own reference: no step, and at rest soon. The
        guard stands there from now on, so that what follows departs from there.
        """
        sample = self._joints.newest
        if sample is None or self.latch.settling_is_stopped:
            return log("warning", "the arm is being led from rest to rest, gently, and ends there")
        self.latch.settling_is_stopped = True
        command, end_ns = self._commander.rest_at(sample.positions[:-1], time_ns, moment)
        assert command.arm is not None
        gripper_m = self._motions.running.gripper_at(time_ns)
        self._motions.stand_at(command.arm.positions[-1], gripper_m, time_ns)
        self._joints.restart_tracking()
        # Should this be lost, the arm is led to the former end all the same.
        self.latch.settled_ns = max(self.latch.settled_ns, end_ns)
        return command

    def _physics_runs(self, time_ns: int) -> bool:
        """Lockstep: whether physics is on its way through a chunk, and waits for nobody.

        It follows answers to its observations only: what was to be stopped now is stopped by the
        next answer, and until then the running motion is what is commanded.
        """
        if self._lockstep_chunk_ns is None:
            return False
        running = self._motions.running
        # The clock may not have moved yet since the answer was sent.
        ran_ns = time_ns - running.start_ns
        return running.kind not in ("standing", "found") and 0 <= ran_ns < self._lockstep_chunk_ns

    # The clock.

    def advance(self, moment: Moment) -> Command | None:
        """Look at the clocks; what a step of the ROS clock that was noticed just now does."""
        if self.lockstep:
            return None
        last_ns, self._last_time_ns = self._last_time_ns, self.timeline.time_ns(moment)
        self._last_ros_ns, self._ros_ns = self._ros_ns, moment.ros_ns
        step = self.timeline.advance(moment)
        if step is not None:
            return self._on_clock_step(step, last_ns, moment)
        if self._quiet_until_ns is not None and moment.steady_ns >= self._quiet_until_ns:
            self._quiet_until_ns = None
            self._motions.clear()
        return None

    def _on_clock_step(self, step: ClockStep, last_ns: int, moment: Moment) -> Command | None:
        """Disengage and send nothing until what runs has ended at rest by itself."""
        self._counters["clock_steps"] += 1
        # On its way to the start the guard stands, but the controller moves.
        left_ns = max(self.latch.settled_ns - last_ns, 0)
        if self._motions.is_moving(last_ns):
            left_ns = max(left_ns, self._motions.running.rest_ns - last_ns)
        if step.step_s < 0.0:
            # A controller that follows the ROS clock stands until then, and goes on to the end.
            ends_ns = self._last_ros_ns + left_ns
            self._caught_up_ns = max(self._caught_up_ns, ends_ns)
        self._on_step()
        self._joints.forget()
        if left_ns > 0:
            self._quiet_until_ns = moment.steady_ns + left_ns
        elif not self.is_quiet(moment):
            self._motions.clear()
        if not self.engaged:
            return None
        fault = Fault(
            "clock",
            f"the clock must not step, it went {step.step_s:+.3f} s; check time synchronisation "
            "and use_sim_time.",
        )
        return self.trip(fault, moment)

    def is_led(self, moment: Moment) -> bool:
        """Whether a controller is led to where a guard began, and was sent no stop on that way."""
        leads = self.timeline.time_ns(moment) < self.latch.settled_ns
        return leads and not self.latch.settling_is_stopped

    def moves(self, time_ns: int) -> bool:
        """Whether what was commanded has not come to rest yet."""
        return self._motions.is_moving(time_ns) or time_ns < self.latch.settled_ns

    def behind_s(self, moment: Moment) -> float:
        """How long it takes until the ROS clock is where it was before it stepped back."""
        return (self._caught_up_ns - moment.ros_ns) / NANOSECONDS

    def is_quiet(self, moment: Moment) -> bool:
        """Whether nothing can be sent, since the clock has stepped and a motion still runs."""
        return self._quiet_until_ns is not None and moment.steady_ns < self._quiet_until_ns
