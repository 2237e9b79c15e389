# SPDX-License-Identifier: Apache-2.0
"""Deadlines on the monotonic clock, and a timeline that survives a stepping node clock.

A stopped or stepped node clock must not stop what watches: everything here counts monotonic
seconds, which the caller reads (time.monotonic()).
"""

from dataclasses import dataclass

from par_ros.control.joint_trajectory import NANOSECONDS

# A node clock may run apart from the monotonic one by this much between two looks before it counts
# as a step. Backwards: NTP slews, it does not step by 50 ms. Forwards: a simulator's clock comes in
# lumps, and a loaded machine looks late.
MAX_STEP_BACK_S = 0.05
MAX_STEP_FORWARD_S = 0.25


class Watchdog:
    """Named deadlines. A name that was never fed, or was stopped, does not expire."""

    def __init__(self) -> None:
        self._deadlines_s: dict[str, float] = {}

    def feed(self, name: str, monotonic_s: float, timeout_s: float) -> None:
        """Expect the next feed of `name` within `timeout_s` of `monotonic_s`."""
        self._deadlines_s[name] = monotonic_s + timeout_s

    def stop(self, name: str) -> None:
        """Expect nothing of `name` any more."""
        self._deadlines_s.pop(name, None)

    def expired(self, name: str, monotonic_s: float) -> bool:
        """True once the deadline of `name` has passed."""
        return monotonic_s > self._deadlines_s.get(name, float("inf"))


@dataclass(frozen=True)
class ClockStep:
    """How far the node clock jumped, seconds; negative: back."""

    step_s: float


class SteadyTimeline:
    """The node clock with its steps taken out: it only ever goes on.

    What has been commanded is kept on this timeline; messages carry the node clock.
    """

    def __init__(self) -> None:
        self._offset_ns = 0
        self._last_now_ns: int | None = None
        self._last_monotonic_s = 0.0

    @property
    def offset_ns(self) -> int:
        """Timeline minus node clock, as of the last update."""
        return self._offset_ns

    def update(self, now_ns: int, monotonic_s: float) -> tuple[int, ClockStep | None]:
        """The timeline now, in nanoseconds, and the step if the node clock has just made one."""
        step = None
        if self._last_now_ns is not None:
            elapsed_s = monotonic_s - self._last_monotonic_s
            clock_s = (now_ns - self._last_now_ns) / NANOSECONDS
            if clock_s < -MAX_STEP_BACK_S or clock_s - elapsed_s > MAX_STEP_FORWARD_S:
                step = ClockStep(clock_s - elapsed_s)
                self._offset_ns -= round(step.step_s * NANOSECONDS)
        self._last_now_ns = now_ns
        self._last_monotonic_s = monotonic_s
        return now_ns + self._offset_ns, step
