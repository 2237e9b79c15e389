# SPDX-License-Identifier: Apache-2.0
"""The policy of policy_node's parameters, and whether it fits what else they say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from par_model.interface import Policy, PolicySpec
from par_model.peers.lerobot_folder import is_lerobot
from par_model.peers.lerobot_policy import load_lerobot_policy
from par_model.surprise import SurpriseCalibration
from par_ros.control.guard_settings import GuardParameters
from par_ros.drawn_pictures import PICTURE_KINDS, require_pictures, wanted_pictures
from par_ros.parameters import PolicyNodeParameters


def checkpoint_policy(parameters: PolicyNodeParameters) -> Policy:
    """Load the checkpoint, ours or LeRobot's. Raises ValueError as what loads it."""
    folder = Path(parameters.checkpoint)
    require_kind("policy_node", parameters.policy, folder)
    if is_lerobot(folder):
        unused = {name: getattr(parameters, name) for name in ("backend", "num_steps", "engines")}
        return load_lerobot_policy(folder, device=parameters.device, unused=unused)
    # Here, not above: only a process that loads a checkpoint needs torch.
    from par_model.load_policy import load_policy

    return load_policy(
        folder,
        backend=parameters.backend,
        num_steps=parameters.num_steps,
        device=parameters.device,
        engines=Path(parameters.engines) if parameters.engines else None,
    )


def require_kind(owner: str, policy: str, checkpoint: Path) -> None:
    """Raise ValueError where the checkpoint is of another kind than parameter `policy` says."""
    kind = "lerobot" if is_lerobot(checkpoint) else "par"
    if policy not in ("auto", kind):
        advice = (
            "python -m par_model.import_lerobot makes a folder of a LeRobot policy"
            if policy == "lerobot"
            else "use policy lerobot, or auto"
        )
        raise ValueError(
            f"{owner}: policy is {policy} and checkpoint {checkpoint} is of kind {kind}; {advice}."
        )


def chunk_form(parameters: PolicyNodeParameters) -> tuple[int, float]:
    """(num_actions, step_s) for a policy that has no checkpoint; not set: the guard's defaults."""
    guard = GuardParameters()
    num_actions, step_s = parameters.num_actions, parameters.step_s
    return (
        guard.num_actions if num_actions is None else num_actions,
        guard.step_s if step_s is None else step_s,
    )


def check_changes(
    policy: Policy | None, parameters: PolicyNodeParameters, changes: "list[Parameter[Any]]"
) -> SetParametersResult:
    """Refuse what the policy cannot do when it is set: the next episode would fail by it."""
    try:
        for change in changes:
            if policy is not None and change.name == "instruction":
                policy.spec.require_instruction(change.value)
                if parameters.surprise != "off":
                    SurpriseCalibration.read(Path(parameters.checkpoint)).of(change.value)
            elif policy is not None and change.name in PICTURE_KINDS and change.value:
                asked = replace(parameters, **{change.name: True})
                require_pictures(policy, asked)
                require_inference(policy.spec, asked)
    except ValueError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def require_inference(spec: PolicySpec, parameters: PolicyNodeParameters) -> None:
    """Raise ValueError where the policy or the mode does not allow the inference asked for."""
    is_delayed = parameters.policy_delay > 0.0 or parameters.delay_jitter > 0.0
    if is_delayed and parameters.mode != "realtime":
        raise ValueError(
            "policy_node: policy_delay and delay_jitter need mode realtime; in lockstep the clock "
            "stands until the chunk is sent."
        )
    if parameters.inference == "sequential":
        return
    if parameters.mode != "realtime":
        raise ValueError(
            "policy_node: inference overlapped needs mode realtime; in lockstep physics waits for "
            "the policy, so nothing overlaps."
        )
    for kind in wanted_pictures(parameters):
        raise ValueError(
            f"policy_node: {kind} keeps the policy from its next answer; with inference "
            "overlapped it must be false."
        )
    if spec.max_delay_steps == 0:
        raise ValueError(
            "policy_node: inference overlapped needs a policy that was trained to go on from "
            "committed actions, and this one was not (its max_delay_steps is 0); use inference "
            "sequential, or another checkpoint."
        )


def require_same_chunk(spec: PolicySpec, parameters: PolicyNodeParameters) -> None:
    """Raise ValueError where num_actions or step_s is set and the policy has another."""
    num_actions, step_s = parameters.num_actions, parameters.step_s
    if num_actions not in (None, spec.num_actions):
        _refuse("num_actions", f"{num_actions}", f"chunks of {spec.num_actions} actions")
    if step_s is not None and not math.isclose(step_s, spec.step_s):
        _refuse("step_s", f"{step_s:g} s", f"actions {spec.step_s:g} s apart")


def _refuse(name: str, given: str, has: str) -> None:
    raise ValueError(
        f"policy_node: {name} is {given} and the policy has {has}; give every node the "
        f"checkpoint's {name}, as the launch files do, or leave it out here."
    )
