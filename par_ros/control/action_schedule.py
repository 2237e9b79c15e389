# SPDX-License-Identifier: Apache-2.0
"""When a chunk's actions are due, and which chunks come too late, too early or twice.

Action l (1..L) is due at start + l * step. `arrival` starts a chunk where it can take over, at the
end of the splice, and runs all its actions. `observation` starts it at the stamp of the observation
that it answers and drops what is due before it can take over. `control_step`, for a simulator whose
clock stands between its control steps, starts it at the step at which it came and runs all its
actions: each is due at a step, and none of them is spent on waiting. In lockstep physics has
waited, so all of them are the stamp.

Times are integer nanoseconds of ROS time.
"""

import math
from dataclasses import dataclass
from typing import Literal

from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_trajectory import NANOSECONDS

# A quotient of times this close to the next whole number is that number.
_ROUNDING = 1e-9
# How far a stamp may lie ahead of the clock.
_MAX_FUTURE_S = 0.01
# With `observation` and `control_step`, the first action sent is due at least this far behind the
# moment at which the chunk takes over.
_MIN_LEAD_S = 0.02


@dataclass(frozen=True)
class PlacedChunk:
    """When a chunk starts, and its first action (0-based) that is sent."""

    start_ns: int
    first_action: int


@dataclass(frozen=True)
class ScheduleRefusal:
    """Why a chunk gets no time: duplicate, reordered, late or future, and a sentence."""

    kind: Literal["duplicate", "reordered", "late", "future"]
    reason: str


class ActionSchedule:
    """Gives each chunk its time. What it keeps is the stamps of the last two chunks."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self._last_stamp_ns: int | None = None
        self._stamp_before_ns: int | None = None

    def reset(self) -> None:
        """Forget the last stamp: any stamp may come next."""
        self._last_stamp_ns = self._stamp_before_ns = None

    def take_back(self) -> None:
        """The chunk that was placed last was not followed, and may be placed again."""
        self._last_stamp_ns = self._stamp_before_ns

    def place(
        self, stamp_ns: int, now_ns: int, takes_over_ns: int
    ) -> PlacedChunk | ScheduleRefusal:
        """The chunk's start, or why it has none. A chunk that was placed or late uses its stamp.

        Args:
            takes_over_ns: until then the running motion goes on (the end of the splice).
        """
        refusal = self._check_order(stamp_ns)
        if refusal is not None:
            return refusal
        if self.settings.lockstep:
            self._use(stamp_ns)
            return PlacedChunk(stamp_ns, 0)
        age_s = (now_ns - stamp_ns) / NANOSECONDS
        if age_s < -_MAX_FUTURE_S:
            return ScheduleRefusal(
                "future",
                f"a chunk's stamp must not lie in the future, this one is {-age_s:.3f} s ahead; "
                "check that policy and guard use the same clock (use_sim_time).",
            )
        self._use(stamp_ns)
        if age_s > self.settings.max_observation_age_s:
            return self._late(age_s)
        if self.settings.chunk_start == "arrival":
            return PlacedChunk(takes_over_ns, 0)
        if self.settings.chunk_start == "control_step":
            return PlacedChunk(self._control_step_ns(now_ns, takes_over_ns), 0)
        # A trajectory has no time before its start: a stamp ahead of the clock counts as now.
        start_ns = min(stamp_ns, now_ns)
        passed_s = (takes_over_ns - start_ns) / NANOSECONDS + _MIN_LEAD_S
        num_due = math.floor(passed_s / self.settings.step_s + _ROUNDING)
        if num_due >= self.settings.num_actions:
            return self._late(age_s)
        return PlacedChunk(start_ns, num_due)

    def _use(self, stamp_ns: int) -> None:
        self._stamp_before_ns, self._last_stamp_ns = self._last_stamp_ns, stamp_ns

    def _control_step_ns(self, now_ns: int, takes_over_ns: int) -> int:
        """The control step from which on no action is due before the chunk can take over."""
        passed_s = (takes_over_ns - now_ns) / NANOSECONDS + _MIN_LEAD_S
        num_steps = math.ceil(passed_s / self.settings.step_s - _ROUNDING) - 1
        return now_ns + round(max(num_steps, 0) * self.settings.step_s * NANOSECONDS)

    def _late(self, age_s: float) -> ScheduleRefusal:
        return ScheduleRefusal(
            "late",
            f"a chunk may answer an observation of up to {self.settings.max_observation_age_s:g} s "
            f"ago, this one is {age_s:.3f} s old; check the policy's inference time.",
        )

    def _check_order(self, stamp_ns: int) -> ScheduleRefusal | None:
        if self._last_stamp_ns is None or stamp_ns > self._last_stamp_ns:
            return None
        behind_s = (self._last_stamp_ns - stamp_ns) / NANOSECONDS
        if behind_s == 0.0:
            return ScheduleRefusal(
                "duplicate", "a chunk with this stamp has come before; check for two policies."
            )
        return ScheduleRefusal(
            "reordered",
            f"chunks' stamps must increase, this one is {behind_s:.3f} s behind the last; check "
            "for two policies and the policy's clock.",
        )
