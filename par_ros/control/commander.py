# SPDX-License-Identifier: Apache-2.0
"""Puts a motion together, has it checked, and remembers it: the only way by which one goes out."""

from collections.abc import Iterator

import numpy as np

from par_ros.control import stopping
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.command import Command
from par_ros.control.commanded_motion import CommandedMotion, Lead, MotionHistory, MotionKind
from par_ros.control.engaging import Start
from par_ros.control.hermite_curve import Nodes
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.control.outgoing_check import OutgoingCheck, SentTrajectory
from par_ros.control.timeline import Moment, Timeline

# Nobody takes a trajectory later than this.
MAX_PICKUP_NS = 100_000_000
_END_NS = 20_000_000
# A trajectory lasts at least this long behind its departure, at rest in the end: a controller
# rejects one that is over when it arrives, and a stop must not be rejected for coming late.
_MIN_DURATION_S = 1.0


class Commander:
    """Composes trajectories of one arm from the running motion on."""

    def __init__(
        self,
        spec: ArmSpec,
        planning: ArmSpec,
        timeline: Timeline,
        motions: MotionHistory,
        *,
        splice_s: float,
        knot_times_s: FloatArray,
        lockstep: bool,
    ) -> None:
        """spec has the arm's own limits, which are checked; planning those to plan within."""
        self._spec = spec
        self._planning = planning
        self._timeline = timeline
        self._motions = motions
        self._splice_ns = round(splice_s * NANOSECONDS)
        self._knot_times_s = knot_times_s
        self._lockstep = lockstep
        self._check = OutgoingCheck(spec)

    @property
    def collisions(self) -> str:
        """Whether collisions are looked at, for status messages."""
        return self._check.collisions

    def lead(self, time_ns: int, grid_ns: int | None = None) -> Lead:
        """What a trajectory sent now begins with. In lockstep: the state now."""
        if self._lockstep:
            return self._motions.lead_from_state(time_ns)
        return self._motions.lead(time_ns, self._splice_ns, grid_ns)

    def chunk(
        self, lead: Lead, nodes: Nodes, targets_m: FloatArray, start_ns: int, time_ns: int
    ) -> CommandedMotion | str:
        """A chunk's motion, or why it must not be sent.

        Args:
            nodes: states behind the departure; seconds from `start_ns`.
            targets_m: the gripper's, of the last knots.
        """
        knots_s = self._knot_times_s[len(self._knot_times_s) - len(targets_m) :]
        motion = self._motion("chunk", lead, (nodes, targets_m, knots_s), start_ns, time_ns)
        return self._checked(motion, time_ns)

    def stop(self, time_ns: int) -> CommandedMotion | str:
        """The first stop that passes, or why none does."""
        lead = self.lead(time_ns)
        return self._first("stop", lead, stopping.stops(lead.end, self._planning.limits), time_ns)

    def retreat(self, measured: FloatArray, time_ns: int) -> CommandedMotion | str:
        """To where the arm was measured [J], or else a stop."""
        lead = self.lead(time_ns)
        back = stopping.retreat(lead.end, measured, self._planning, self._planning.limits)
        motion = self._first("retreat", lead, iter((back,)), time_ns)
        return self.stop(time_ns) if isinstance(motion, str) else motion

    def found(self, start: Start, time_ns: int) -> CommandedMotion:
        """The arm as it is found at `time_ns`, not by this guard's command: coming to rest."""
        self._motions.stand_at(start.state.positions, start.gripper_m, time_ns)
        nodes = next(stopping.stops(start.state, self._planning.limits))
        lead = Lead(time_ns, time_ns, Nodes.through(np.zeros(1), [start.state]))
        targets_m = np.full(len(self._knot_times_s), start.gripper_m)
        behind = (nodes, targets_m, self._knot_times_s)
        return self._motion("found", lead, behind, time_ns, time_ns)

    def settle(self, start: Start, time_ns: int, moment: Moment) -> tuple[Command, int]:
        """Lead a controller whose reference is not known to the start; and until when.

        The guard stands there from the beginning: the way to it is the controller's own, from rest
        to rest, and gentle however late it begins.
        """
        duration_s = stopping.settling_duration_s(self._spec) + MAX_PICKUP_NS / NANOSECONDS
        return self._alone(start.state.positions, duration_s, time_ns, moment)

    def rest_at(self, measured: FloatArray, time_ns: int, moment: Moment) -> tuple[Command, int]:
        """The same from the middle of that way to where the arm is measured [J], soon."""
        limits = self._planning.limits
        positions = np.clip(measured, limits.min_position, limits.max_position)
        return self._alone(positions, stopping.SETTLED_STOP_S, time_ns, moment)

    def _alone(
        self, positions: FloatArray, duration_s: float, time_ns: int, moment: Moment
    ) -> tuple[Command, int]:
        """A single point at rest: a controller goes there from its own reference."""
        zeros = np.zeros((1, len(positions)))
        arm = JointTrajectory(
            self._spec.arm_joint_names, np.array([duration_s]), positions[None].copy(), zeros, zeros
        )
        stamp_ns = self._timeline.stamp_ns(time_ns, moment)
        command = Command(arm=arm, stamp_ns=stamp_ns, has_splice=False)
        # Rounding of message and clock: the last cycle may lie behind it.
        return command, time_ns + round(duration_s * NANOSECONDS) + _END_NS

    def send(self, motion: CommandedMotion, moment: Moment) -> Command:
        """Remember the motion as the running one, and give it as messages want it.

        Of a stop a gripper with a driver gets its target once more, due at the stamp itself, as no
        target of a chunk is. gripper_adapter.py then keeps its goal and forgets the targets ahead.
        """
        self._motions.take(motion)
        gripper = self._spec.gripper
        times_s, targets_m = motion.gripper.times_s, motion.gripper.positions
        if gripper.driver is not None and motion.kind != "chunk":
            times_s = np.concatenate(([0.0], times_s))
            targets_m = np.concatenate((targets_m[:1], targets_m))
        command = JointTrajectory(
            (gripper.command_joint_name,), times_s, gripper.command(targets_m)
        )
        stamp_ns = self._timeline.stamp_ns(motion.start_ns, moment)
        return Command(arm=motion.arm, gripper=command, stamp_ns=stamp_ns)

    def _gripper_m(self, time_ns: int) -> float:
        """Where the gripper is commanded to be: on its curve, or, with a driver, at its goal."""
        running = self._motions.running
        if self._spec.gripper.driver is None:
            return running.gripper_at(time_ns)
        return running.gripper_due_at(time_ns)

    def _first(
        self, kind: MotionKind, lead: Lead, candidates: Iterator[Nodes], time_ns: int
    ) -> CommandedMotion | str:
        """The first candidate (seconds from the departure) that passes; why the last did not."""
        targets_m = np.full(len(self._knot_times_s), self._gripper_m(time_ns))
        result: CommandedMotion | str = "there is none"
        for nodes in candidates:
            behind = (nodes, targets_m, self._knot_times_s)
            motion = self._motion(kind, lead, behind, lead.departs_ns, time_ns)
            result = self._checked(motion, time_ns)
            if not isinstance(result, str):
                break
        return result

    def _motion(
        self,
        kind: MotionKind,
        lead: Lead,
        behind: tuple[Nodes, FloatArray, FloatArray],
        start_ns: int,
        time_ns: int,
    ) -> CommandedMotion:
        """The lead, and nodes, gripper targets and their times counted from `start_ns`."""
        nodes, targets_m, knots_s = behind
        whole = lead.then(nodes, start_ns).resting_until(
            (lead.departs_ns - lead.begin_ns) / NANOSECONDS + _MIN_DURATION_S
        )
        arm = JointTrajectory(
            self._spec.arm_joint_names,
            whole.times_s,
            whole.positions,
            whole.velocities,
            whole.accelerations,
        )
        gripper = JointTrajectory(
            (self._spec.gripper.joint_name,),
            knots_s + (start_ns - lead.begin_ns) / NANOSECONDS,
            targets_m[:, None],
        )
        return CommandedMotion(
            kind,
            time_ns,
            lead.departs_ns,
            lead.begin_ns,
            arm,
            gripper,
            self._gripper_m(time_ns),
        )

    def _checked(self, motion: CommandedMotion, time_ns: int) -> CommandedMotion | str:
        running = self._motions.running
        reason = self._check.why_not(
            SentTrajectory(motion.arm, motion.start_ns),
            SentTrajectory(running.arm, running.start_ns),
            time_ns,
            motion.departs_ns,
            is_stop=motion.kind == "stop",
        )
        return reason if reason else motion
