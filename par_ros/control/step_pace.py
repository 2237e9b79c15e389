# SPDX-License-Identifier: Apache-2.0
"""When a realtime simulation announces its control steps and makes them.

A step is announced (its time is published on /clock) some time before its target is sampled. So a
trajectory that was sent by the clock before is there when the step is made, and one that is sent
after the announcement begins a step later: sender and simulator agree on what each step follows.

Times are seconds of the monotonic clock.
"""

from typing import Literal

# A step is made at least this share of its lead after its announcement, or late.
_LEAST_LEAD_SHARE = 0.8


class StepPace:
    """One control step every period; never catches up: a late step shifts all later ones."""

    def __init__(self, period_s: float, lead_s: float, now_s: float) -> None:
        """lead_s: from announcement to step; at most half a period is taken."""
        self._period_s = period_s
        self._lead_s = min(lead_s, period_s / 2)
        self.num_late = 0
        self.restart(now_s)

    def restart(self, now_s: float) -> None:
        """The next step is a period away."""
        self._due_s = now_s + self._period_s
        self._is_announced = False

    def wait_s(self, now_s: float) -> float:
        """Until the next announcement or step; 0.0 where it is due."""
        next_s = self._due_s if self._is_announced else self._due_s - self._lead_s
        return max(next_s - now_s, 0.0)

    def take(self, now_s: float) -> Literal["announce", "step"] | None:
        """What is due now; counts as done."""
        if self.wait_s(now_s) > 0.0:
            return None
        self._is_announced = not self._is_announced
        if self._is_announced:
            earliest_s = now_s + _LEAST_LEAD_SHARE * self._lead_s
            self.num_late += self._due_s < earliest_s
            self._due_s = max(self._due_s, earliest_s)
            return "announce"
        self._due_s += self._period_s
        return "step"
