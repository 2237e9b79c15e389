# SPDX-License-Identifier: Apache-2.0
"""The installed executables. Each imports its node only when asked to: Ctrl-C may come before."""

import importlib

from par_ros.leaving import leave_at_once_when_asked


def _run(module: str) -> int:
    leave_at_once_when_asked()
    code: int = importlib.import_module(f"par_ros.{module}").main()
    return code


def policy_node() -> int:
    return _run("policy_node")


def safety_node() -> int:
    return _run("safety_node")


def maniskill_bridge_node() -> int:
    return _run("maniskill_bridge_node")


def loopback_arm_node() -> int:
    return _run("loopback_arm_node")


def real_arm_node() -> int:
    return _run("real_arm_node")


def gripper_adapter_node() -> int:
    return _run("gripper_adapter_node")


def episode_node() -> int:
    return _run("episode_node")


def fixed_chunk_node() -> int:
    return _run("fixed_chunk_node")


def recorder_node() -> int:
    return _run("recorder_node")


def viewer_node() -> int:
    return _run("viewer_node")
