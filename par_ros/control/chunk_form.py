# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a chunk before any limit is looked at: joints, shape, times, NaN, jumps."""

from dataclasses import dataclass

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray

# A chunk's times may differ from the control step by what floats and messages round.
_TIME_TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class RequestedChunk:
    """What a policy asks for, as it came.

    Attributes:
        stamp_ns: stamp of the observation answered.
        joint_names: names of the columns.
        times_s: float64 [L], time_from_start of the points.
        positions: float64 [L, J + 1].
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray


@dataclass(frozen=True)
class Fault:
    """Why the guard stops and disengages: `kind` is one word for counters, `reason` a sentence."""

    kind: str
    reason: str


class ChunkForm:
    """What a chunk of one arm must look like: L knots `step_s` apart, J arm joints, the gripper."""

    def __init__(self, spec: ArmSpec, num_actions: int, step_s: float) -> None:
        self._spec = spec
        self._step_s = step_s
        self._times_s = step_s * np.arange(1, num_actions + 1)

    def check(self, chunk: RequestedChunk) -> Fault | None:
        """The part that needs no knowledge of the arm's position; NaN comes before any clamp."""
        return self._check_joints(chunk) or self._check_finite(chunk) or self._check_times(chunk)

    def check_jumps(
        self, arm: FloatArray, commanded: FloatArray, measured: FloatArray | None
    ) -> Fault | None:
        """Targets `arm` [L, J] against each other and against where the arm is commanded to be."""
        limit = self._spec.max_jump_rad
        steps = np.abs(np.diff(np.concatenate((commanded[None], arm)), axis=0))
        if np.any(steps > limit):
            knot, joint = divmod(int(np.argmax(steps)), steps.shape[1])
            return Fault(
                "jump",
                f"{self._spec.arm_joint_names[joint]} may move {limit:g} rad from one target to "
                f"the next, knot {knot + 1} asks for {steps[knot, joint]:.3g} rad; check the "
                "policy.",
            )
        if measured is None:
            return None
        # A soft arm lags behind its command: that much more than a step is still no jump.
        apart = np.abs(arm[0] - measured) - self._spec.max_tracking_error_rad
        if np.any(apart > limit):
            joint = int(np.argmax(apart))
            return Fault(
                "jump",
                f"{self._spec.arm_joint_names[joint]}'s first target lies "
                f"{abs(arm[0, joint] - measured[joint]):.3g} rad from the measured position, at "
                f"most {limit + self._spec.max_tracking_error_rad:g} rad is a motion; check the "
                "policy and joint_states.",
            )
        return None

    def _check_joints(self, chunk: RequestedChunk) -> Fault | None:
        expected = self._spec.joint_names
        if chunk.joint_names != expected:
            same = sorted(chunk.joint_names) == sorted(expected)
            return Fault(
                "joint_order" if same else "joints",
                f"a chunk's joints must be {list(expected)} in this order, got "
                f"{list(chunk.joint_names)}; check the checkpoint's arm and the arm file.",
            )
        shape = (len(self._times_s), len(expected))
        if chunk.positions.shape != shape or chunk.times_s.shape != shape[:1]:
            return Fault(
                "shape",
                f"a chunk must have {shape[0]} points of {shape[1]} positions, got shape "
                f"{chunk.positions.shape}; give the guard the checkpoint's "
                "num_actions.",
            )
        return None

    def _check_finite(self, chunk: RequestedChunk) -> Fault | None:
        finite = np.isfinite(chunk.positions)
        if np.all(finite) and np.all(np.isfinite(chunk.times_s)):
            return None
        joints = [
            name
            for name, good in zip(chunk.joint_names, finite.all(axis=0), strict=True)
            if not good
        ]
        return Fault(
            "not_finite",
            f"a chunk's numbers must be finite, got NaN or Inf for {joints or 'its times'}; check "
            "the policy.",
        )

    def _check_times(self, chunk: RequestedChunk) -> Fault | None:
        if np.any(np.abs(chunk.times_s - self._times_s) > _TIME_TOLERANCE_S):
            return Fault(
                "times",
                f"a chunk's points must be {self._step_s:g} s apart from {self._step_s:g} s on, "
                f"got times {np.round(chunk.times_s, 6).tolist()}; give the guard the "
                "checkpoint's step_s.",
            )
        return None
