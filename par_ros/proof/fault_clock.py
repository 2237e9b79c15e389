# SPDX-License-Identifier: Apache-2.0
"""A machine's clock that can be set, for the fault suite: `fault_clock EXECUTABLE arguments...`.

Setting the system's clock takes a privilege that a test does not have. Here the ROS clock of every
process that is started through this module is the system's clock and an offset that all of them
share, in a file of eight bytes; so a step is seen by all at once, as on a robot whose time is set.
The nodes are the ones that always run: rclpy's clock is the only thing that is replaced.
"""

import mmap
import os
import runpy
import struct
import sys
from pathlib import Path

from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.time import Time

CLOCK_VARIABLE = "PAR_FAULT_CLOCK"
_FORMAT = struct.Struct("=q")


class SharedOffset:
    """Nanoseconds that every process adds to the system's clock."""

    def __init__(self, path: Path) -> None:
        """`path`: the file; created if missing."""
        if not path.exists():
            path.write_bytes(_FORMAT.pack(0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _FORMAT.size)

    @property
    def value_ns(self) -> int:
        """The offset now."""
        return int(_FORMAT.unpack_from(self._memory)[0])

    @value_ns.setter
    def value_ns(self, value_ns: int) -> None:
        # Eight aligned bytes: no reader sees half of them.
        self._memory[: _FORMAT.size] = _FORMAT.pack(value_ns)


def use(offset: SharedOffset) -> None:
    """Have the ROS clocks of this process show the shared time; simulated time is left alone."""
    read = Clock.now

    def now(clock: Clock) -> Time:
        time = read(clock)
        simulated = isinstance(clock, ROSClock) and clock.ros_time_is_active
        if clock.clock_type != ClockType.ROS_TIME or simulated:
            return time
        return Time(nanoseconds=time.nanoseconds + offset.value_ns, clock_type=time.clock_type)

    Clock.now = now


def main() -> None:
    """Run one of this package's executables in the shared time."""
    use(SharedOffset(Path(os.environ[CLOCK_VARIABLE])))
    sys.argv = sys.argv[1:]
    runpy.run_module(f"par_ros.{sys.argv[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
