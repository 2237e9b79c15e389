# SPDX-License-Identifier: Apache-2.0
"""The operator's switch before a guard that was busy: its messages wait beside `engage`."""

import time
from collections.abc import Callable

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from par_ros.control.guard import StopLatch
from par_ros.guard_session import GuardSession
from par_ros.parameters import SafetyNodeParameters, read_arm_spec
from par_ros.process import ClockReader
from par_ros.topics import JOINT_STATES, TELEOP_DEADMAN

pytestmark = pytest.mark.ros
TIMEOUT_S = 20.0


def wait_for(condition: Callable[[], bool], step: Callable[[], None], what: str) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, what
        step()


def test_engage_takes_what_waits_of_the_switch_first(ros: None) -> None:
    """A guard that nobody spins any more, and an operator who takes the arm. `engage` must not give
    it to the policy, from which the waiting message would take it again."""
    node, other = rclpy.create_node("safety_node"), rclpy.create_node("arm_and_operator")
    parameters = SafetyNodeParameters(arm="panda", reference="none", max_joint_state_age_s=10.0)
    guard = GuardSession(node, parameters, StopLatch(), ClockReader(node), lambda: None)
    guard.is_active = True
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    arm = read_arm_spec("panda")
    states = other.create_publisher(JointState, JOINT_STATES.name, 10)
    switch = other.create_publisher(Bool, TELEOP_DEADMAN.name, 10)

    def stand() -> None:
        state = JointState(name=list(arm.joint_names), position=[*arm.home, 0.04])
        state.velocity = [0.0] * len(state.name)
        state.header.stamp = other.get_clock().now().to_msg()
        states.publish(state)
        # 50 Hz: the guard engages on the states of 0.2 s, and keeps only so many.
        next_s = time.monotonic() + 0.02
        while (left_s := next_s - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left_s)

    wait_for(lambda: guard.engage().success, stand, "the guard was not engaged")
    wait_for(lambda: switch.get_subscription_count() > 0, stand, "the switch was not matched")

    replies = [guard.engage()]

    def press() -> None:
        switch.publish(Bool(data=True))
        replies.append(guard.engage())

    # A busy machine's joint states may be too old meanwhile, which is another refusal.
    wait_for(lambda: "operator" in replies[-1].message, press, "the switch was not heard")
    assert not replies[-1].success
    assert "the operator holds the deadman switch" in replies[-1].message
    guard.destroy()
    executor.shutdown()
    for one in (node, other):
        one.destroy_node()
