# SPDX-License-Identifier: Apache-2.0
"""Sums over runs of the hostile world; plain numbers, so that processes and files can pass them.

Knows nothing of the guard: a process that judges another checkout's guard can return it.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_NUM_EXAMPLES = 10

Example = dict[str, Any]


@dataclass
class HostileTotals:
    """What was seen.

    Attributes:
        violations: verdicts of class (a) by kind: what the guard answers for.
        excused: class (b) by reason: what no guard could know; worst: the largest acceleration of
            each in multiples of the limit.
        examples: of class (a), with the seed that shows it again.
        late: late pick-ups: how many, with a broken limit, noticed, seconds until then (sum, most).
        rest_s: longest time to rest of each kind of stop, of those not excused.
        outcomes: the guard's counters; chunk_kinds, disturbed: what the world did.
    """

    num_runs: int = 0
    num_chunks: int = 0
    num_outputs: int = 0
    num_picked_up: int = 0
    num_samples: int = 0
    simulated_s: float = 0.0
    engaged_s: float = 0.0
    violations: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    excused_examples: list[Example] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    late: dict[str, float] = field(default_factory=dict)
    stops: Counter[str] = field(default_factory=Counter)
    rest_s: dict[str, float] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    chunk_kinds: Counter[str] = field(default_factory=Counter)
    disturbed: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Nothing that the guard answers for, and no exception."""
        return not (self.violations or self.exceptions)

    def violate(self, kind: str, example: Example) -> None:
        """Count a verdict of class (a)."""
        self.violations[kind] += 1
        if sum(other["kind"] == kind for other in self.examples) < _NUM_EXAMPLES:
            self.examples.append({"kind": kind, **example})

    def excuse(self, reason: str, acceleration_share: float, example: Example) -> None:
        """Count a verdict of class (b)."""
        self.excused[reason] += 1
        self.worst[reason] = max(self.worst.get(reason, 0.0), acceleration_share)
        if sum(other["reason"] == reason for other in self.excused_examples) < 2:
            self.excused_examples.append({"reason": reason, **example})

    def add(self, other: "HostileTotals") -> None:
        """Add the sums of another set of runs."""
        for name in ("num_runs", "num_chunks", "num_outputs", "num_picked_up", "num_samples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.simulated_s += other.simulated_s
        self.engaged_s += other.engaged_s
        for name in (
            "violations", "excused", "stops", "outcomes", "chunk_kinds", "disturbed", "modes",
        ):  # fmt: skip
            getattr(self, name).update(getattr(other, name))
        for name in ("worst", "rest_s", "largest"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key, value in theirs.items():
                mine[key] = max(mine.get(key, 0.0), value)
        for key, value in other.late.items():
            whole = self.late.get(key, 0.0)
            self.late[key] = max(whole, value) if key.startswith("most") else whole + value
        self.exceptions = (self.exceptions + other.exceptions)[:_NUM_EXAMPLES]
        self._add_examples(other)

    def _add_examples(self, other: "HostileTotals") -> None:
        for mine, theirs, key, most in (
            (self.examples, other.examples, "kind", _NUM_EXAMPLES),
            (self.excused_examples, other.excused_examples, "reason", 2),
        ):
            for example in theirs:
                if sum(known[key] == example[key] for known in mine) < most:
                    mine.append(example)

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain types."""
        return {
            name: dict(sorted(value.items())) if isinstance(value, dict) else value
            for name, value in vars(self).items()
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> "HostileTotals":
        """The inverse of to_json. Raises KeyError or TypeError for anything else."""
        totals = HostileTotals()
        for name, value in vars(totals).items():
            kept = content[name]
            setattr(totals, name, type(value)(kept))
        return totals
