# SPDX-License-Identifier: Apache-2.0
"""How badly an observation fits what was expected of it: numpy only.

Shapes: N image tokens, h w latent pixels, J joints of the arm, M executed actions, H W of a
picture.
"""

from dataclasses import dataclass

import numpy as np

from par_model.interface import FloatArray, Observation

ErrorArray = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Misfit:
    """What one observation says against what was expected of it.

    Attributes:
        frame_errors: float32 [N], how badly the frame head foretold each image token; 1 is what a
            head that knows nothing gets. None where a forward model judges the picture.
        forward_errors: float32 [h, w], how badly the forward model foretold each latent pixel;
            about 1 is as expected. None where there is no forward model.
        joints_off: how far a joint is outside of where it was and of where it was sent since, in
            standard deviations of that joint; that of the joint which is furthest off.
        still_motion: how far a joint moved while the picture stayed the same byte by byte, in the
            same unit; 0 where the picture changed.
        joint: name of the joint of joints_off.
    """

    frame_errors: ErrorArray | None
    forward_errors: ErrorArray | None
    joints_off: float
    still_motion: float
    joint: str = ""


def misfit(
    before: Observation,
    now: Observation,
    deviation: FloatArray,
    *,
    frame_errors: ErrorArray | None = None,
    forward_errors: ErrorArray | None = None,
) -> Misfit:
    """Of `now`, which follows `before`; one of the two errors is given.

    Args:
        deviation: float64 [J], of the joints (`Statistics.joint_deviation`).
    """
    off = joints_off(before, now, deviation)
    return Misfit(
        frame_errors,
        forward_errors,
        float(off.max()),
        still_motion(before, now, deviation),
        now.joint_names[int(off.argmax())],
    )


def joints_off(before: Observation, now: Observation, deviation: FloatArray) -> FloatArray:
    """Of each joint, float64 [J], see Misfit: what pushes, blocks or opens a joint against its
    targets counts, a joint that is only late does not."""
    known = [before.measured_joint_positions]
    if before.executed_actions is not None:
        # The arm may still be on its way there.
        known.append(before.executed_actions[-1])
    known.extend([] if now.executed_actions is None else now.executed_actions)
    joints = now.measured_joint_positions
    outside = np.maximum(np.min(known, axis=0) - joints, joints - np.max(known, axis=0))
    outside = outside.clip(min=0.0)
    return outside / deviation


def still_motion(before: Observation, now: Observation, deviation: FloatArray) -> float:
    """See Misfit."""
    if not np.array_equal(before.image, now.image):
        return 0.0
    moved = np.abs(now.measured_joint_positions - before.measured_joint_positions)
    return float((moved / deviation).max())
