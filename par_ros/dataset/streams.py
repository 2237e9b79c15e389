# SPDX-License-Identifier: Apache-2.0
"""What a recording holds of an arm's episodes, and an episode of it in even steps.

Times are integer nanoseconds; T steps, J joints, gripper last.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_ros.dataset.moments import Moments
from par_ros.dataset.resampling import (
    NANOSECONDS,
    FloatArray,
    Intervals,
    Rules,
    Series,
    Targets,
    TimeArray,
    interpolated,
    newest_before,
    step_times,
)
from par_ros.wire_records import EpisodeMark


@dataclass(frozen=True)
class Span:
    """Where an episode lies.

    Attributes:
        is_open: its end was not marked.
        is_marked: False for a whole recording without marks.
    """

    begin_ns: int
    end_ns: int
    success: bool
    is_open: bool = False
    is_marked: bool = True


@dataclass(frozen=True)
class Corrections:
    """What an operator commanded, and when; what the policy wanted."""

    labels: Targets
    labelled: Intervals
    wanted: Targets


@dataclass(frozen=True)
class Streams:
    """One recording, without its pictures' pixels.

    Attributes:
        moments: when there is a picture of each view, in the order in which they were matched.
        unmatched: what is said of pictures that are in no moment; empty without any.
        joints: measured positions [N, J].
        executed: what the arm was commanded; None: to be at the next step's measured joints.
        asked: the labels where there are no corrections; None: what was executed.
        corrections: None unless an operator took the arm from a policy.
        spans: the episodes.
    """

    name: str
    moments: Moments
    unmatched: str
    joints: Series
    executed: Targets | None
    asked: Targets | None
    corrections: Corrections | None
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class PlannedEpisode:
    """An episode without its pictures' pixels.

    Attributes:
        begin_ns: of its first step.
        pictures: [T, V], number of each view's picture in the order in which they were written.
        measured, actions, executed: [T, J].
        is_labelled: bool [T], whether an operator commanded the action; None without corrections in
            the recording.
        wanted: [T, J], what the policy wanted; None as is_labelled.
        success: whether it ended in one.
    """

    begin_ns: int
    pictures: TimeArray
    measured: FloatArray
    actions: FloatArray
    executed: FloatArray
    is_labelled: npt.NDArray[np.bool_] | None
    wanted: FloatArray | None
    success: bool

    def teaches(self, num_actions: int) -> npt.NDArray[np.bool_]:
        """bool [T]: whether a chunk begins at the step all of whose actions an operator gave."""
        if self.is_labelled is None:
            return np.zeros(len(self.actions), np.bool_)
        others = np.append(0, np.cumsum(~self.is_labelled))
        begins = np.arange(len(self.actions))
        ends = (begins + num_actions).clip(max=len(self.actions))
        return self.is_labelled & (others[ends] == others[begins])


def spans_of(marks: Iterable[EpisodeMark], last_ns: int) -> tuple[Span, ...]:
    """Episodes from start to end mark; the last may go on until the recording's end."""
    spans: list[Span] = []
    begin_ns: int | None = None
    for mark in marks:
        if begin_ns is not None and mark.time_ns > begin_ns:
            spans.append(
                Span(begin_ns, mark.time_ns, mark.success and not mark.is_start, mark.is_start)
            )
        begin_ns = mark.time_ns if mark.is_start else None
    if begin_ns is not None and last_ns > begin_ns:
        spans.append(Span(begin_ns, last_ns, success=False, is_open=True))
    return tuple(spans)


def plan_episode(streams: Streams, span: Span, rules: Rules) -> PlannedEpisode:
    """Its steps. Raises ValueError for an episode that cannot be resampled, with the reason."""
    order = np.argsort(streams.moments.times_ns, kind="stable")
    shown_ns = streams.moments.times_ns[order]
    times_ns = _times(streams, shown_ns, span, rules)
    at_ns, due_ns = times_ns[:-1], times_ns[1:]
    joints, gap_ns = streams.joints, rules.max_gap_ns
    measured = interpolated(joints, at_ns, gap_ns, "joint states")
    executed = (
        interpolated(joints, due_ns, gap_ns, "joint states")
        if streams.executed is None
        else streams.executed.at(due_ns)
    )
    actions = executed if streams.asked is None else streams.asked.at(due_ns)
    is_labelled, wanted = None, None
    if streams.corrections is not None:
        corrections = streams.corrections
        is_labelled = corrections.labelled.hold(at_ns, due_ns)
        actions = np.where(is_labelled[:, None], corrections.labels.at(due_ns), executed)
        wanted = corrections.wanted.at(due_ns)
    what = "picture" if streams.moments.pictures.shape[1] == 1 else "pictures of all views"
    moments = order[newest_before(shown_ns, at_ns, gap_ns, what)]
    return PlannedEpisode(
        begin_ns=int(at_ns[0]),
        pictures=streams.moments.pictures[moments],
        measured=measured,
        actions=actions,
        executed=executed,
        is_labelled=is_labelled,
        wanted=wanted,
        success=span.success,
    )


def _times(streams: Streams, shown_ns: TimeArray, span: Span, rules: Rules) -> TimeArray:
    """[T + 1]: from the first picture on at which everything is known."""
    known_ns = max(span.begin_ns, int(streams.joints.times_ns[0]))
    for targets in (streams.executed, streams.asked):
        if targets is not None:
            known_ns = max(known_ns, targets.begin_ns)
    first = int(np.searchsorted(shown_ns, known_ns))
    if first == len(shown_ns):
        raise ValueError("no picture was taken while joint states and actions were known")
    last_ns = min(
        span.end_ns, int(streams.joints.times_ns[-1]), int(shown_ns[-1]) + rules.max_gap_ns
    )
    times_ns = step_times(int(shown_ns[first]), last_ns, rules.rate_hz)
    if len(times_ns) < 3:
        length_s = (last_ns - int(shown_ns[first])) / NANOSECONDS
        raise ValueError(
            f"pictures, joint states and actions are known together for {length_s:.3f} s, which is "
            f"less than two steps of {1 / rules.rate_hz:g} s; check their stamps"
        )
    if span.is_marked:
        _require_whole(streams, shown_ns, span, rules)
    return times_ns


def _require_whole(streams: Streams, shown_ns: TimeArray, span: Span, rules: Rules) -> None:
    """What is marked must be there: a camera that died on the way made no shorter episode."""
    for what, known_ns in (("pictures", shown_ns), ("joint states", streams.joints.times_ns)):
        late_s = (int(known_ns[0]) - span.begin_ns) / NANOSECONDS
        if late_s > rules.max_gap_s:
            raise ValueError(f"its {what} begin {late_s:.2f} s after its start")
        early_s = (span.end_ns - int(known_ns[-1])) / NANOSECONDS
        if early_s > rules.max_gap_s:
            raise ValueError(f"its {what} end {early_s:.2f} s before its end")
