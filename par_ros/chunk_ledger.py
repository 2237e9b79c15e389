# SPDX-License-Identifier: Apache-2.0
"""Times of each chunk: milliseconds after its picture was taken."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np

from par_ros.control.joint_trajectory import FloatArray

_NUM_KEPT = 1000
# Chunks that are sent and not reported on yet.
_NUM_OPEN = 8


@dataclass(frozen=True)
class ChunkTimes:
    """One chunk, ms after its picture's stamp.

    Attributes:
        arrival: the picture came to policy_node.
        start, end: the policy began, and had its answer.
        sent: the chunk was published (with policy_delay: when that was over).
        taken: the guard's report came.
        effect: the first action that is due after that.
    """

    arrival: float
    start: float
    end: float
    sent: float
    taken: float = float("nan")
    effect: float = float("nan")


LEDGER_FIELDS = tuple(field.name for field in fields(ChunkTimes))


def ledger_rows(flat: Sequence[float]) -> tuple[tuple[float | None, ...], ...]:
    """What `ChunkLedger.take_new` gave, a row a chunk; None where nothing is known."""
    known = [value if np.isfinite(value) else None for value in flat]
    width = len(LEDGER_FIELDS)
    return tuple(tuple(known[at : at + width]) for at in range(0, len(known), width))


class ChunkLedger:
    """The chunks of one node; its owner's lock guards it."""

    def __init__(self, *, keeps_times: bool = True) -> None:
        """keeps_times: False where the stamps' clock does not run at the steady clock's pace (in
        lockstep, or another real_time_factor than 1): chunks are counted, their times left out."""
        self._keeps_times = keeps_times
        # By stamp: when the picture was taken, and what is known.
        self._open: dict[int, tuple[float, ChunkTimes]] = {}
        self._all: deque[ChunkTimes] = deque(maxlen=_NUM_KEPT)
        self._new: list[ChunkTimes] = []
        self.num_missed = 0

    def send(
        self, stamp_ns: int, picture_s: float, moments_s: tuple[float, float, float, float]
    ) -> None:
        """A chunk was sent. Monotonic seconds: when its picture was taken; when that arrived, and
        the policy began, had its answer and sent it."""
        arrival, start, end, sent = (1e3 * (moment_s - picture_s) for moment_s in moments_s)
        self._open[stamp_ns] = picture_s, ChunkTimes(arrival, start, end, sent)
        while len(self._open) > _NUM_OPEN:
            self._miss(next(iter(self._open)))

    def take(self, stamp_ns: int, now_s: float, executed_times_s: FloatArray) -> float | None:
        """The guard has reported on a chunk (monotonic seconds); earlier ones without a report are
        missed. The times [M] are those of the reported actions, after the stamp.

        Returns when the chunk was sent, monotonic seconds; None where it is not awaited.
        """
        if stamp_ns not in self._open:
            # Of an operator's chunk, or a later word on one that was reported.
            return None
        for earlier in [stamp for stamp in self._open if stamp < stamp_ns]:
            self._miss(earlier)
        picture_s, times = self._open.pop(stamp_ns)
        sent_s = picture_s + 1e-3 * times.sent
        if not self._keeps_times:
            return sent_s
        taken_ms = 1e3 * (now_s - picture_s)
        later = 1e3 * executed_times_s[1e3 * executed_times_s > taken_ms]
        effect = float(later[0]) if len(later) else float("nan")
        times = replace(times, taken=taken_ms, effect=effect)
        self._all.append(times)
        self._new.append(times)
        return sent_s

    def begin_episode(self) -> None:
        """A chunk that is still without a report will get none, and misses nothing by it."""
        self._open.clear()

    def take_new(self) -> tuple[float, ...]:
        """The chunks that were reported on since the last call: their LEDGER_FIELDS in a row."""
        new, self._new = self._new, []
        return tuple(value for times in new for value in astuple(times))

    def percentile_texts(self) -> Iterator[tuple[str, str]]:
        """(name, value) of the last thousand chunks, ms after the picture."""
        for name in ("sent", "taken", "effect"):
            values = np.array([getattr(times, name) for times in self._all])
            values = values[np.isfinite(values)]
            for percent in (50, 99, 99.9):
                text = f"{np.percentile(values, percent):.2f}" if len(values) else ""
                yield f"{name}_after_picture_ms_p{percent:g}", text

    def _miss(self, stamp_ns: int) -> None:
        del self._open[stamp_ns]
        self.num_missed += 1
