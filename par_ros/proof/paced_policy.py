# SPDX-License-Identifier: Apache-2.0
"""policy_node with a checkpoint whose chunks are due faster than it was trained for. For the soak.

Nothing of the network's work changes: the same pictures, tokens and sampling steps; only the time
between two actions is `PAR_SOAK_PACE` times shorter. The loopback's picture is no scene, and on it
a policy runs into a joint limit within seconds and stays there. So that the guard has motions to
pass for hours, the arm swings about where it began, and the policy's own motion is added to that,
made smaller; the gripper is the policy's alone. With overlapped inference a chunk begins with the
committed actions and goes over to the swing.
"""

import dataclasses
import os
import sys

import numpy as np

from par_model.interface import ActionChunk, FloatArray, Observation, Policy, PolicySpec
from par_ros.policy_source import checkpoint_policy
from par_ros.process import run_node
from par_ros.proof.losses import LossyPolicyNode

PACE_VARIABLE = "PAR_SOAK_PACE"


_SWING_RAD = 0.15
_CHUNKS_PER_SWING = 8
_OWN_SHARE = 0.1
_SWING_S = 4.0
# Pictures so far apart are of two runs: those of warming up are stamped from 0 on.
_ANOTHER_RUN_S = 60.0


class PacedPolicy:
    """A Policy `pace` times faster than `policy`, about the pose in which it was reset."""

    def __init__(self, policy: Policy, pace: float) -> None:
        self._policy = policy
        self._pace = pace
        self._home: FloatArray | None = None
        self._before = np.zeros(0)
        self._num_chunks = 0
        # Overlapped inference: where and when the swing began, whatever is reset.
        self._begin: tuple[FloatArray, float] | None = None
        self._here, self._seen_s = np.zeros(0), 0.0
        self.backend = getattr(policy, "backend", "")

    @property
    def spec(self) -> PolicySpec:
        spec = self._policy.spec
        return dataclasses.replace(spec, step_s=spec.step_s / self._pace)

    def reset(self, instruction: str, seed: int) -> None:
        self._policy.reset(instruction, seed)
        self._home = None

    def observe(self, observation: Observation) -> None:
        if self._home is None:
            self._home = self._before = observation.measured_joint_positions
            self._num_chunks = 0
        elif observation.executed_actions is not None:
            self._before = observation.executed_actions[-1]
        now_s = observation.stamp_s
        if self._begin is None or abs(now_s - self._seen_s) > _ANOTHER_RUN_S:
            self._begin = observation.measured_joint_positions, now_s
        self._seen_s = now_s
        self._here = observation.measured_joint_positions
        self._policy.observe(observation)

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        chunk = self._policy.act(committed)
        if committed is not None:
            return self._overlapped(chunk, committed)
        assert self._home is not None
        self._num_chunks += 1
        phase = 2.0 * np.pi * self._num_chunks / _CHUNKS_PER_SWING
        goal = self._home + _SWING_RAD * np.sin(phase)
        # From rest to rest: at a fast pace the arm has come to rest when the next chunk is there.
        own = chunk.joint_positions
        share = 0.5 - 0.5 * np.cos(np.pi * np.arange(1, len(own) + 1) / len(own))
        knots = self._before + np.outer(share, goal - self._before) + _OWN_SHARE * (own - own[0])
        knots[:, -1] = own[:, -1]
        return dataclasses.replace(chunk, step_s=chunk.step_s / self._pace, joint_positions=knots)

    def _overlapped(self, chunk: ActionChunk, committed: FloatArray) -> ActionChunk:
        """From the committed actions at their last speed over to the swing."""
        assert self._begin is not None
        home, begin_s = self._begin
        own, num_given = chunk.joint_positions, len(committed)
        times_s = chunk.stamp_s - begin_s + chunk.step_s * np.arange(1, len(own) + 1)
        swing = home + _SWING_RAD * np.sin(2.0 * np.pi / _SWING_S * times_s)[:, None]
        goal = (swing + _OWN_SHARE * (own - own[0]))[num_given:]
        given = np.concatenate((np.repeat(self._here[None], 2, axis=0), committed))
        speed = given[-1] - given[-2]
        numbers = np.arange(1, len(goal) + 1)[:, None]
        share = numbers / len(goal)
        # Quintic: neither velocity nor acceleration jumps.
        share = share**3 * (10.0 - 15.0 * share + 6.0 * share**2)
        rest = (1.0 - share) * (given[-1] + speed * numbers) + share * goal
        knots = np.concatenate((committed, rest))
        knots[num_given:, -1] = own[num_given:, -1]
        return dataclasses.replace(chunk, joint_positions=knots)


def main() -> int:
    """The node's name is policy_node."""
    pace = float(os.environ.get(PACE_VARIABLE, "1"))
    return run_node(
        lambda: LossyPolicyNode(lambda parameters: PacedPolicy(checkpoint_policy(parameters), pace))
    )


if __name__ == "__main__":
    sys.exit(main())
