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
# Reports kept: several slots, each with a stop.
_NUM_KEPT = 16


@dataclass(frozen=True)
class _Report:
    """Positions [M, J] at increasing times [M]; the last one is held."""

    times_ns: TimeArray
    positions: FloatArray

    def at(self, times_ns: TimeArray) -> FloatArray:
        """float64 [M, J], linear between the points."""
        columns = [np.interp(times_ns, self.times_ns, column) for column in self.positions.T]
        return np.stack(columns, axis=1)


class FollowedActions:
    """The reports of one episode."""

    def __init__(self) -> None:
        self._reports: deque[_Report] = deque(maxlen=_NUM_KEPT)

    def forget(self) -> None:
        """Nothing is known any more."""
        self._reports.clear()

    def add(self, stamp_ns: int, times_s: FloatArray, positions: FloatArray) -> None:
        """Take a report: positions [M, J] at `times_s` [M], increasing seconds after the stamp."""
        times_ns = stamp_ns + np.round(times_s * NANOSECONDS).astype(np.int64)
        self._reports.append(_Report(times_ns, np.array(positions, dtype=np.float64)))

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

    @property
    def rests_ns(self) -> int:
        """From when on the newest report says that nothing changes any more."""
        newest = self._reports[-1]
        moves = np.any(newest.positions != newest.positions[-1], axis=1)
        last = np.flatnonzero(moves)
        return int(newest.times_ns[last[-1] + 1 if len(last) else 0])
