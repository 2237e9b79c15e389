# SPDX-License-Identifier: Apache-2.0
"""From stamped messages to even steps, by the rules of docs/reference/recorded_data.md.

Times are integer nanoseconds; T steps, J joints, gripper last. What cannot be resampled raises
ValueError with the reason.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
TimeArray = npt.NDArray[np.int64]
NANOSECONDS = 1_000_000_000
# Stamps of one topic may go back this far: messages that overtook each other.
_MAX_REORDERED_NS = 100_000_000


@dataclass(frozen=True)
class Rules:
    """How steps are made: `rate_hz` of them a second, over gaps of at most `max_gap_s`."""

    rate_hz: int
    max_gap_s: float

    @property
    def max_gap_ns(self) -> int:
        return round(self.max_gap_s * NANOSECONDS)


@dataclass(frozen=True)
class Series:
    """Values [N, D] at increasing times [N]."""

    times_ns: TimeArray
    values: FloatArray


def series(times_ns: list[int], values: list[FloatArray], what: str) -> Series:
    """In the order of the stamps; of equal ones the last. Raises ValueError without any, and for
    stamps that go back further than messages overtake each other."""
    times = _require_forward(times_ns, what)
    order = np.argsort(times, kind="stable")
    return _last_of_equal(times[order], np.stack(values)[order])


def _last_of_equal(times_ns: TimeArray, values: FloatArray) -> Series:
    last = np.append(np.diff(times_ns) > 0, True)
    return Series(times_ns[last], values[last])


def _require_forward(times_ns: list[int], what: str) -> TimeArray:
    if not times_ns:
        raise ValueError(f"nothing was recorded of {what}; check the topic")
    times = np.array(times_ns, np.int64)
    back_ns = int((np.maximum.accumulate(times) - times).max())
    if back_ns > _MAX_REORDERED_NS:
        raise ValueError(
            f"stamps of {what} go back by {back_ns / NANOSECONDS:.3f} s; a clock was set back, "
            "record again"
        )
    return times


def step_times(begin_ns: int, end_ns: int, rate_hz: int) -> TimeArray:
    """[T + 1]: when each step begins, and the last one's end; all within begin and end."""
    num_steps = (end_ns - begin_ns) * rate_hz // NANOSECONDS
    return begin_ns + np.arange(num_steps + 1, dtype=np.int64) * NANOSECONDS // rate_hz


def newest_before(known_ns: TimeArray, at_ns: TimeArray, max_gap_ns: int, what: str) -> TimeArray:
    """Index of the newest of the increasing `known_ns` at or before each time, at most a gap
    older."""
    found = np.searchsorted(known_ns, at_ns, side="right") - 1
    ages_ns = np.where(found < 0, max_gap_ns + 1, at_ns - known_ns[found.clip(min=0)])
    _require_no_gap(ages_ns, at_ns, max_gap_ns, what)
    return found


def interpolated(known: Series, at_ns: TimeArray, max_gap_ns: int, what: str) -> FloatArray:
    """[T, D]: linear between the two neighbours, which lie at most a gap apart."""
    after = np.searchsorted(known.times_ns, at_ns, side="left").clip(max=len(known.times_ns) - 1)
    is_known = known.times_ns[after] == at_ns
    before = np.where(is_known, after, after - 1).clip(min=0)
    inside = (known.times_ns[before] <= at_ns) & (known.times_ns[after] >= at_ns)
    gaps_ns = np.where(inside, known.times_ns[after] - known.times_ns[before], max_gap_ns + 1)
    _require_no_gap(gaps_ns, at_ns, max_gap_ns, what)
    origin_ns = at_ns[0]
    return np.stack(
        [
            np.interp(at_ns - origin_ns, known.times_ns - origin_ns, column)
            for column in known.values.T
        ],
        axis=1,
    )


def _require_no_gap(gaps_ns: TimeArray, at_ns: TimeArray, max_gap_ns: int, what: str) -> None:
    wide = np.flatnonzero(gaps_ns > max_gap_ns)
    if len(wide):
        at_s = (at_ns[wide[0]] - at_ns[0]) / NANOSECONDS
        raise ValueError(
            f"no {what} for more than {max_gap_ns / NANOSECONDS:g} s, {at_s:.2f} s after its "
            "beginning"
        )


