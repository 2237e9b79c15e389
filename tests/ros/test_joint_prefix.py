# SPDX-License-Identifier: Apache-2.0
"""An arm whose joints have other names than the arm file's: left_panda_joint1 and so on. The whole
loopback graph, with fixed chunks in the policy's place."""

import signal
import time

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from par_ros import messages, topics
from par_ros.parameters import read_arm_spec
from tests.ros.processes import finish, start_module

pytestmark = pytest.mark.ros

TIMEOUT_S = 120.0


def test_an_arm_under_another_name_is_moved(free_domain: str) -> None:
    """0.02 rad away from home, by trajectories with the prefix; chunks have none."""
    spec = read_arm_spec("panda")
    runner = start_module("tests.ros.light_graph", free_domain, "", "", "needed", "left_")
    context = Context()
    context.init(domain_id=int(free_domain))
    node = Node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard: dict[str, list] = {topic.name: [] for topic in (*_HEARD, topics.GUARD_STATE)}
    for topic in (*_HEARD, topics.GUARD_STATE):
        node.create_subscription(
            topic.message_type,
            topic.name,
            heard[topic.name].append,
            topic.reader_qos.profile(),
        )

    def has_moved() -> bool:
        states = heard[topics.JOINT_STATES.name]
        if not all(heard[topic.name] for topic in _HEARD):
            return False
        moved = np.abs(np.array(states[-1].position[:-1]) - spec.home).max()
        return bool(moved > 0.02)

    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not has_moved():
            assert runner.poll() is None, finish(runner, 5.0).error
            assert time.monotonic() < deadline_s, _story(heard)
            executor.spin_once(timeout_sec=0.05)
    finally:
        runner.send_signal(signal.SIGINT)
        finish(runner, 60.0)
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
    prefixed = [f"left_{name}" for name in spec.joint_names]
    assert list(heard[topics.JOINT_STATES.name][-1].name) == prefixed
    assert list(heard[topics.JOINT_TRAJECTORY.name][-1].joint_names) == prefixed[:-1]
    assert list(heard[topics.GRIPPER_TRAJECTORY.name][-1].joint_names) == prefixed[-1:]
    executed = messages.read_joint_trajectory(heard[topics.EXECUTED_ACTIONS.name][-1])
    assert executed.joint_names == spec.joint_names


def _story(heard: dict[str, list]) -> str:
    """How many messages came on each topic, and what the guard reported of itself, in order."""
    counts = ", ".join(f"{len(received)} on {name}" for name, received in heard.items())
    states = [messages.read_status(state) for state in heard[topics.GUARD_STATE.name]]
    told = dict.fromkeys(f"{state.message} {dict(state.values)}" for state in states)
    return "\n".join((f"the arm has not moved; heard {counts}; guard:", *told))


_HEARD = (
    topics.JOINT_STATES,
    topics.JOINT_TRAJECTORY,
    topics.GRIPPER_TRAJECTORY,
    topics.EXECUTED_ACTIONS,
)
