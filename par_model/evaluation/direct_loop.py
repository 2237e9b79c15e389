# SPDX-License-Identifier: Apache-2.0
"""One episode without ROS: observe, act, a chunk of control steps, and again.

The lockstep graph of par_ros commands the same joint targets step by step: row l of a chunk is the
target of the chunk's l-th control step, as float64, unchanged.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from par_model.interface import (
    RECENT_IMAGE_STRIDE,
    FloatArray,
    ImageArray,
    Observation,
    Policy,
    PolicySpec,
)
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.task import Task

Arm = TypeVar("Arm", bound=ManiSkillArm)


# The default is an Arm where no kind is given; mypy knows no default of a type variable.
def arm_for(task: Task | str, spec: PolicySpec, kind: type[Arm] = ManiSkillArm) -> Arm:  # type: ignore[assignment]
    """The arm as a policy needs it: its views in its size, control steps of its duration."""
    return kind(
        task,
        image_size=spec.image_height,
        step_s=spec.step_s,
        views=spec.views,
        depth_views=spec.depth_views,
    )


class EpisodeWatcher(Protocol):
    """Looks on while an episode runs: to measure the scene, or to keep pictures."""

    def started(self) -> None:
        """Arm and policy are reset; nothing was observed yet."""

    def chunk_chosen(self) -> None:
        """The policy has observed and acted; the chunk is not executed yet."""

    def stepped(self) -> None:
        """One control step was made."""


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode.

    Attributes:
        seed: the simulator's reset seed.
        policy_seed: the seed of the policy's sampling.
        success: whether the task's condition held at any step (the episode ends there).
        joint_targets: float64 [steps, J], what the arm was commanded, in order.
        chunk_latencies_s: float64 [chunks], wall time of observe and act together.
    """

    seed: int
    policy_seed: int
    success: bool
    joint_targets: FloatArray
    chunk_latencies_s: FloatArray

    @property
    def num_steps(self) -> int:
        return len(self.joint_targets)


def run_episode(
    arm: ManiSkillArm,
    policy: Policy,
    seed: int,
    max_steps: int,
    *,
    policy_seed: int = 0,
    watchers: Sequence[EpisodeWatcher] = (),
) -> EpisodeResult:
    """Reset arm and policy, then act until the first success or for `max_steps` control steps.

    Watchers are called in order; their time is no part of the latencies.

    Raises ValueError if arm and policy do not fit (joints, image size, control rate, instruction).
    """
    require_same_rate(arm, policy)
    arm.reset(seed)
    policy.reset(arm.task.instruction, policy_seed)
    joint_targets: list[FloatArray] = []
    latencies_s: list[float] = []
    executed_actions: FloatArray | None = None
    seen: list[ImageArray] = []
    success = False
    for watcher in watchers:
        watcher.started()
    while not success and len(joint_targets) < max_steps:
        stamp_s = len(joint_targets) * arm.step_s
        observation = _observe(arm, stamp_s, executed_actions, seen)
        start_s = time.perf_counter()
        policy.observe(observation)
        chunk = policy.act()
        latencies_s.append(time.perf_counter() - start_s)
        chunk.validate(policy.spec)
        executed_actions, seen = chunk.joint_positions, []
        for watcher in watchers:
            watcher.chunk_chosen()
        for target in chunk.joint_positions[: max_steps - len(joint_targets)]:
            joint_targets.append(np.array(target, dtype=np.float64))
            success = arm.step(target).success
            for watcher in watchers:
                watcher.stepped()
            if success:
                break
            if policy.spec.observation_mode == "clip" and (
                len(joint_targets) % RECENT_IMAGE_STRIDE == 0
            ):
                seen.append(arm.capture())
    return EpisodeResult(
        seed=seed,
        policy_seed=policy_seed,
        success=success,
        joint_targets=np.stack(joint_targets),
        chunk_latencies_s=np.array(latencies_s),
    )


def _observe(
    arm: ManiSkillArm, stamp_s: float, executed_actions: FloatArray | None, seen: list[ImageArray]
) -> Observation:
    """`seen` are the pictures since the previous observation, which clip mode reads."""
    return Observation(
        image=seen[-1] if seen else arm.capture(),
        views=arm.views,
        measured_joint_positions=arm.read_joints()[0],
        joint_names=arm.joint_names,
        stamp_s=stamp_s,
        executed_actions=executed_actions,
        recent_images=np.stack(seen) if seen else None,
    )


def require_same_rate(arm: ManiSkillArm, policy: Policy) -> None:
    """Raise ValueError where the policy acts at another rate than the simulator."""
    if policy.spec.step_s != arm.step_s:
        raise ValueError(
            f"the policy acts every {policy.spec.step_s} s and the simulator every "
            f"{arm.step_s} s; make the arm with the policy's step_s."
        )
