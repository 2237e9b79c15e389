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

import numpy as np

_NUM_READINGS = 64
_MAX_AGE_NS = 1_500_000_000
# What a reading may be off beyond half the time between the two looks at the steady clock.
_TOLERANCE_NS = 2_000
# Until there are so many readings the rate is not known; it may be up to this.
_MIN_READINGS = 8
_LARGEST_SLEW = 1e-3


class ClockOffset:
    """A line through the newest readings."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, int]] = deque(maxlen=_NUM_READINGS)

    def update(self, steady_ns: int, offset_ns: int, error_ns: int) -> int:
        """The offset at `steady_ns`, after a reading that may be wrong by `error_ns`."""
        while self._readings and steady_ns - self._readings[0][0] > _MAX_AGE_NS:
            self._readings.popleft()
        expected_ns = self._expected_ns(steady_ns)
        if expected_ns is None:
            self._readings.append((steady_ns, offset_ns))
            return offset_ns
        allowed_ns = float(error_ns + _TOLERANCE_NS)
        is_line = len(self._readings) >= _MIN_READINGS
        if not is_line:
            allowed_ns += _LARGEST_SLEW * (steady_ns - self._readings[-1][0])
        if abs(offset_ns - expected_ns) > allowed_ns:
            self._readings.clear()
            is_line = False
        self._readings.append((steady_ns, offset_ns))
        return expected_ns if is_line else offset_ns

    def _expected_ns(self, steady_ns: int) -> int | None:
        if not self._readings:
            return None
        base_ns, base_offset_ns = self._readings[-1]
        if len(self._readings) < 3:
            return base_offset_ns
        rows = np.array(self._readings, dtype=np.int64)
        times_s = (rows[:, 0] - base_ns) * 1e-9
        offsets_ns = (rows[:, 1] - base_offset_ns).astype(np.float64)
        mean_s, mean_ns = times_s.mean(), offsets_ns.mean()
        spread = ((times_s - mean_s) ** 2).sum()
        rate = 0.0
        if spread > 0.0:
            rate = ((times_s - mean_s) * (offsets_ns - mean_ns)).sum() / spread
        ahead_s = (steady_ns - base_ns) * 1e-9 - mean_s
        return base_offset_ns + round(float(mean_ns + rate * ahead_s))
