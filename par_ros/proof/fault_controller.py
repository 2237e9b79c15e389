# SPDX-License-Identifier: Apache-2.0
"""The controller of the fault suite's arm: joint_trajectory_controller's rule at 1 kHz.

A new trajectory replaces the old one at a control cycle. Its cursor begins at the cycle's ROS time
and goes on by the controller's periods, so a clock that is set moves only what is taken after it.
A process that gets the CPU late computes the cycles that it missed as the controller would have run
them, with the messages that had been sent by then: what the arm gets does not depend on the
machine, except for when a message is taken.

Cycle k is at k milliseconds of the steady clock. Times are integer nanoseconds. J arm joints.
"""

from dataclasses import dataclass

import numpy as np

from par_ros.control.joint_trajectory import (
    NANOSECONDS,
    FloatArray,
    JointTrajectory,
    Motion,
    MotionState,
)

PERIOD_NS = 1_000_000


@dataclass(frozen=True)
class Waiting:
    """A trajectory that arrived, and the first cycle that may take it."""

    trajectory: JointTrajectory
    stamp_ns: int
    sent_ns: int
    due_ns: int


class FaultController:
    """The command of J joints, cycle after cycle."""

    def __init__(self, joint_names: tuple[str, ...], positions: FloatArray, now_ns: int) -> None:
        self.joint_names = joint_names
        self.cycle = now_ns // PERIOD_NS
        self.state = MotionState.at_rest(positions)
        self._motion = Motion.standing(joint_names, positions)
        self._cursor_ns = 0.0
        self._waiting: list[Waiting] = []

    def take(self, waiting: Waiting) -> None:
        """Have a cycle from `due_ns` on take it; none overtakes another."""
        self._waiting.append(waiting)

    def stand_at(self, positions: FloatArray) -> None:
        """Stand elsewhere from the next cycle on."""
        self._motion = Motion.standing(self.joint_names, positions)

    def run_until(
        self, now_ns: int, offset_ns: int, speed: float
    ) -> tuple[FloatArray, list[tuple[Waiting, int]]]:
        """Every cycle up to `now_ns`: positions [M, J], and what was taken at which cycle.

        Args:
            offset_ns: ROS time minus steady time.
        """
        end = now_ns // PERIOD_NS
        rows = [np.empty((0, len(self.joint_names)))]
        taken = []
        while self._waiting:
            cycle = max(-(-self._waiting[0].due_ns // PERIOD_NS), self.cycle + 1)
            if cycle > end:
                break
            rows.append(self._run(cycle - 1, speed))
            waiting = self._waiting.pop(0)
            self._replace(waiting, cycle, offset_ns)
            taken.append((waiting, cycle))
        rows.append(self._run(end, speed))
        return np.concatenate(rows), taken

    def _replace(self, waiting: Waiting, cycle: int, offset_ns: int) -> None:
        """The cursor stands one cycle before the one that takes it."""
        self._cursor_ns = float((cycle - 1) * PERIOD_NS + offset_ns - waiting.stamp_ns)
        before_s = self._cursor_ns / NANOSECONDS
        self._motion = Motion(waiting.trajectory, self.state, before_s)

    def _run(self, end: int, speed: float) -> FloatArray:
        num = end - self.cycle
        if num <= 0:
            return np.empty((0, len(self.joint_names)))
        cursors_ns = self._cursor_ns + speed * PERIOD_NS * np.arange(1, num + 1)
        self.cycle = end
        self._cursor_ns = float(cursors_ns[-1])
        self.state = self._motion.state_at(self._cursor_ns / NANOSECONDS)
        return self._motion.positions_at(cursors_ns / NANOSECONDS)
