# SPDX-License-Identifier: Apache-2.0
"""A transition asked for in the wrong state is refused, and the node lives on."""

import time
from collections.abc import Callable, Iterator

import pytest
from lifecycle_msgs.msg import State, Transition
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from par_ros.gripper_adapter_node import GripperAdapterNode
from par_ros.lifecycle import ManagedNode
from par_ros.policy_node import PolicyNode
from par_ros.real_arm_node import RealArmNode
from par_ros.recorder_node import RecorderNode
from par_ros.safety_node import SafetyNode
from par_ros.service_caller import ServiceCaller

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
UNKNOWN = 77
TIMEOUT_S = 10.0


@pytest.fixture
def caller(ros: None) -> Iterator[ServiceCaller]:
    """Beside a ManagedNode "managed", in one executor: what it raises ends the test."""
    node, managed = Node("caller"), ManagedNode("managed")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(managed)

    def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.02)
        return condition()

    yield ServiceCaller(node, wait_until)
    executor.shutdown()
    managed.destroy_node()
    node.destroy_node()


@pytest.mark.ros
def test_a_wrong_transition_is_refused_and_the_node_lives_on(caller: ServiceCaller) -> None:
    assert caller.wait_for_lifecycle("managed", TIMEOUT_S)
    answers = [
        caller.change_state("managed", transition, TIMEOUT_S)
        for transition in (ACTIVATE, UNKNOWN, CONFIGURE, CONFIGURE, ACTIVATE, ACTIVATE)
    ]
    assert answers == [False, False, True, False, True, False]
    assert caller.lifecycle_state("managed", TIMEOUT_S) == State.PRIMARY_STATE_ACTIVE


@pytest.mark.parametrize(
    "node", [GripperAdapterNode, PolicyNode, RealArmNode, RecorderNode, SafetyNode]
)
def test_every_lifecycle_node_is_one(node: type) -> None:
    assert issubclass(node, ManagedNode)
