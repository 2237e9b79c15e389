# SPDX-License-Identifier: Apache-2.0
"""How long an answer may take, and what gives way to it.

Sampling steps. An answer is sampled in the most steps whose expected time fits into what is left of
the budget; in the fewest where none fits. Expected is the time that an answer in so many steps took
while warming up, times the slowdown: the largest ratio of measured to warmed-up time among the last
20 answers, at least 1. Left is the budget less the picture's age and less the longest of the last
20 times from a chunk's sending until the guard had taken it.

Pictures that are drawn for people, of what is expected or looked at. One is drawn where its time
while warming up (without that, the first one's), times the slowdown, fits into the time until the
next picture is due.

Without a budget (lockstep: physics waits) nothing gives way. Nothing here is thread-safe.
"""

from collections import Counter, deque
from dataclasses import dataclass

from par_ros.control.settings import parameter

_NUM_KEPT = 20


@dataclass(frozen=True)
class TimingParameters:
    """The settings of policy_node that are about time."""

    latency_budget: float | None = parameter(
        None,
        "realtime: from a picture until its chunk takes effect; sampling steps (backend eager) and "
        "drawn pictures give way to it; not set: with overlapped inference a step less than "
        "the checkpoint's largest delay, else max_image_age_s",
        unit="s", minimum=0.0, maximum=10.0,
    )  # fmt: skip
    real_time_factor: float = parameter(
        1.0,
        "realtime: seconds on the node's clock per second of wall time; at another factor than 1 "
        "the ledger has no times",
        minimum=0.01,
        maximum=100.0,
    )
    policy_delay: float = parameter(
        0.0, "an experiment: no chunk is sent sooner than this after its picture's stamp",
        unit="s", minimum=0.0, maximum=10.0,
    )  # fmt: skip
    delay_jitter: float = parameter(
        0.0, "an experiment: a delay is drawn uniformly from policy_delay plus or minus this",
        unit="s", minimum=0.0, maximum=10.0,
    )  # fmt: skip


class LatencyBudget:
    """Of one policy.

    Attributes:
        num_reduced: answers that were sampled in fewer steps than the policy's.
        num_skipped: pictures that were not drawn, by their kind.
    """

    def __init__(self, budget_s: float | None) -> None:
        """budget_s: from a picture until what it led to takes effect; None: nothing gives way."""
        self.budget_s = budget_s
        self.num_reduced = 0
        self.num_skipped: Counter[str] = Counter()
        # Seconds by number of sampling steps, and of a drawn picture by its kind, at first.
        self._answer_s: dict[int, float] = {}
        self._drawing_s: dict[str, float] = {}
        self._slowdowns: deque[float] = deque(maxlen=_NUM_KEPT)
        self._taken_s: deque[float] = deque(maxlen=_NUM_KEPT)

    def warm_up(self, num_steps: int, duration_s: float) -> None:
        """An answer in `num_steps` took so long; the shortest counts."""
        self._answer_s[num_steps] = min(duration_s, self._answer_s.get(num_steps, duration_s))

    def drew(self, kind: str, duration_s: float) -> None:
        """A picture of this kind took so long; the first one counts."""
        self._drawing_s.setdefault(kind, duration_s)

    def choose_steps(self, age_s: float) -> int | None:
        """The number of sampling steps for a picture of this age; None: the policy's own."""
        if self.budget_s is None or not self._answer_s:
            return None
        left_s = self.budget_s - age_s - max(self._taken_s, default=0.0)
        numbers = sorted(self._answer_s, reverse=True)
        fitting = (number for number in numbers if self.expected_s(number) <= left_s)
        chosen = next(fitting, numbers[-1])
        self.num_reduced += chosen < numbers[0]
        return chosen

    def expected_s(self, num_steps: int) -> float:
        """Of an answer in `num_steps`, one of those that were warmed up."""
        return self._answer_s[num_steps] * self._slowdown

    def answered(self, num_steps: int | None, duration_s: float) -> None:
        """An answer took so long; num_steps: as it was chosen."""
        if num_steps is not None:
            self._slowdowns.append(duration_s / self._answer_s[num_steps])

    def taken(self, duration_s: float) -> None:
        """The guard had taken a chunk so long after it was sent."""
        self._taken_s.append(duration_s)

    def may_draw(self, kind: str, left_s: float) -> bool:
        """Whether a picture of this kind may be drawn when the camera's next is due in `left_s`."""
        if self.budget_s is None or kind not in self._drawing_s:
            return True
        fits = self._drawing_s[kind] * self._slowdown <= left_s
        self.num_skipped[kind] += not fits
        return fits

    @property
    def _slowdown(self) -> float:
        return max(1.0, max(self._slowdowns, default=1.0))
