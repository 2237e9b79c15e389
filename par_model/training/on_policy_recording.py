# SPDX-License-Identifier: Apache-2.0
"""Episodes in which a policy acts and the task's expert labels (DAgger, arXiv 1011.0686)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from par_model.checkpoint import read_config
from par_model.depth_view import require_depth_views
from par_model.evaluation.labelled_episodes import (
    PolicyActs,
    disturb_start,
    run_labelled_episode,
)
from par_model.evaluation.result_file import checkpoint_hash
from par_model.evaluation.rollouts import Rollout, load_rollout_policy, warm_up
from par_model.interface import Policy, require_views
from par_model.simulation.demonstrations import FailedDemonstration
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.training.expert_recording import expert_of, recorded, require_expert
from par_model.training.staged_episodes import Episode
from par_model.weights_hash import weights_hash

_DISTURBED_STREAM = 20_261_127


@dataclass(frozen=True)
class OnPolicySettings:
    """Who acts, and from where.

    Attributes:
        checkpoint: folder of the policy's checkpoint.
        max_steps: length of an episode at most, control steps.
        disturbed_starts: part of the seeds that start somewhere on the way, 0 to 1.
    """

    checkpoint: Path
    max_steps: int = 200
    disturbed_starts: float = 0.0

    def validate(self, task_name: str) -> None:
        """Raise ValueError for what cannot be recorded."""
        require_expert(task_name)
        checkpoint_hash(self.checkpoint)
        if not 0.0 <= self.disturbed_starts <= 1.0 or self.max_steps < 1:
            raise ValueError(
                "the share of disturbed starts must lie in 0 to 1 and the number of steps be at "
                f"least 1, got {self.disturbed_starts} and {self.max_steps}."
            )

    def described(self) -> dict[str, Any]:
        """What the episodes depend on, as JSON values."""
        config = read_config(self.checkpoint)
        sampling = config.sampling
        return {
            "policy": self.checkpoint.resolve().name,
            "policy_weights_sha256": weights_hash(self.checkpoint),
            "policy_sampler": sampling.action_sampler,
            "policy_num_steps": sampling.action_num_steps,
            "policy_spacing": config.action_diffusion.spacing,
            "policy_context_slots": sampling.context_slots,
            "max_steps": self.max_steps,
            "disturbed_starts": self.disturbed_starts,
        }


def record_on_policy(arm: ManiSkillArm, seed: int, settings: OnPolicySettings) -> Episode:
    """The policy's episode of a seed with the expert's labels.

    Raises:
        FailedDemonstration: no label of it teaches.
        ValueError: the policy does not fit the arm.
    """
    policy = _policy(settings.checkpoint)
    _require_fit(policy, arm)
    expert = expert_of(arm)
    generator = np.random.default_rng([seed, _DISTURBED_STREAM])
    disturbed = bool(generator.random() < settings.disturbed_starts)
    num_actions = policy.spec.num_actions
    if disturbed:
        disturb_start(arm, expert, seed, num_actions)
    else:
        arm.reset(seed)
        expert.reset()
    actor = PolicyActs(arm, policy, seed)
    done = run_labelled_episode(arm, expert, actor, num_actions, settings.max_steps)
    if not done.teaches.any():
        raise FailedDemonstration("the policy came into no state whose label teaches")
    return recorded(arm, done, done.teaches, seed=seed, noisy=disturbed)


def _require_fit(policy: Policy, arm: ManiSkillArm) -> None:
    spec = policy.spec
    if spec.observation_mode != "image" or spec.image_height != arm.image_size:
        raise ValueError(
            f"the policy takes {spec.observation_mode}s of {spec.image_height} pixels and the "
            f"recording has pictures of {arm.image_size}; give --image-size {spec.image_height} "
            "and a policy that takes single pictures."
        )
    require_views("the recording (--views)", arm.views, spec.views)
    require_depth_views("the recording (--views)", arm.depth_views, spec.depth_views)


# A worker keeps its policy.
_policies: dict[Path, Policy] = {}


def _policy(checkpoint: Path) -> Policy:
    if checkpoint not in _policies:
        rollout = Rollout(str(checkpoint), "", 0, 0, 1, None, None, False, backend="eager")
        _policies[checkpoint] = load_rollout_policy(rollout)
        warm_up(_policies[checkpoint])
    return _policies[checkpoint]
