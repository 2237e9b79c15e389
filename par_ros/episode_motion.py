# SPDX-License-Identifier: Apache-2.0
"""Where one chunk took over from another in an episode, how smooth the motion was, what the guard
changed, and how far the chunks were beyond the arm's limits before the guard.

Control steps are numbered from 1, as the episode counts them: step k is due k steps after
`begin_ns`, when the first of them began.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_model.evaluation.limit_shares import (
    NUM_BEFORE,
    LimitShares,
    MotionLimits,
    limit_shares,
)
from par_model.evaluation.smoothness import MotionFigures, motion_figures
from par_ros.control.followed_actions import FollowedActions, Report
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.run_results import GuardChange

# Two numbers closer than this are the same command.
_SAME_COMMAND = 1e-9


@dataclass(frozen=True)
class _Reported:
    """A chunk that the guard reported on.

    Attributes:
        chunk: as the policy asked for it, L actions.
        report: what was sent, from its first time on.
        steps: int [L], the control step of each action; below 1 before steps are counted.
        first_action: the one that takes over, or would have; L where none does.
        is_timed_from_picture: overlapped inference: until the chunk takes over its actions are
            those of the motion before, and the report goes on behind them.
    """

    chunk: JointTrajectory
    report: JointTrajectory
    steps: npt.NDArray[np.int64]
    first_action: int
    is_timed_from_picture: bool


def seam_steps(
    reports: Mapping[int, JointTrajectory], begin_ns: int, step_s: float
) -> tuple[int, ...]:
    """Control steps whose target is the first that a chunk changed.

    reports: what the guard said of each chunk, by its stamp [ns].
    """
    steps = []
    for stamp_ns, row in _first_changed(reports).items():
        due_s = reports[stamp_ns].times_s[row] + (stamp_ns - begin_ns) / NANOSECONDS
        steps.append(round(due_s / step_s))
    return tuple(steps[1:])


def motion_of(targets: FloatArray, step_s: float, seams: tuple[int, ...]) -> MotionFigures:
    """Figures of the arm's targets [steps, J], gripper last."""
    inside = [seam - 2 for seam in seams if 2 <= seam <= len(targets)]
    return motion_figures(targets[:, :-1], step_s, inside)


def guard_changes(
    asked: Mapping[int, JointTrajectory],
    reports: Mapping[int, JointTrajectory],
    held: Collection[int],
    num_steps: int,
    begin_ns: int,
) -> tuple[GuardChange, ...]:
    """Every number of the chunks that was sent otherwise than asked, in the episode's steps.

    asked, reports, held: as asked_shares() takes them.
    """
    changes = []
    for one in _reported(asked, reports, held, begin_ns):
        first = one.first_action if one.is_timed_from_picture else 0
        sent = _at_times_of(one)
        for row, column in np.argwhere(np.abs(sent - one.chunk.positions) > _SAME_COMMAND):
            if row >= first and 1 <= one.steps[row] <= num_steps:
                changes.append(
                    GuardChange(
                        step=int(one.steps[row]),
                        joint=one.chunk.joint_names[column],
                        asked=float(one.chunk.positions[row, column]),
                        sent=float(sent[row, column]),
                    )
                )
    return tuple(changes)


def asked_shares(
    asked: Mapping[int, JointTrajectory],
    reports: Mapping[int, JointTrajectory],
    held: Collection[int],
    applied: FloatArray,
    begin_ns: int,
    limits: MotionLimits,
) -> tuple[LimitShares, ...]:
    """Of each chunk that the guard reported on, as the policy asked for it and from where it took
    over, or would have, behind what the arm was commanded until then.

    Chunks that would have taken over behind the episode's last step are left out; of one that took
    over before the first step that counts, the actions from that step on are looked at. Before its
    first step the arm is taken to stand at the first step's target.

    Args:
        asked, reports: by stamp [ns]; columns of the same joints, gripper last.
        held: stamps of chunks that were not followed.
        applied: [steps, J + 1], what the simulator was given at each control step.
    """
    before = np.concatenate((np.repeat(applied[:1], NUM_BEFORE, axis=0), applied))[:, :-1]
    shares = []
    for one in _reported(asked, reports, held, begin_ns):
        row = max(one.first_action, int(np.searchsorted(one.steps, 1)))
        if row >= len(one.steps) or one.steps[row] > len(applied):
            continue
        joined = before[one.steps[row] - 1 :][:NUM_BEFORE], one.chunk.positions[row:, :-1]
        shares.append(limit_shares(np.concatenate(joined), float(one.chunk.times_s[0]), limits))
    return tuple(shares)


def _reported(
    asked: Mapping[int, JointTrajectory],
    reports: Mapping[int, JointTrajectory],
    held: Collection[int],
    begin_ns: int,
) -> Iterator[_Reported]:
    """The chunks that the guard reported on, in the order of their stamps [ns]."""
    first_changed = _first_changed(reports)
    for stamp_ns, report in sorted(reports.items()):
        chunk = asked.get(stamp_ns)
        if chunk is None:
            continue
        step_s, num_actions = float(chunk.times_s[0]), len(chunk.times_s)
        is_timed_from_picture = len(report.times_s) > num_actions
        times_s = chunk.times_s if is_timed_from_picture else report.times_s
        first_action = first_changed.get(stamp_ns, num_actions)
        if stamp_ns in held:
            first_action = int(np.searchsorted(times_s, report.times_s[0] - step_s / 2))
        due_s = times_s + (stamp_ns - begin_ns) / NANOSECONDS
        steps = np.round(due_s / step_s).astype(np.int64)
        yield _Reported(chunk, report, steps, first_action, is_timed_from_picture)


def _at_times_of(one: _Reported) -> FloatArray:
    """[L, J + 1]: what was sent for each action of the chunk; before the report begins, as asked.
    The report of a chunk that was held begins with the hold."""
    if not one.is_timed_from_picture:
        return one.report.positions
    chunk, report = one.chunk, one.report
    first_row = round((report.times_s[0] - chunk.times_s[0]) / chunk.times_s[0])
    rows = np.arange(len(chunk.positions)) - first_row
    is_told = (rows >= 0) & (rows < len(report.positions))
    sent = chunk.positions.copy()
    sent[is_told] = report.positions[rows[is_told]]
    return sent


def _first_changed(reports: Mapping[int, JointTrajectory]) -> dict[int, int]:
    """By stamp, the first row of each report that differs from what was to be followed before; 0
    for the first report; none where nothing differs."""
    followed, rows = FollowedActions(), {}
    for stamp_ns, report in sorted(reports.items()):
        before = followed.at(_times_ns(stamp_ns, report))
        if before is None:
            rows[stamp_ns] = 0
        else:
            differs = np.abs(report.positions - before).max(axis=1) > _SAME_COMMAND
            if differs.any():
                rows[stamp_ns] = int(np.argmax(differs))
        followed.add(Report.of(stamp_ns, report.times_s, report.positions))
    return rows


def _times_ns(stamp_ns: int, report: JointTrajectory) -> npt.NDArray[np.int64]:
    return stamp_ns + np.round(report.times_s * NANOSECONDS).astype(np.int64)
