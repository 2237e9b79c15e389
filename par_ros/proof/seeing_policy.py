# SPDX-License-Identifier: Apache-2.0
"""The real policy_node with a swing in the network's place. For the camera faults of the suite."""

import sys

import numpy as np

from par_model.interface import ActionChunk, FloatArray, Observation, PolicySpec
from par_ros.control.arm_spec import ArmSpec
from par_ros.parameters import PolicyNodeParameters, read_arm_spec
from par_ros.policy_node import PolicyNode
from par_ros.process import run_node
from par_ros.proof.scripted_camera import IMAGE_SIZE
from par_ros.proof.scripted_policy import CHUNK_S, KNOT_TIMES_S, Swing

INSTRUCTION = "swing"
_STANDING_RAD = 1e-5


class SwingPolicy:
    """A Policy that swings from where the arm last stood still."""

    def __init__(self, spec: ArmSpec) -> None:
        self._arm = spec
        self._swing: Swing | None = None
        self._num_chunks = 0
        self._stamp_s = 0.0
        self._measured: FloatArray | None = None

    @property
    def spec(self) -> PolicySpec:
        return PolicySpec(
            arm=self._arm.name,
            joint_names=self._arm.joint_names,
            image_height=IMAGE_SIZE,
            image_width=IMAGE_SIZE,
            num_actions=len(KNOT_TIMES_S),
            step_s=float(KNOT_TIMES_S[0]),
            instructions=(INSTRUCTION,),
        )

    def reset(self, instruction: str, seed: int) -> None:
        self._swing = None
        self._num_chunks = 0

    def observe(self, observation: Observation) -> None:
        observation.validate(self.spec)
        self._stamp_s = observation.stamp_s
        measured = observation.measured_joint_positions
        before, self._measured = self._measured, measured
        if before is not None and np.abs(measured - before).max() < _STANDING_RAD:
            # Held: what the swing would be at by now is nowhere near.
            self._swing = None
        if self._swing is None:
            self._num_chunks = 0
            self._swing = Swing(measured[:-1], self._arm.home, float(measured[-1]))

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        assert self._swing is not None
        knots = self._swing.knots(CHUNK_S * self._num_chunks)
        self._num_chunks += 1
        return ActionChunk(
            np.asarray(knots, dtype=np.float64),
            self._arm.joint_names,
            float(KNOT_TIMES_S[0]),
            self._stamp_s,
        )


def _make_policy(parameters: PolicyNodeParameters) -> SwingPolicy:
    return SwingPolicy(read_arm_spec("panda"))


def main() -> int:
    """The node's name is policy_node."""
    return run_node(lambda: PolicyNode(_make_policy))


if __name__ == "__main__":
    sys.exit(main())
