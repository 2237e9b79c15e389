# SPDX-License-Identifier: Apache-2.0
"""What an operator asks of the guard: engage, disengage, emergency stop, and its reset."""

import dataclasses
from collections import Counter

from par_ros.control.action_schedule import ActionSchedule
from par_ros.control.arm_view import ArmView
from par_ros.control.authority import Authority
from par_ros.control.command import Command, Reply
from par_ros.control.commander import Commander
from par_ros.control.deadlines import Deadlines
from par_ros.control.engaging import Engaging
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.control.safety_filter import SafetyFilter
from par_ros.control.teleoperation import Teleoperation
from par_ros.control.timeline import Moment

_STOPPED = "stopped; reset_stop and then engage clear it"
_LED = "the arm is still led to where the guard began, gently, and ends there"
_QUIET = "after a clock step nothing can be sent, the running motion ends at rest by itself"
_OWED = (
    "no stop could be sent yet: the arm follows the running motion, which ends at rest by itself; "
    "the stop is planned again at each tick; where that is too late, stop the arm at the robot"
)


class OperatorRequests:
    """Answers each request to one arm's guard with a sentence."""

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
        self._settings = settings
        self._authority = authority
        self._arm = arm
        self._commander = commander
        self._engaging = engaging
        self._filter = safety_filter
        self._schedule = schedule
        self._deadlines = deadlines
        self._teleoperation = teleoperation
        self._counters = counters

    def engage(self, moment: Moment) -> Reply:
        """Let chunks pass, from where the controller holds the arm on."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return Reply(False, "the clock has just stepped; look at it, then engage", stepped)
        if self._authority.engaged:
            if not self._teleoperation.is_active:
                return Reply(True, "is engaged already")
            if self._teleoperation.is_held(moment):
                return Reply(False, "the operator holds the deadman switch; release it first")
        refusal = self._why_not_engage(moment)
        if refusal:
            return Reply(False, refusal)
        start = self._engaging.start()
        time_ns = self._authority.timeline.time_ns(moment)
        if self._settings.lockstep:
            assert self._arm.joints.newest is not None
            time_ns = self._arm.joints.newest.stamp_ns
        self._arm.motions.stand_at(start.state.positions, start.gripper_m, time_ns)
        self._arm.reference.begin()
        self._arm.joints.restart_tracking()
        self._schedule.reset()
        self._authority.begin()
        self._teleoperation.give_back()
        self._deadlines.expect_first_chunk(moment)
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
        self._arm.joints.forget()
        if stepped is not None:
            return Reply(True, "disengaged by a clock step; the arm comes to rest", stepped)
        done = "disengaged" if was_engaged else "was not engaged"
        if self._authority.is_led(moment):
            return Reply(True, f"{done}; {_LED}", command)
        if was_engaged:
            done += "; the arm comes to rest"
        return self.as_sent(Reply(True, done, command), moment)

    def e_stop(self, moment: Moment) -> Reply:
        """Stop whatever moves; nothing passes until reset_stop and then engage."""
        stepped = self._authority.advance(moment)
        was_latched, self._authority.latch.is_set = self._authority.latch.is_set, True
        self._authority.engaged = False
        self._counters["e_stops"] += not was_latched
        if self._authority.is_quiet(moment):
            return Reply(True, f"latched; {_QUIET}", stepped or Command())
        command = self._authority.stop(moment)
        reference = self._arm.reference
        if not self._arm.motions and reference.is_known and not reference.is_at_rest:
            return Reply(
                True,
                "latched; the controller follows a motion that the guard has not sent: stop it at "
                "the controller or the robot",
                command,
            )
        if self._authority.is_led(moment):
            return Reply(True, f"latched; {_LED}", command)
        done = "was stopped already" if was_latched else _STOPPED
        return self.as_sent(Reply(True, done, command), moment)

    def as_sent(self, reply: Reply, moment: Moment) -> Reply:
        """The same, unless its stop was not sent; one that is due has not succeeded yet."""
        latched = self._authority.latch.is_set
        done = "latched" if latched else "disengaged"
        if reply.command.arm is not None and self._authority.is_quiet(moment):
            # The clock has stepped since it was planned.
            return dataclasses.replace(reply, message=f"{done}; {_QUIET}")
        if not self._authority.owes_stop:
            return reply
        return dataclasses.replace(reply, success=not latched, message=f"{done}, but {_OWED}")

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
        if self._deadlines.num_policies > 1:
            return (
                f"{self._deadlines.num_policies} policies publish action_chunk; stop all but one "
                "(one that was killed stays in the ROS graph for some seconds)"
            )
        time_ns = self._authority.timeline.time_ns(moment)
        if self._authority.moves(time_ns):
            return "the arm is still coming to rest; try again in a moment"
        behind_s = self._authority.behind_s(moment)
        if behind_s > 0.0 and not self._settings.sim_clock:
            return (
                f"the clock went back; a controller may stand until it has caught up in "
                f"{behind_s:.1f} s; wait, or restart the controller and then the guard"
            )
        motions = self._arm.motions
        commanded = motions.running.arm.positions[-1] if motions else None
        refusal = self._engaging.why_not(moment, commanded)
        return refusal or self._filter.why_no_start(self._engaging.start().state.positions)
