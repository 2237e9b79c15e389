# SPDX-License-Identifier: Apache-2.0
"""policy_node with a checkpoint whose chunks are due faster than it was trained for. For the soak.

Nothing of the network's work changes: the same pictures, tokens and sampling steps; only the time
between two actions is `PAR_SOAK_PACE` times shorter.
"""

import dataclasses
import os
import sys
from pathlib import Path

from par_model.interface import ActionChunk, Observation, Policy, PolicySpec
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_node import PolicyNode
from par_ros.process import run_node

PACE_VARIABLE = "PAR_SOAK_PACE"


class PacedPolicy:
    """A Policy `pace` times faster than `policy`."""

    def __init__(self, policy: Policy, pace: float) -> None:
        self._policy = policy
        self._pace = pace
        self.backend = getattr(policy, "backend", "")

    @property
    def spec(self) -> PolicySpec:
        spec = self._policy.spec
        return dataclasses.replace(spec, step_s=spec.step_s / self._pace)

    def reset(self, instruction: str, seed: int) -> None:
        self._policy.reset(instruction, seed)

    def observe(self, observation: Observation) -> None:
        self._policy.observe(observation)

    def act(self) -> ActionChunk:
        chunk = self._policy.act()
        return dataclasses.replace(chunk, step_s=chunk.step_s / self._pace)


def main() -> int:
    """The node's name is policy_node."""
    # Here, not above: only the process that loads a checkpoint needs torch.
    from par_model.load_policy import load_policy

    pace = float(os.environ.get(PACE_VARIABLE, "1"))

    def load(parameters: PolicyNodeParameters) -> Policy:
        policy = load_policy(
            Path(parameters.checkpoint),
            backend=parameters.backend,
            num_steps=parameters.num_steps,
            device=parameters.device,
        )
        return PacedPolicy(policy, pace)

    return run_node(lambda: PolicyNode(load))


if __name__ == "__main__":
    sys.exit(main())
