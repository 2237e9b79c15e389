# SPDX-License-Identifier: Apache-2.0
"""What becomes of a chunk: it is given a time and followed, or held, or it is a fault.

Times are integer nanoseconds of the guard's timeline where they say so, ROS time otherwise.
"""

import dataclasses
from collections import Counter

from par_ros.control.action_schedule import ActionSchedule, ScheduleRefusal
from par_ros.control.arm_view import ArmView
from par_ros.control.authority import Authority
from par_ros.control.chunk_follower import ChunkFollower, Followed
from par_ros.control.chunk_form import Fault, RequestedChunk
from par_ros.control.command import Command, log
from par_ros.control.commander import Commander
from par_ros.control.deadlines import Deadlines
from par_ros.control.engaging import Engaging
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.control.safety_filter import SafetyFilter
from par_ros.control.teleoperation import Teleoperation
from par_ros.control.timeline import Moment


class ChunkAnswers:
    """Answers every chunk of one arm's policy, and of its operator."""

    def __init__(
        self,
        settings: GuardSettings,
        authority: Authority,
        arm: ArmView,
        commander: Commander,
        engaging: Engaging,
        safety_filter: SafetyFilter,
        schedule: ActionSchedule,
        deadlines: Deadlines,
        teleoperation: Teleoperation,
        counters: Counter[str],
    ) -> None:
        self.settings = settings
        self._authority = authority
        self._motions = arm.motions
        self._joints = arm.joints
        self._reference = arm.reference
        self._commander = commander
        self._engaging = engaging
        self._filter = safety_filter
        self._schedule = schedule
        self._deadlines = deadlines
        self._teleoperation = teleoperation
        self._counters = counters
        # A sequential policy expects exactly L points.
        self._overlapped = settings.inference == "overlapped"
        self._follower = ChunkFollower(
            safety_filter, arm.motions, commander, counters, tells_tail=self._overlapped
        )
        # Stamp of the chunk that was answered last.
        self._told_ns: int | None = None
        # In case its answer is withdrawn: the chunk that was followed last, and whether it took the
        # place of a stop that was still due.
        self._answered: tuple[RequestedChunk, Followed, bool] | None = None

    def on_chunk(
        self, chunk: RequestedChunk, moment: Moment, *, by_operator: bool = False
    ) -> Command:
        """Pass, track or refuse one chunk. In lockstep every new chunk is answered.

        by_operator: whether it is an operator's, not the policy's.
        """
        self._counters["operator_chunks" if by_operator else "chunks"] += 1
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        looked = self._teleoperation.look(moment)
        if by_operator and (looked.events or not self._is_operators(moment)):
            # What the look did goes out first, with the stop that it may have begun.
            return self._refuse_operator(looked)
        if not by_operator and self._teleoperation.is_active:
            self._counters["refused"] += 1
            return self._tell_held(looked, chunk, self._chunk_time_ns(chunk, moment), moment)
        refused = self._check_lockstep_stamp(chunk, moment) if self.settings.lockstep else None
        if refused is not None:
            return refused
        if self._authority.engaged:
            # Before its stamp: a policy that sends NaN is broken, late or not.
            fault = self._filter.check_form(chunk)
            if fault is not None:
                return self._refuse(fault, chunk, moment)
        time_ns = self._chunk_time_ns(chunk, moment)
        if not self._motions and not self._stand_at_measured(time_ns):
            self._counters["refused"] += 1
            return log(
                "error",
                "a chunk came before it was known where the arm is held, so there is nothing to "
                "hold; check joint_states and the controller's reference.",
            )
        return self._place(chunk, time_ns, moment)

    def telling_of_stop(self, command: Command, moment: Moment) -> Command:
        """Overlapped inference: add what is followed from now on, under the stamp of the last chunk
        answered, to a command that moves the arm and answers no chunk. Others are unchanged."""
        if command.executed is not None:
            self._told_ns = command.executed_stamp_ns
        stamp_ns = self._told_ns
        sends = command.arm is not None and command.executed is None and self._motions
        if not (self._overlapped and sends) or stamp_ns is None:
            return command
        timeline = self._authority.timeline
        time_ns = timeline.time_ns(moment)
        held = self._follower.held(time_ns, timeline.of_stamp(stamp_ns, moment))
        return command.telling(held, stamp_ns, holds=True)

    def _is_operators(self, moment: Moment) -> bool:
        """Whether an operator's chunk passes now."""
        return self._teleoperation.is_active and self._teleoperation.is_held(moment)

    def _refuse_operator(self, looked: Command) -> Command:
        """A program may stream chunks before the switch is held: that is no fault."""
        self._counters["operator_refused"] += 1
        return looked

    def on_bad_chunk(self, reason: str, moment: Moment, *, by_operator: bool = False) -> Command:
        """Take a chunk that could not even be read into arrays."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        looked = self._teleoperation.look(moment)
        if by_operator and (looked.events or not self._is_operators(moment)):
            # What the look did goes out first, with the stop that it may have begun.
            return self._refuse_operator(looked)
        self._counters["refused"] += 1
        if not by_operator and self._teleoperation.is_active:
            return looked.saying("warning", f"chunk refused: {reason}")
        if not self._authority.engaged:
            return log("warning", f"chunk refused: {reason}")
        return self._authority.trip(Fault("shape", reason), moment)

    def _refuse(self, fault: Fault, chunk: RequestedChunk, moment: Moment) -> Command:
        """The chunk is a fault: stop, and tell the policy what is done instead."""
        self._counters["refused"] += 1
        time_ns = self._chunk_time_ns(chunk, moment)
        command = self._authority.trip(fault, moment, time_ns=time_ns)
        return self._tell_held(command, chunk, time_ns, moment)

    def withdrawn(self, moment: Moment, *, last: bool) -> Command:
        """The answer to the last chunk took too long to be sent: it is planned anew from now.

        last: there is no further try; the chunk is held.
        """
        assert self._answered is not None
        chunk, followed, owed_stop = self._answered
        # What was to take the stop's place was not sent.
        self._authority.owes_stop |= owed_stop
        time_ns = self._authority.timeline.time_ns(moment)
        self._follower.take_back(followed)
        if not last:
            self._schedule.take_back()
            return self._place(chunk, time_ns, moment)
        self._authority.hold("slow")
        text = "chunk held: the guard took too long to answer it; check the machine's load."
        return self._tell_held(Command(), chunk, time_ns, moment).saying("warning", text)

    def _chunk_time_ns(self, chunk: RequestedChunk, moment: Moment) -> int:
        return (
            chunk.stamp_ns if self.settings.lockstep else self._authority.timeline.time_ns(moment)
        )

    def _place(self, chunk: RequestedChunk, time_ns: int, moment: Moment) -> Command:
        """Give the chunk its time, or refuse it; then follow it."""
        timeline = self._authority.timeline
        grid_ns = None
        if self.settings.chunk_start == "observation":
            grid_ns = timeline.of_stamp(min(chunk.stamp_ns, moment.ros_ns), moment)
        lead = self._commander.lead(time_ns, grid_ns)
        takes_over_ns = timeline.stamp_ns(lead.departs_ns, moment)
        placed = self._schedule.place(chunk.stamp_ns, moment.ros_ns, takes_over_ns)
        if isinstance(placed, ScheduleRefusal):
            return self._refuse_unplaced(chunk, placed, time_ns, moment)
        if not self._authority.engaged:
            self._counters["refused"] += 1
            return self._answer_held(chunk, time_ns, moment)
        fault = self._filter.check(
            chunk,
            self._motions.running.state_at(time_ns).positions,
            None if self._joints.newest is None else self._joints.newest.positions[:-1],
        )
        if fault is not None:
            return self._refuse(fault, chunk, moment)
        wait = self._why_wait(time_ns)
        if wait is None and not self._teleoperation.is_active:
            wait = self._why_start_anew()
        if wait:
            return self._hold_chunk(chunk, *wait, time_ns, moment)
        start_ns = timeline.of_stamp(placed.start_ns, moment)
        followed, logged = self._follower.follow(chunk, lead, placed, start_ns, time_ns)
        self._deadlines.expect_next_chunk(
            start_ns, time_ns, moment, by_operator=self._teleoperation.is_active
        )
        if isinstance(followed, str):
            return self._hold_chunk(chunk, "limits", followed, time_ns, moment)
        self._answered = chunk, followed, self._authority.owes_stop
        self._authority.follow()
        self._reference.begin()
        stamp_ns = timeline.of_stamp(chunk.stamp_ns, moment)
        command = self._commander.send(followed.motion, moment)
        command = command.telling(self._follower.executed(followed, stamp_ns), chunk.stamp_ns)
        return dataclasses.replace(command, events=logged.events)

    def _why_start_anew(self) -> tuple[str, str] | None:
        """As _why_wait, of the policy's first chunk after an operator."""
        if not self._teleoperation.must_start_anew():
            return None
        return "operator", "what the policy remembers is from before the operator; it starts anew"

    def _why_wait(self, time_ns: int) -> tuple[str, str] | None:
        """Why a good chunk is not followed now: one word and a sentence."""
        if time_ns < self._authority.latch.settled_ns:
            return "settling", "the arm is still being led to where the guard begins"
        running = self._motions.running
        judged = running.kind == "standing" or self._reference.confirmed
        if self._reference.is_known and not self.settings.lockstep and not judged:
            return "unconfirmed", "the controller has not shown yet that it took the motion before"
        return None

    def _check_lockstep_stamp(self, chunk: RequestedChunk, moment: Moment) -> Command | None:
        """In lockstep the newest joint state is of the observation that physics waits with.

        The clock stands there too; it counts where joint states are lost or wrongly stamped.
        """
        sample = self._joints.newest
        clock_s = (moment.ros_ns - chunk.stamp_ns) / NANOSECONDS
        beyond_s = clock_s if clock_s > self.settings.step_s / 2 else 0.0
        if sample is not None:
            beyond_s = max(beyond_s, (sample.stamp_ns - chunk.stamp_ns) / NANOSECONDS)
        if beyond_s > 0.0:
            self._counters["late"] += 1
            return log(
                "warning", f"chunk refused: physics is {beyond_s:.3f} s beyond its observation"
            )
        if sample is None:
            return None
        age_s = (sample.stamp_ns - chunk.stamp_ns) / NANOSECONDS
        if not self._authority.engaged or -age_s <= self.settings.max_joint_state_age_s:
            return None
        fault = Fault(
            "joint_states_stale",
            f"joint states must be at most {self.settings.max_joint_state_age_s:g} s older than "
            f"the chunk, the last is {-age_s:.3f} s older; check the joint_states topic.",
        )
        return self._refuse(fault, chunk, moment)

    def _refuse_unplaced(
        self, chunk: RequestedChunk, refusal: ScheduleRefusal, time_ns: int, moment: Moment
    ) -> Command:
        self._counters[refusal.kind] += 1
        if refusal.kind == "future" and self._authority.engaged:
            return self._authority.trip(Fault("future", refusal.reason), moment)
        text = f"chunk refused: {refusal.reason}"
        if refusal.kind == "late" and self._motions:
            # The tail is running already: nothing to send, but the policy must know.
            self._authority.hold("late")
            return self._answer_held(chunk, time_ns, moment).saying("warning", text)
        return log("warning", text)

    def _hold_chunk(
        self, chunk: RequestedChunk, why: str, reason: str, time_ns: int, moment: Moment
    ) -> Command:
        """Hold for one chunk; the next one may end it. The running motion ends at rest."""
        self._counters["refused"] += 1
        self._authority.hold(why)
        held = self._answer_held(chunk, time_ns, moment)
        return held.saying("warning", f"chunk held: {reason}")

    def _answer_held(self, chunk: RequestedChunk, time_ns: int, moment: Moment) -> Command:
        """executed_actions of a refused chunk; with a stop in lockstep, which waits for one."""
        command = self._authority.stop(moment, time_ns) if self.settings.lockstep else Command()
        return self._tell_held(command, chunk, time_ns, moment)

    def _tell_held(
        self, command: Command, chunk: RequestedChunk, time_ns: int, moment: Moment
    ) -> Command:
        if not self._motions:
            return command
        stamp_ns = self._authority.timeline.of_stamp(chunk.stamp_ns, moment)
        begin_ns = stamp_ns if self.settings.lockstep else time_ns
        held = self._follower.held(begin_ns, stamp_ns)
        return command.telling(held, chunk.stamp_ns, holds=True)

    def _stand_at_measured(self, time_ns: int) -> bool:
        """Hold where the arm was measured, to answer a chunk; False where that is not known."""
        if not self._engaging.is_start_known:
            return False
        start = self._engaging.start()
        self._motions.stand_at(start.state.positions, start.gripper_m, time_ns)
        if self.settings.lockstep:
            # Physics waits in this very state, and stops from it.
            found = self._commander.found(start, time_ns)
            self._motions.clear()
            self._motions.take(found)
        return True
