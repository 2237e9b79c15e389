# SPDX-License-Identifier: Apache-2.0
"""When a controller's cycles happen, and what time each of them reads.

Three kinds: an arm's (any rate and phase, a period that jitters, ROS time that may step), and a
simulator's (cycles of a millisecond inside control steps; new trajectories only at their borders).
Times are integer nanoseconds.
"""

from typing import Protocol

import numpy as np

from par_ros.proof.hostile_clock import IntArray, LumpClock, RosClock

_MILLISECOND_NS = 1_000_000


class Cycles(Protocol):
    """Cycle k = 0, 1, ... of a controller.

    Attributes:
        period_ns: the nominal period.
        clock: what the controller's ROS clock reads.
    """

    period_ns: int
    clock: RosClock | LumpClock

    def steady_ns(self, begin: int, end: int) -> IntArray:
        """When the cycles of a range happen, on the steady clock."""
        ...

    def measured_ns(self, begin: int, end: int) -> IntArray:
        """Sums of the periods that the controller measures."""
        ...

    def ros_ns(self, cycle: int) -> int:
        """The time that a cycle is given."""
        ...

    def last_before(self, steady_ns: int) -> int:
        """The last cycle that happens before or at a moment; -1 before the first."""
        ...

    def picks_up(self, steady_ns: int) -> int:
        """The cycle that takes a message which arrives at a moment."""
        ...


class ArmCycles:
    """Cycles of a real-time loop: `period_ns`, a phase, and jitter of up to 20 % of the period."""

    def __init__(self, clock: RosClock, period_ns: int, phase_ns: int, jitter_ns: IntArray) -> None:
        self.clock = clock
        self.period_ns = period_ns
        self._phase_ns = phase_ns
        self._jitter_ns = jitter_ns

    def steady_ns(self, begin: int, end: int) -> IntArray:
        """See Cycles."""
        cycles = np.arange(begin, end)
        jitter_ns = self._jitter_ns[cycles % len(self._jitter_ns)]
        return self._phase_ns + self.period_ns * cycles + jitter_ns

    def measured_ns(self, begin: int, end: int) -> IntArray:
        """See Cycles. The trigger clock is steady."""
        return self.steady_ns(begin, end)

    def ros_ns(self, cycle: int) -> int:
        """See Cycles."""
        return self.clock.read(self._at(cycle))

    def last_before(self, steady_ns: int) -> int:
        """See Cycles."""
        cycle = (steady_ns - self._phase_ns) // self.period_ns + 1
        while cycle >= 0 and self._at(cycle) > steady_ns:
            cycle -= 1
        return cycle

    def picks_up(self, steady_ns: int) -> int:
        """See Cycles."""
        return self.last_before(steady_ns - 1) + 1

    def _at(self, cycle: int) -> int:
        jitter_ns = int(self._jitter_ns[cycle % len(self._jitter_ns)])
        return self._phase_ns + self.period_ns * cycle + jitter_ns


class SimulatorCycles:
    """Milliseconds of simulated time; the simulator looks for messages once a control step.

    A step's milliseconds happen together, `lead_ns` after its end was shown on the clock: messages
    that came before it are picked up at its begin, which is what the clock read before.
    """

    def __init__(self, clock: LumpClock, step_ns: int, lead_ns: int = 0) -> None:
        self.clock = clock
        self.period_ns = _MILLISECOND_NS
        self._per_step = step_ns // _MILLISECOND_NS
        self._begin_ros_ns = clock.read(0) - step_ns
        inside_ns = np.arange(self._per_step)
        self._steady_ns = (clock.begins_ns[:, None] + lead_ns + inside_ns).ravel()

    def steady_ns(self, begin: int, end: int) -> IntArray:
        """See Cycles."""
        return self._steady_ns[begin:end]

    def measured_ns(self, begin: int, end: int) -> IntArray:
        """See Cycles: simulated time."""
        return _MILLISECOND_NS * np.arange(begin, end)

    def ros_ns(self, cycle: int) -> int:
        """See Cycles."""
        return self._begin_ros_ns + _MILLISECOND_NS * cycle

    def last_before(self, steady_ns: int) -> int:
        """See Cycles."""
        return int(self._steady_ns.searchsorted(steady_ns, side="right")) - 1

    def picks_up(self, steady_ns: int) -> int:
        """See Cycles."""
        cycle = int(self._steady_ns.searchsorted(steady_ns, side="left"))
        return -(-cycle // self._per_step) * self._per_step
