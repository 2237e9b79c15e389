# SPDX-License-Identifier: Apache-2.0
"""Where one chunk took over from another in an episode, how smooth the motion was, and how far the
chunks were beyond the arm's limits before the guard."""

from collections.abc import Collection, Mapping

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

# Two numbers closer than this are the same command.
_SAME_COMMAND = 1e-9


def seam_steps(
    reports: Mapping[int, JointTrajectory], start_ns: int, step_s: float
) -> tuple[int, ...]:
    """Control steps, from 1, whose target is the first that a chunk changed.

    reports: what the guard said of each chunk, by its stamp [ns].
    """
    steps = []
    for stamp_ns, row in _first_changed(reports).items():
        due_s = reports[stamp_ns].times_s[row] + (stamp_ns - start_ns) / NANOSECONDS
        steps.append(round(due_s / step_s))
    return tuple(steps[1:])


def motion_of(targets: FloatArray, step_s: float, seams: tuple[int, ...]) -> MotionFigures:
    """Figures of the arm's targets [steps, J], gripper last."""
    inside = [seam - 2 for seam in seams if 2 <= seam <= len(targets)]
    return motion_figures(targets[:, :-1], step_s, inside)


def asked_shares(
    asked: Mapping[int, JointTrajectory],
    reports: Mapping[int, JointTrajectory],
    held: Collection[int],
    applied: FloatArray,
    start_ns: int,
    limits: MotionLimits,
) -> tuple[LimitShares, ...]:
    """Of each chunk that the guard reported on, as the policy asked for it and from where it took
    over, or would have, behind what the arm was commanded until then.

    Chunks that would have taken over behind the episode's last step are left out. Before its first
    step the arm is taken to stand at the first step's target.

    Args:
        asked, reports: by stamp [ns]; columns of the same joints, gripper last.
        held: stamps of chunks that were not followed.
        applied: [steps, J + 1], what the simulator was given at each control step.
    """
    first_changed = _first_changed(reports)
    before = np.concatenate((np.repeat(applied[:1], NUM_BEFORE, axis=0), applied))[:, :-1]
    shares = []
    for stamp_ns, report in sorted(reports.items()):
        chunk = asked.get(stamp_ns)
        if chunk is None:
            continue
        step_s, num_actions = float(chunk.times_s[0]), len(chunk.times_s)
        # Overlapped inference: timed from the picture, and the report goes on behind the chunk.
        is_timed_from_picture = len(report.times_s) > num_actions
        times_s = chunk.times_s if is_timed_from_picture else report.times_s
        row = first_changed.get(stamp_ns, num_actions)
        if stamp_ns in held:
            row = int(np.searchsorted(times_s, report.times_s[0] - step_s / 2))
        if row >= num_actions:
            continue
        due_s = times_s[row] + (stamp_ns - start_ns) / NANOSECONDS
        step = round(due_s / step_s)
        if not 1 <= step <= len(applied):
            continue
        line = np.concatenate((before[step - 1 :][:NUM_BEFORE], chunk.positions[row:, :-1]))
        shares.append(limit_shares(line, step_s, limits))
    return tuple(shares)


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
