# SPDX-License-Identifier: Apache-2.0
"""real_arm_node as a process, in a dry run: what its status names where the arm is not as it should
be. Joint states at 50 Hz."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

from par_ros import messages, topics
from par_ros.parameters import read_arm_spec
from par_ros.service_caller import ServiceCaller
from tests.ros.processes import start_module

pytestmark = pytest.mark.ros

NAMES = read_arm_spec("panda").joint_names
TIMEOUT_S = 60.0


class Arm:
    """A driver that publishes joint states, and a listener of /diagnostics."""

    def __init__(self) -> None:
        self._context = Context()
        self._context.init()
        self.node = Node("driver", context=self._context)
        self.joints = self.node.create_publisher(JointState, "joint_states", 10)
        self.sentences: list[str] = []
        self.node.create_subscription(
            DiagnosticArray,
            topics.DIAGNOSTICS.name,
            lambda message: self.sentences.extend(one.message for one in message.status),
            topics.DIAGNOSTICS.reader_qos.profile(),
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def spin_until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def told(self, sentence: str, publish: Callable[[], object] = lambda: None) -> bool:
        def look() -> bool:
            publish()
            return any(sentence in text for text in self.sentences)

        return self.spin_until(look, TIMEOUT_S)

    def publish(self, names: tuple[str, ...] = NAMES) -> None:
        positions = np.zeros(len(names))
        self.joints.publish(
            messages.joint_state_message(names, positions, positions, time.time_ns())
        )

    def stop(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def arm() -> Iterator[Arm]:
    made = Arm()
    yield made
    made.stop()


@pytest.fixture
def start(arm: Arm) -> Iterator[Callable[..., None]]:
    """real_arm_node with these parameters, active."""
    processes: list[subprocess.Popen[str]] = []

    def make(**parameters: object) -> None:
        words = ["--ros-args"]
        for name, value in parameters.items():
            words += ["-p", f"{name}:={value}"]
        processes.append(start_module("par_ros.real_arm_node", *words))
        caller = ServiceCaller(arm.node, arm.spin_until)
        assert caller.wait_for_lifecycle("real_arm_node", TIMEOUT_S)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert caller.change_state("real_arm_node", transition, TIMEOUT_S)

    yield make
    for process in processes:
        process.terminate()
        # Its pipes are emptied while it ends.
        threading.Thread(target=process.communicate, daemon=True).start()
        process.wait(TIMEOUT_S)


def test_simulated_time_without_a_clock_is_no_ready_arm(arm: Arm, start: Callable) -> None:
    start(use_sim_time="true")
    assert arm.told("use_sim_time is true and nothing has come on /clock", arm.publish)
    assert not any("the arm is ready" in text for text in arm.sentences)


def test_an_arm_under_another_name_is_named_and_then_read(arm: Arm, start: Callable) -> None:
    left = tuple(f"left_{name}" for name in NAMES)
    start()
    assert arm.told(
        "no complete joint state has come: joint states lack panda_joint1 and have "
        "left_panda_joint1; set joint_prefix:=left_",
        lambda: arm.publish(left),
    )


def test_joint_states_that_nobody_publishes_are_named(arm: Arm, start: Callable) -> None:
    arm.node.destroy_publisher(arm.joints)
    start()
    assert arm.told(
        "no complete joint state has come: nobody publishes /joint_states "
        "(sensor_msgs/msg/JointState)"
    )


def test_a_part_that_nobody_publishes_is_named(arm: Arm, start: Callable) -> None:
    start(joint_prefix="left_")
    part = tuple(f"left_{name}" for name in NAMES[:-1])
    assert arm.told("joint states lack ['left_panda_finger_joint1']", lambda: arm.publish(part))
