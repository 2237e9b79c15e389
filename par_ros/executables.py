# SPDX-License-Identifier: Apache-2.0
"""The installed executables. Each imports its node only when asked to: Ctrl-C may come before."""

import importlib
from typing import NoReturn

from par_ros.leaving import leave, leave_at_once_when_asked


def _run(module: str) -> NoReturn:
    leave_at_once_when_asked()
    leave(importlib.import_module(f"par_ros.{module}").main())


def policy_node() -> NoReturn:
    _run("policy_node")


def safety_node() -> NoReturn:
    _run("safety_node")


def maniskill_bridge_node() -> NoReturn:
    _run("maniskill_bridge_node")


def loopback_arm_node() -> NoReturn:
    _run("loopback_arm_node")


def real_arm_node() -> NoReturn:
    _run("real_arm_node")


def gripper_adapter_node() -> NoReturn:
    _run("gripper_adapter_node")


def episode_node() -> NoReturn:
    _run("episode_node")


def fixed_chunk_node() -> NoReturn:
    _run("fixed_chunk_node")


def recorder_node() -> NoReturn:
    _run("recorder_node")


def viewer_node() -> NoReturn:
    _run("viewer_node")
