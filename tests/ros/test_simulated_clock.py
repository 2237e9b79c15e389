# SPDX-License-Identifier: Apache-2.0
"""A simulator's clock that shows 1 s and then 1.05 s, read in the middle of a callback."""

import time
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from par_ros import messages
from par_ros.control.command import Command
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.timeline import Moment
from par_ros.parameters import read_arm_spec
from par_ros.safety_node import SafetyNode
from par_ros.simulated_clock import SimulatedClock
from par_ros.topics import CLOCK, JOINT_TRAJECTORY

pytestmark = pytest.mark.ros

S = 1_000_000_000
STEP_NS = 50_000_000
TIMEOUT_S = 60.0


def test_what_is_sent_while_the_clock_stands_is_in_time(ros: None) -> None:
    """And within 6 of the 12 ms of wall time by which the clock is ahead of the step."""
    reader, simulator = rclpy.create_node("reader"), rclpy.create_node("simulator")
    clock = SimulatedClock(reader, 0.012)
    shown = simulator.create_publisher(CLOCK.message_type, CLOCK.name, CLOCK.writer_qos.profile())
    planned, early, late = Moment(S, 0), Moment(S, 6_000_000), Moment(S, 6_000_001)
    assert clock.is_in_time(planned, late)
    deadline_s = time.monotonic() + TIMEOUT_S
    while clock.is_in_time(planned, late):
        assert time.monotonic() < deadline_s
        shown.publish(messages.clock_message(S + STEP_NS))
        time.sleep(0.01)
    # The message is taken once, its time stays known; what was cut off tells none.
    for _ in range(50):
        shown.publish(b"\0\1\0\0")
        time.sleep(0.01)
        assert not clock.is_in_time(planned, late)
    assert not clock.is_in_time(planned, late)
    assert clock.is_in_time(planned, early)
    assert clock.is_in_time(Moment(S + STEP_NS, 0), late)
    clock.destroy(reader)
    reader.destroy_node()
    simulator.destroy_node()


def test_what_took_the_guard_long_is_sent_while_the_simulator_stands(free_domain: str) -> None:
    """A trajectory half a second after its moment."""
    words = [word for name in ("mode:=realtime", "use_sim_time:=true", "reference:=topic")
             for word in ("-p", name)]  # fmt: skip
    rclpy.init(args=["--ros-args", *words])
    executor = SingleThreadedExecutor()
    try:
        guard, arm = SafetyNode(), rclpy.create_node("arm")
        received: list[Any] = []
        arm.create_subscription(
            JOINT_TRAJECTORY.message_type, JOINT_TRAJECTORY.name, received.append,
            JOINT_TRAJECTORY.reader_qos.profile(),
        )  # fmt: skip
        executor.add_node(arm)
        assert guard.trigger_configure() == TransitionCallbackReturn.SUCCESS
        names = read_arm_spec("panda").arm_joint_names
        command = Command(arm=JointTrajectory(names, np.array([0.1]), np.zeros((1, 7))))
        deadline_s = time.monotonic() + TIMEOUT_S
        while not received:
            assert time.monotonic() < deadline_s
            guard._session.send(command, Moment(S, time.monotonic_ns() - S // 2))
            executor.spin_once(timeout_sec=0.05)
        assert guard.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    finally:
        executor.shutdown()
        rclpy.try_shutdown()
