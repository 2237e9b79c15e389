# SPDX-License-Identifier: Apache-2.0
"""ROS time minus steady time, better than two clocks can be read one after the other.

Between the two readings lie some microseconds. At 1 rad/s one of them is a micrometre of a radian,
which at a hand-over is half of a small arm's jerk limit. So a line is laid through the readings of
the last second: it has the offset and the rate at which the clock is slewed. A reading that is
further from the line than it can be wrong means that the clock was set or its rate changed: the
line begins anew with it.

Times are integer nanoseconds.
"""

from collections import deque

_NUM_READINGS = 64
_MAX_AGE_NS = 1_500_000_000
# What a reading may be off beyond half the time between the two looks at the steady clock.
_TOLERANCE_NS = 2_000
# Until there are so many readings the rate is not known; it may be up to this.
_MIN_READINGS = 8
_LARGEST_SLEW = 1e-3


class ClockOffset:
    """A line through the newest readings.

    The sums of the least-squares line are kept as integers, so adding and removing readings leaves
    no rounding behind and a reading costs some microseconds.
    """

    def __init__(self) -> None:
        self._forget()

    def update(self, steady_ns: int, offset_ns: int, error_ns: int) -> int:
        """The offset at `steady_ns`, after a reading that may be wrong by `error_ns`."""
        while self._readings and steady_ns - self._readings[0][0] > _MAX_AGE_NS:
            self._remove_oldest()
        expected_ns = self._expected_ns(steady_ns)
        if expected_ns is None:
            self._add(steady_ns, offset_ns)
            return offset_ns
        allowed_ns = float(error_ns + _TOLERANCE_NS)
        is_line = len(self._readings) >= _MIN_READINGS
        if not is_line:
            allowed_ns += _LARGEST_SLEW * (steady_ns - self._readings[-1][0])
        if abs(offset_ns - expected_ns) > allowed_ns:
            self._forget()
            is_line = False
        self._add(steady_ns, offset_ns)
        return expected_ns if is_line else offset_ns

    def _forget(self) -> None:
        self._readings: deque[tuple[int, int]] = deque()
        # The first reading of the line; the sums are of differences from it.
        self._origin = (0, 0)
        self._sum_time = self._sum_offset = self._sum_squares = self._sum_products = 0

    def _add(self, steady_ns: int, offset_ns: int) -> None:
        if not self._readings:
            self._forget()
            self._origin = (steady_ns, offset_ns)
        elif len(self._readings) == _NUM_READINGS:
            self._remove_oldest()
        self._readings.append((steady_ns, offset_ns))
        self._count(steady_ns, offset_ns, 1)

    def _remove_oldest(self) -> None:
        self._count(*self._readings.popleft(), -1)

    def _count(self, steady_ns: int, offset_ns: int, sign: int) -> None:
        time_ns, off_ns = steady_ns - self._origin[0], offset_ns - self._origin[1]
        self._sum_time += sign * time_ns
        self._sum_offset += sign * off_ns
        self._sum_squares += sign * time_ns * time_ns
        self._sum_products += sign * time_ns * off_ns

    def _expected_ns(self, steady_ns: int) -> int | None:
        if not self._readings:
            return None
        num = len(self._readings)
        if num < 3:
            return self._readings[-1][1]
        ahead = num * (steady_ns - self._origin[0]) - self._sum_time
        covariance = num * self._sum_products - self._sum_time * self._sum_offset
        spread = num * self._sum_squares - self._sum_time**2
        off = self._sum_offset / num
        if spread > 0:
            off += ahead * covariance / spread / num
        return self._origin[1] + round(off)
