# SPDX-License-Identifier: Apache-2.0
"""A chunk as a motion of the arm, or why there is none; and what the policy is told of it.

Times are integer nanoseconds of the guard's timeline where they say so, ROS time otherwise. L
knots of J + 1 joints, gripper last.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from par_ros.control.action_schedule import PlacedChunk
from par_ros.control.command import Command
from par_ros.control.commanded_motion import CommandedMotion, Lead, MotionHistory
from par_ros.control.commander import Commander
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.control.safety_filter import FilteredChunk, Join, RequestedChunk, SafetyFilter


@dataclass(frozen=True)
class Followed:
    """A chunk that is followed: its motion, and its knots [L, J + 1] from `start_ns` on.

    Attributes:
        counted: the counters that went up by it.
    """

    motion: CommandedMotion
    knots: FloatArray
    start_ns: int
    counted: tuple[str, ...]


class ChunkFollower:
    """Applies the filter from the running motion on; counts what it did."""

    def __init__(
        self,
        safety_filter: SafetyFilter,
        motions: MotionHistory,
        commander: Commander,
        counters: Counter[str],
        *,
        tells_tail: bool,
    ) -> None:
        """tells_tail: `executed` goes on behind the last knot until the arm is at rest."""
        self._tells_tail = tells_tail
        self._filter = safety_filter
        self._motions = motions
        self._commander = commander
        self._counters = counters

    def follow(
        self, chunk: RequestedChunk, lead: Lead, placed: PlacedChunk, start_ns: int, time_ns: int
    ) -> tuple[Followed | str, Command]:
        """The motion, or why there is none; and what is to be logged.

        Args:
            lead: what the motion begins with; the chunk departs from its end.
            start_ns: the chunk's start on the timeline.
        """
        running = self._motions.running
        join = Join(lead.end, (lead.departs_ns - start_ns) / NANOSECONDS)
        filtered = self._filter.apply(
            join, chunk.positions, running.gripper_at(time_ns), placed.first_action
        )
        if filtered.nodes is None:
            return filtered.reason, Command()
        knots = self._with_past_knots(filtered.knots, placed, start_ns)
        targets_m = knots[placed.first_action :, -1]
        motion = self._commander.chunk(lead, filtered.nodes, targets_m, start_ns, time_ns)
        if isinstance(motion, str):
            self._counters["check_refused"] += 1
            return f"the outgoing check refused it: {motion}", Command()
        limits = (limit for change in filtered.changes for limit in change.limits)
        counted = (filtered.outcome, *(f"limited_{limit}" for limit in limits))
        self._counters.update(counted)
        return Followed(motion, knots, start_ns, counted), _logged(filtered)

    def take_back(self, followed: Followed) -> None:
        """The chunk was not followed after all."""
        self._counters.subtract(followed.counted)

    def executed(self, followed: Followed, stamp_on_timeline_ns: int) -> JointTrajectory:
        """What the policy is told of a chunk that is followed; times from the chunk's stamp."""
        knots, motion = followed.knots, followed.motion
        if self._tells_tail:
            step_ns = round(self._filter.step_s * NANOSECONDS)
            last_ns = followed.start_ns + len(knots) * step_ns
            num_more = max(0, -(-(motion.rest_ns - last_ns) // step_ns))
            times_ns = last_ns + float(step_ns) * np.arange(1, num_more + 1)
            target_m = np.full(num_more, knots[-1, -1])
            tail = np.column_stack((motion.positions_at(times_ns), target_m))
            knots = np.concatenate((knots, tail))
        return self._executed(knots, followed.start_ns - stamp_on_timeline_ns)

    def held(self, begin_ns: int, stamp_on_timeline_ns: int) -> JointTrajectory:
        """What the policy is told of one that is not: the running motion from `begin_ns` on."""
        running = self._motions.running
        if self._tells_tail:
            # What it believed ends now, not in a step.
            begin_ns -= round(self._filter.step_s * NANOSECONDS)
        num_points = len(self._filter.knot_times_s) + self._tells_tail
        times_ns = begin_ns + self._filter.step_s * NANOSECONDS * np.arange(1, num_points + 1)
        targets_m = np.array([running.gripper_at(int(time)) for time in times_ns])
        knots = np.column_stack((running.positions_at(times_ns), targets_m))
        return self._executed(knots, begin_ns - stamp_on_timeline_ns)

    def _with_past_knots(self, knots: FloatArray, placed: PlacedChunk, start_ns: int) -> FloatArray:
        """Knots that are due before the chunk departs are what is being sent at that time."""
        result = knots.copy()
        times_s = self._filter.knot_times_s[: placed.first_action]
        due_ns = start_ns + np.round(times_s * NANOSECONDS).astype(np.int64)
        result[: len(due_ns), :-1] = self._motions.positions_at(due_ns)
        for action, time_ns in enumerate(due_ns.tolist()):
            result[action, -1] = self._motions.running.gripper_at(time_ns)
        return result

    def _executed(self, knots: FloatArray, offset_ns: int) -> JointTrajectory:
        times_s = offset_ns / NANOSECONDS + self._filter.step_s * np.arange(1, len(knots) + 1)
        return JointTrajectory(self._filter.spec.joint_names, times_s, knots)


def _logged(filtered: FilteredChunk) -> Command:
    command = Command()
    if filtered.changes:
        changes = "; ".join(str(change) for change in filtered.changes)
        command = command.saying("warning", f"chunk tracked: {changes}")
    for warning in reversed(filtered.warnings):
        command = command.saying("warning", f"chunk: {warning}")
    return command
