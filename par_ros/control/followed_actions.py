# SPDX-License-Identifier: Apache-2.0
"""What the arm was, is and will be told to follow, as the guard reported it.

Each report gives the motion from its first point on; a later report replaces what the earlier ones
said of that time. So what was planned and not followed leaves no trace. Shapes: J joints; M times.
Times are integer nanoseconds of ROS time.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray

TimeArray = npt.NDArray[np.int64]

# Stamps are rounded.
_TOLERANCE_NS = 1_000_000
# Two positions closer than this are the same command.
_STANDSTILL = 1e-9
# Reports kept: several slots, each with a stop.
_NUM_KEPT = 16


@dataclass(frozen=True)
class Report:
    """Positions [M, J] at increasing times [M]; the last one is held."""

    times_ns: TimeArray
    positions: FloatArray

    @classmethod
    def of(cls, stamp_ns: int, times_s: FloatArray, positions: FloatArray) -> "Report":
        """Positions [M, J] at `times_s` [M], increasing seconds after the stamp."""
        times_ns = stamp_ns + np.round(times_s * NANOSECONDS).astype(np.int64)
        return cls(times_ns, np.array(positions, dtype=np.float64))

    @property
    def begin_ns(self) -> int:
        """Its first point."""
        return int(self.times_ns[0])

    @property
    def rests_ns(self) -> int:
        """From when on nothing changes any more."""
        moves = np.any(np.abs(self.positions - self.positions[-1]) > _STANDSTILL, axis=1)
        last = np.flatnonzero(moves)
        return int(self.times_ns[last[-1] + 1 if len(last) else 0])

    def at(self, times_ns: TimeArray) -> FloatArray:
        """float64 [M, J], linear between the points."""
        columns = [np.interp(times_ns, self.times_ns, column) for column in self.positions.T]
        return np.stack(columns, axis=1)


class FollowedActions:
    """The reports of one episode."""

    def __init__(self) -> None:
        self._reports: deque[Report] = deque(maxlen=_NUM_KEPT)

    def forget(self) -> None:
        """Nothing is known any more."""
        self._reports.clear()

    def add(self, report: Report) -> None:
        """Take what is followed from the report's first point on."""
        self._reports.append(report)

    def at(self, times_ns: TimeArray) -> FloatArray | None:
        """Positions [M, J] at increasing times [M]; None where the first lies before all that is
        known."""
        if not self._reports or times_ns[0] < self._reports[0].times_ns[0] - _TOLERANCE_NS:
            return None
        result = self._reports[0].at(times_ns)
        for report in list(self._reports)[1:]:
            known = times_ns >= report.times_ns[0]
            result[known] = report.at(times_ns[known])
        return result
