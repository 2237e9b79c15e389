# SPDX-License-Identifier: Apache-2.0
"""What follows from joint states: an arm that is not where it was commanded is stopped."""

from collections import Counter

from par_ros.control.arm_view import ArmView
from par_ros.control.authority import Authority
from par_ros.control.chunk_form import Fault
from par_ros.control.command import Command
from par_ros.control.deadlines import Deadlines
from par_ros.control.joint_states import JointSample
from par_ros.control.timeline import Moment


class JointFeedback:
    """Takes the joint states of one arm."""

    def __init__(
        self, authority: Authority, arm: ArmView, deadlines: Deadlines, counters: Counter[str]
    ) -> None:
        self._authority = authority
        self._motions = arm.motions
        self._joints = arm.joints
        self._deadlines = deadlines
        self._counters = counters

    def on_joint_state(self, sample: JointSample, moment: Moment) -> Command:
        """Take measured positions of all joints [J + 1], gripper last."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        if self._joints.take(sample, moment):
            self._counters["unusable_joint_states"] += 1
            return Command()
        self._deadlines.expect_joint_state(moment)
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
        self._counters["bad_joint_states"] += 1
        command = Command()
        if self._authority.engaged:
            command = self._authority.trip(Fault("joint_states", reason), moment)
        self._joints.reject(reason)
        return command