class Targets(Protocol):
    """Joint targets over time."""

    @property
    def begin_ns(self) -> int:
        """The first time at which all joints have one."""
        ...

    def at(self, times_ns: TimeArray) -> FloatArray:
        """[T, J]: what is commanded at these times."""
        ...


class HeldTargets:
    """Each target holds until the next; joints may be commanded by several topics."""

    def __init__(self, times_ns: list[int], values: list[FloatArray], what: str) -> None:
        """values: [J], NaN for joints that a message does not command. Raises ValueError as
        series(), and for joints that are never commanded."""
        times = _require_forward(times_ns, what)
        order = np.argsort(times, kind="stable")
        held = np.stack(values)[order]
        for row in range(1, len(held)):
            held[row] = np.where(np.isnan(held[row]), held[row - 1], held[row])
        whole = ~np.isnan(held).any(axis=1)
        if not whole.any():
            raise ValueError(f"{what} never came for all joints; check the joints' names")
        self._series = _last_of_equal(times[order][whole], held[whole])

    @property
    def begin_ns(self) -> int:
        return int(self._series.times_ns[0])

    def at(self, times_ns: TimeArray) -> FloatArray:
        found = np.searchsorted(self._series.times_ns, times_ns, side="right") - 1
        return self._series.values[found.clip(min=0)]


class PlannedTargets:
    """Plans of several knots, each of which replaces what was planned from its first knot on.

    Linear between knots; the last one holds until a later plan's beginning, a step before its first
    knot.
    """

    def __init__(self, plans: list[Series], step_ns: int, what: str) -> None:
        """plans: in the order in which they came. Raises ValueError without any."""
        if not plans:
            raise ValueError(f"nothing was recorded of {what}; check the topic")
        times: list[int] = []
        values: list[FloatArray] = []
        for plan in plans:
            first_ns = int(plan.times_ns[0])
            while times and times[-1] >= first_ns:
                times.pop()
                values.pop()
            if times and first_ns - times[-1] > 1.5 * step_ns:
                times.append(first_ns - step_ns)
                values.append(values[-1])
            times += plan.times_ns.tolist()
            values += list(plan.values)
        self._series = Series(np.array(times, np.int64), np.stack(values))
        self._step_ns = step_ns

    @property
    def begin_ns(self) -> int:
        return int(self._series.times_ns[0]) - self._step_ns

    def at(self, times_ns: TimeArray) -> FloatArray:
        origin_ns = self._series.times_ns[0]
        known_ns = self._series.times_ns - origin_ns
        columns = self._series.values.T
        return np.stack(
            [np.interp(times_ns - origin_ns, known_ns, column) for column in columns], axis=1
        )


@dataclass(frozen=True)
class Intervals:
    """Stretches of time from begins [N] to ends [N]; those that touch are one."""

    begins_ns: TimeArray
    ends_ns: TimeArray

    def joined(self) -> "Intervals":
        """Apart from each other, in order."""
        if not len(self.begins_ns):
            return self
        order = np.argsort(self.begins_ns, kind="stable")
        begins, ends = self.begins_ns[order], np.maximum.accumulate(self.ends_ns[order])
        is_new = np.append(True, begins[1:] > ends[:-1])
        is_last = np.append(is_new[1:], True)
        return Intervals(begins[is_new], ends[is_last])

    def within(self, other: "Intervals") -> "Intervals":
        """What lies in both."""
        ours, theirs = self.joined(), other.joined()
        begins = np.maximum(ours.begins_ns[:, None], theirs.begins_ns[None]).ravel()
        ends = np.minimum(ours.ends_ns[:, None], theirs.ends_ns[None]).ravel()
        return Intervals(begins[begins < ends], ends[begins < ends])

    def hold(self, from_ns: TimeArray, to_ns: TimeArray) -> npt.NDArray[np.bool_]:
        """bool [T]: whether one stretch holds all from `from_ns` to `to_ns`."""
        apart = self.joined()
        if not len(apart.begins_ns):
            return np.zeros(len(from_ns), np.bool_)
        found = np.searchsorted(apart.begins_ns, from_ns, side="right") - 1
        return (found >= 0) & (to_ns <= apart.ends_ns[found.clip(min=0)])
