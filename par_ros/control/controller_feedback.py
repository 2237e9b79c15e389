# SPDX-License-Identifier: Apache-2.0
"""What follows from the controller's reference: a motion that was not taken is a fault.

J arm joints. Times are integer nanoseconds of the guard's timeline.
"""

from collections import Counter

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.arm_view import ArmView
from par_ros.control.authority import Authority
from par_ros.control.chunk_form import Fault
from par_ros.control.command import Command, log
from par_ros.control.engaging import why_slowed
from par_ros.control.reference_watch import ReferenceSample, Verdict
from par_ros.control.timeline import Moment


class ControllerFeedback:
    """Takes what the controller of one arm commands."""

    def __init__(
        self, spec: ArmSpec, authority: Authority, arm: ArmView, counters: Counter[str]
    ) -> None:
        self._spec = spec
        self._authority = authority
        self._arm = arm
        self._counters = counters

    def on_reference(self, sample: ReferenceSample, moment: Moment) -> Command:
        """Take what the arm's controller commands; compare it with what was sent."""
        stepped = self._authority.advance(moment)
        if stepped is not None:
            return stepped
        reference = self._arm.reference
        unusable = reference.take(sample, moment)
        if unusable is not None:
            self._counters["unusable_references"] += 1
            self._counters[f"unusable_references_{unusable.kind}"] += 1
            return Command()
        if self._authority.engaged and reference.is_slowed:
            fault = Fault("speed_scaling", why_slowed(sample.speed_scaling))
            return self._authority.trip(fault, moment)
        motions = self._arm.motions
        if not motions or self._authority.lockstep or self._authority.is_quiet(moment):
            return Command()
        time_ns = self._authority.timeline.of_stamp(sample.stamp_ns, moment)
        return self._act_on(reference.judge(motions, time_ns), sample, moment)

    def _act_on(self, verdict: Verdict, sample: ReferenceSample, moment: Moment) -> Command:
        if verdict == "late":
            self._counters["picked_up_late"] += 1
            return log("warning", "the controller took a trajectory after its splice had ended")
        if verdict == "moved_at_rest":
            return self._adopt(sample, moment)
        if verdict == "not_taken":
            return self._take_back(moment)
        if verdict == "elsewhere":
            return self._lose_track(sample, moment)
        return Command()

    def _adopt(self, sample: ReferenceSample, moment: Moment) -> Command:
        """The controller stands elsewhere (it holds where it measured): so does the guard."""
        time_ns = self._authority.timeline.time_ns(moment)
        running = self._arm.motions.running
        apart_rad = float(abs(sample.positions - running.state_at(time_ns).positions).max())
        self._stand_at(sample, running.gripper_at(time_ns), time_ns)
        self._arm.joints.restart_tracking()
        self._counters["adopted_references"] += 1
        if self._authority.engaged and apart_rad > self._spec.max_tracking_error_rad:
            fault = Fault(
                "reference_moved",
                f"the controller's reference moved by {apart_rad:.3g} rad while the arm "
                "had to be at rest; check what else commands the controller.",
            )
            return self._authority.trip(fault, moment)
        return log("info", f"the guard adopts the controller's reference, {apart_rad:.2g} rad away")

    def _take_back(self, moment: Moment) -> Command:
        """The newest motion was lost or rejected: the one before still runs, and is stopped."""
        self._arm.withdraw()
        self._counters["not_taken"] += 1
        fault = Fault(
            "not_taken",
            "the controller did not take a trajectory: lost on its way or rejected; check the "
            "controller's log, its clock and the network.",
        )
        if self._authority.engaged:
            return self._authority.trip(fault, moment)
        return self._authority.stop(moment).saying("error", fault.reason)

    def _lose_track(self, sample: ReferenceSample, moment: Moment) -> Command:
        """The controller follows what was not sent: from where a stop would begin is not known."""
        command = Command()
        if self._authority.engaged:
            fault = Fault(
                "foreign_motion",
                "the controller follows a motion that the guard has not sent; check for other "
                "publishers on its topic, and for limits in the controller that clip commands.",
            )
            command = self._authority.trip(fault, moment, stops=False)
        time_ns = self._authority.timeline.time_ns(moment)
        gripper_m = self._arm.motions.running.gripper_at(time_ns)
        self._arm.motions.clear()
        if self._arm.reference.is_at_rest:
            self._stand_at(sample, gripper_m, time_ns)
        return command

    def _stand_at(self, sample: ReferenceSample, gripper_m: float, time_ns: int) -> None:
        self._arm.motions.stand_at(sample.positions.copy(), gripper_m, time_ns)
