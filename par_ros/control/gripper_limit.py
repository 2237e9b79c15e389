# SPDX-License-Identifier: Apache-2.0
"""The gripper's targets within its range, and no faster than it may go."""

import numpy as np

from par_ros.control.arm_spec import GripperSpec
from par_ros.control.joint_trajectory import FloatArray

# Rounding, relative to a step.
_TOLERANCE = 1e-9


def limited_targets(
    gripper: GripperSpec, wanted_m: FloatArray, before_m: float, step_s: float
) -> tuple[FloatArray, tuple[str, ...]]:
    """The targets [L] to send for `wanted_m` [L], `step_s` apart, and which limits those broke.

    before_m: the last target that was sent.
    """
    limited = np.clip(wanted_m, gripper.min_target_m, gripper.max_target_m)
    broken = ["position"] if np.any(limited != wanted_m) else []
    step = gripper.max_target_speed_m_s * step_s
    paced = np.empty_like(limited)
    for knot, target in enumerate(limited.tolist()):
        # Only a step that is too long is replaced: a + (b - a) is not b to the last bit.
        near = abs(target - before_m) <= step * (1 + _TOLERANCE)
        before_m = target if near else before_m + (step if target > before_m else -step)
        paced[knot] = before_m
    if np.any(paced != limited):
        broken.append("velocity")
    return paced, tuple(broken)
