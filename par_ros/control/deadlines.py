# SPDX-License-Identifier: Apache-2.0
"""What must go on while the guard is engaged: joint states, chunks, the reference, the clock."""

from par_ros.control.arm_view import ArmView
from par_ros.control.authority import Authority
from par_ros.control.chunk_form import Fault
from par_ros.control.command import Command, log
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.control.timeline import Moment
from par_ros.control.watchdog import Watchdog

_JOINT_STATES = "joint_states"
_NEXT_CHUNK = "chunk"
_LIVE_POLICY = "dead_policy"


class Deadlines:
    """Every deadline of one arm's guard.

    Attributes:
        num_policies: publishers on action_chunk at the last look.
    """

    def __init__(self, settings: GuardSettings, authority: Authority, arm: ArmView) -> None:
        self._settings = settings
        self._authority = authority
        self._arm = arm
        self._watchdog = Watchdog()
        self.num_policies = 0

    def expect_joint_state(self, moment: Moment) -> None:
        """A usable joint state came; the next one is due."""
        self._watchdog.feed(
            _JOINT_STATES,
            self._authority.timeline.seconds(moment),
            self._settings.max_joint_state_age_s,
        )

    def expect_first_chunk(self, moment: Moment) -> None:
        """The guard was engaged; the policy may take its time for the first chunk."""
        self._watchdog.stop(_NEXT_CHUNK)
        now_s = self._authority.timeline.seconds(moment)
        self._watchdog.feed(_LIVE_POLICY, now_s, self._settings.first_chunk_timeout_s)

    def expect_no_chunk(self) -> None:
        """An operator has the arm, who may let it stand."""
        self._watchdog.stop(_NEXT_CHUNK)
        self._watchdog.stop(_LIVE_POLICY)

    def expect_next_chunk(
        self, start_ns: int, time_ns: int, moment: Moment, *, by_operator: bool
    ) -> None:
        """A chunk was answered at `time_ns` that starts at `start_ns`, both on the timeline."""
        left_s = self._settings.chunk_s + (start_ns - time_ns) / NANOSECONDS
        now_s = self._authority.timeline.seconds(moment)
        self._watchdog.feed(_NEXT_CHUNK, now_s, left_s + self._settings.late_after_s)
        if not by_operator:
            self._watchdog.feed(_LIVE_POLICY, now_s, left_s + self._settings.policy_timeout_s)

    def on_tick(self, num_policies: int, moment: Moment) -> Command:
        """Look at every deadline. num_policies: publishers on action_chunk."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        self.num_policies = num_policies
        if not self._authority.engaged:
            return Command()
        fault = self._fault(moment)
        if fault is not None:
            return self._authority.trip(fault, moment)
        if self._authority.lockstep:
            return Command()
        if self._watchdog.expired(_NEXT_CHUNK, self._authority.timeline.seconds(moment)):
            self._watchdog.stop(_NEXT_CHUNK)
            # The tail that was sent with the last chunk is the hold.
            self._authority.hold("late")
            return log("warning", "no chunk came in time; the arm comes to rest and waits")
        return Command()

    def _fault(self, moment: Moment) -> Fault | None:
        if self.num_policies > 1:
            return Fault(
                "two_policies",
                f"one policy may publish action_chunk, {self.num_policies} publishers are there; "
                "stop all but one.",
            )
        if self._authority.lockstep:
            return None
        if self._authority.timeline.has_stopped(moment):
            return Fault(
                "clock", "the simulated clock has stood for 10 s; check /clock and the simulator."
            )
        return self._missed(moment)

    def _missed(self, moment: Moment) -> Fault | None:
        now_s = self._authority.timeline.seconds(moment)
        if self._watchdog.expired(_JOINT_STATES, now_s):
            return Fault(
                "joint_states_stale",
                f"joint states must come every {self._settings.max_joint_state_age_s:g} s: "
                f"{self._arm.joints.why_silent()}.",
            )
        if self._settings.expects_reference and not self._arm.reference.is_heard(moment):
            cause = self._arm.reference.why_unusable or (
                "no message has arrived: the controller is not active (a robot in reflex or user "
                "stop ends it) or not running; check controller_manager and the robot"
            )
            return Fault(
                "reference_silent",
                f"the controller's reference must come every {self._arm.reference.max_age_s:g} s; "
                f"{cause}.",
            )
        if self._watchdog.expired(_LIVE_POLICY, now_s):
            return Fault(
                "dead_policy",
                "no chunk has answered an observation in time; check policy_node and the camera.",
            )
        return None
