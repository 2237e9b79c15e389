# SPDX-License-Identifier: Apache-2.0
"""Where one chunk took over from another in an episode, and how smooth the motion was."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from par_model.evaluation.smoothness import motion_figures
from par_ros.control.followed_actions import FollowedActions
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory

# Two numbers closer than this are the same command.
_SAME_COMMAND = 1e-9


def seam_steps(
    reports: Mapping[int, JointTrajectory], start_ns: int, step_s: float
) -> tuple[int, ...]:
    """Control steps, from 1, whose target is the first that a chunk changed.

    reports: what the guard said of each chunk, by its stamp [ns].
    """
    followed, seams = FollowedActions(), []
    for stamp_ns, report in sorted(reports.items()):
        times_ns = stamp_ns + np.round(report.times_s * NANOSECONDS).astype(np.int64)
        before = followed.at(times_ns)
        if before is not None:
            differs = np.abs(report.positions - before).max(axis=1) > _SAME_COMMAND
            if differs.any():
                due_s = (times_ns[int(np.argmax(differs))] - start_ns) / NANOSECONDS
                seams.append(round(due_s / step_s))
        followed.add(stamp_ns, report.times_s, report.positions)
    return tuple(seams)


def motion_of(targets: FloatArray, step_s: float, seams: tuple[int, ...]) -> dict[str, Any]:
    """smoothness.MotionFigures of the arm's targets [steps, J], gripper last, as plain values."""
    inside = [seam - 2 for seam in seams if 2 <= seam <= len(targets)]
    return dataclasses.asdict(motion_figures(targets[:, :-1], step_s, inside))
