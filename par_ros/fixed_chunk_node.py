# SPDX-License-Identifier: Apache-2.0
"""policy_node with a fixed policy: it moves the first joint to and fro, without end.

For timing and testing the graph without a checkpoint. Its chunks depend on the number of the
observation alone and on where the episode began, so a direct loop can compute the same ones.
"""

import math

import numpy as np

from par_model.interface import ActionChunk, FloatArray, Observation, PolicySpec
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import TASKS
from par_ros.control.guard_settings import GuardParameters
from par_ros.leaving import leave
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_node import PolicyNode
from par_ros.policy_source import chunk_form
from par_ros.process import run_node

IMAGE_SIZE = 128
# 0.05 rad; with steps of 0.05 s a period of 3.2 s, 0.1 rad/s and 0.2 rad/s2: well inside any arm's
# limits.
AMPLITUDE_RAD = 0.05
PERIOD_STEPS = 64
_CHUNK = GuardParameters()
# The chunks are for the Panda's joints.
PANDA_TASKS = tuple(task.name for task in TASKS.values() if task.robot == PANDA)


class FixedChunkPolicy:
    """A Policy that starts at rest where the first observation of an episode found the arm."""

    def __init__(
        self, num_actions: int = _CHUNK.num_actions, step_s: float = _CHUNK.step_s
    ) -> None:
        self._num_actions, self._step_s = num_actions, step_s
        self._start: FloatArray | None = None
        self._num_observations = 0
        self._stamp_s = 0.0

    @property
    def spec(self) -> PolicySpec:
        return PolicySpec(
            arm=PANDA.name,
            joint_names=PANDA.joint_names,
            image_height=IMAGE_SIZE,
            image_width=IMAGE_SIZE,
            num_actions=self._num_actions,
            step_s=self._step_s,
            instructions=tuple(TASKS[name].instruction for name in PANDA_TASKS),
        )

    def reset(self, instruction: str, seed: int) -> None:
        self.spec.require_instruction(instruction)
        self._start = None
        self._num_observations = 0

    def observe(self, observation: Observation) -> None:
        observation.validate(self.spec)
        if self._start is None:
            self._start = observation.measured_joint_positions.copy()
        self._num_observations += 1
        self._stamp_s = observation.stamp_s

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        if self._start is None:
            raise ValueError("the policy has seen no observation since its reset; observe first.")
        first_step = (self._num_observations - 1) * self._num_actions
        steps = first_step + np.arange(1, self._num_actions + 1)
        targets = np.tile(self._start, (self._num_actions, 1))
        targets[:, 0] += AMPLITUDE_RAD * (1 - np.cos(2 * math.pi * steps / PERIOD_STEPS)) / 2
        return ActionChunk(targets, PANDA.joint_names, self._step_s, self._stamp_s)


def _make_policy(parameters: PolicyNodeParameters) -> FixedChunkPolicy:
    return FixedChunkPolicy(*chunk_form(parameters))


def main() -> int:
    """The executable fixed_chunk_node; the node's name is policy_node, whose place it takes."""
    return run_node(lambda: PolicyNode(_make_policy))


if __name__ == "__main__":
    leave(main())
