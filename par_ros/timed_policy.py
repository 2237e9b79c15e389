# SPDX-License-Identifier: Apache-2.0
"""A Policy that keeps to a latency budget where it can: warmed up, asked, and measured."""

import time
from typing import Protocol, runtime_checkable

import numpy as np

from par_model.interface import (
    RECENT_IMAGES,
    ActionChunk,
    FloatArray,
    Observation,
    Policy,
)
from par_ros.control.latency_budget import LatencyBudget
from par_ros.drawn_pictures import draw, wanted_pictures
from par_ros.parameters import PolicyNodeParameters


@runtime_checkable
class AdjustableSampling(Protocol):
    """A policy that can answer in fewer sampling steps."""

    @property
    def sampling_steps(self) -> tuple[int, ...]:
        """The numbers of steps that it can, its own first."""

    def act(self, committed: FloatArray | None = None, num_steps: int | None = None) -> ActionChunk:
        """As Policy.act, in `num_steps` of them; None: its own."""


def clocks_agree(parameters: PolicyNodeParameters) -> bool:
    """Whether the node's clock runs at the pace of wall time."""
    return parameters.mode == "realtime" and parameters.real_time_factor == 1.0


def latency_budget(policy: Policy, parameters: PolicyNodeParameters) -> LatencyBudget:
    """Of the parameters; not set: with overlapped inference a control step less than the largest
    delay that the policy goes on from, else the largest age of a picture; none in lockstep."""
    if parameters.mode == "lockstep":
        return LatencyBudget(None)
    if parameters.latency_budget is not None:
        return LatencyBudget(parameters.latency_budget)
    if parameters.inference == "overlapped":
        return LatencyBudget((policy.spec.max_delay_steps - 1) * policy.spec.step_s)
    return LatencyBudget(parameters.max_image_age_s)


def act(policy: Policy, committed: FloatArray | None, num_steps: int | None) -> ActionChunk:
    """The policy's chunk in `num_steps`, None or one of its numbers."""
    if num_steps is not None and isinstance(policy, AdjustableSampling):
        return policy.act(committed, num_steps)
    return policy.act(committed)


def warm_up(policy: Policy, parameters: PolicyNodeParameters, budget: LatencyBudget) -> None:
    """Answer a grey picture a few times in each number of steps, so that the first real answer is
    not the slow one and the budget knows how long they take.

    Raises ValueError for an instruction that the policy does not know.
    """
    spec = policy.spec
    executed = np.zeros((spec.num_actions, len(spec.joint_names)))
    grey = np.full(spec.picture_shape, 128, dtype=np.uint8)
    on_the_way = np.stack([grey] * RECENT_IMAGES) if spec.observation_mode == "clip" else None
    committed = executed[: spec.max_delay_steps] if parameters.inference == "overlapped" else None
    numbers = policy.sampling_steps if isinstance(policy, AdjustableSampling) else ()
    policy.reset(parameters.instruction, parameters.policy_seed)
    for index, num_steps in enumerate((numbers or (None,)) * parameters.num_warm_up):
        started_s = time.monotonic()
        policy.observe(
            Observation(
                image=grey,
                measured_joint_positions=np.zeros(len(spec.joint_names)),
                joint_names=spec.joint_names,
                stamp_s=index * spec.num_actions * spec.step_s,
                executed_actions=executed if index > 0 else None,
                recent_images=on_the_way if index > 0 else None,
                views=spec.views,
            )
        )
        act(policy, committed, num_steps)
        if num_steps is not None:
            budget.warm_up(num_steps, time.monotonic() - started_s)
    is_waited_for = parameters.mode == "lockstep" or not parameters.num_warm_up
    if not is_waited_for:
        for kind in wanted_pictures(parameters):
            draw(policy, kind, budget)
