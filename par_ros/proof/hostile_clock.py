# SPDX-License-Identifier: Apache-2.0
"""The clocks of the hostile world: a ROS clock that steps, slews and stops beside a steady one.

Times are integer nanoseconds. The steady clock is the world's own time, and starts at 0.
"""

import numpy as np
import numpy.typing as npt

NANOSECONDS = 1_000_000_000
IntArray = npt.NDArray[np.int64]


class RosClock:
    """ROS time as a function of steady time: pieces of constant rate."""

    def __init__(self, ros_ns: int) -> None:
        self._begins_ns = [0]
        self._ros_ns = [ros_ns]
        # Rate minus one, in parts per million; -1e6: the clock stands still.
        self._rates_ppm = [0.0]

    def read(self, steady_ns: int) -> int:
        """ROS time at one moment."""
        piece = len(self._begins_ns) - 1
        while self._begins_ns[piece] > steady_ns and piece > 0:
            piece -= 1
        elapsed_ns = steady_ns - self._begins_ns[piece]
        return self._ros_ns[piece] + elapsed_ns + round(elapsed_ns * self._rates_ppm[piece] * 1e-6)

    def read_many(self, steady_ns: IntArray) -> IntArray:
        """ROS time at increasing moments [N]."""
        begins = np.array(self._begins_ns)
        piece = np.maximum(begins.searchsorted(steady_ns, side="right") - 1, 0)
        elapsed_ns = steady_ns - begins[piece]
        drift_ns = np.rint(elapsed_ns * np.array(self._rates_ppm)[piece] * 1e-6).astype(np.int64)
        return np.array(self._ros_ns)[piece] + elapsed_ns + drift_ns

    def step(self, steady_ns: int, step_ns: int) -> None:
        """From `steady_ns` on it reads `step_ns` more."""
        self._begin(steady_ns, self.read(steady_ns) + step_ns, self._rates_ppm[-1])

    def set_rate(self, steady_ns: int, rate_ppm: float) -> None:
        """From `steady_ns` on it runs faster by `rate_ppm`."""
        self._begin(steady_ns, self.read(steady_ns), rate_ppm)

    def _begin(self, steady_ns: int, ros_ns: int, rate_ppm: float) -> None:
        self._begins_ns.append(steady_ns)
        self._ros_ns.append(ros_ns)
        self._rates_ppm.append(rate_ppm)


class LumpClock:
    """A simulator's clock: it stands still and then moves by a whole control step.

    The steady time that a step takes varies: the simulator is slower or faster than real time.
    """

    def __init__(self, ros_ns: int, step_ns: int, begins_ns: IntArray) -> None:
        self._ros_ns = ros_ns
        self._step_ns = step_ns
        self.begins_ns = begins_ns

    def lump(self, steady_ns: int) -> int:
        """How many steps have begun before or at `steady_ns`, minus one."""
        return max(int(self.begins_ns.searchsorted(steady_ns, side="right")) - 1, 0)

    def read(self, steady_ns: int) -> int:
        """ROS time at one moment."""
        return self._ros_ns + self._step_ns * self.lump(steady_ns)

    def read_many(self, steady_ns: IntArray) -> IntArray:
        """ROS time at increasing moments [N]."""
        lumps = np.maximum(self.begins_ns.searchsorted(steady_ns, side="right") - 1, 0)
        return self._ros_ns + self._step_ns * lumps
