# SPDX-License-Identifier: Apache-2.0
"""An operator corrects a policy over DDS; a recording of it becomes labels for training.

The loopback graph with fixed chunks of 0.4 s, which move joint 1 only. The operator lifts joint 2,
holds the switch at 20 Hz or more, loses it, and gives the arm back by engage.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.lerobot_dataset import LeRobotDataset
from par_ros import messages
from par_ros.__main__ import main as par_ros
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.parameters import read_arm_spec
from par_ros.topics import (
    END_EPISODE,
    ENGAGE,
    EXECUTED_ACTIONS,
    GUARD_STATE,
    JOINT_STATES,
    START_EPISODE,
    TELEOP_CHUNK,
    TELEOP_DEADMAN,
    Topic,
)
from tests.ros.processes import finish, run, start_module

pytestmark = pytest.mark.ros
TIMEOUT_S = 120.0
LIFTED = 1
LIFT_RAD = 0.02
TIMES_S = 0.05 * np.arange(1, 9)


class Operator:
    """A node that hears the graph, and sends chunks while it holds the switch."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context)
        self.node = Node("teleop", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received: dict[str, list[Any]] = {}
        for topic in (JOINT_STATES, EXECUTED_ACTIONS, GUARD_STATE):
            kept = self.received.setdefault(topic.name, [])
            self.node.create_subscription(
                topic.message_type, topic.name, kept.append, topic.reader_qos.profile()
            )
        self.switch = self._publisher(TELEOP_DEADMAN)
        self.chunks = self._publisher(TELEOP_CHUNK)
        self.holds = False
        self.stamps: list[int] = []
        self._next_s = 0.0

    def _publisher(self, topic: Topic) -> Any:
        return self.node.create_publisher(
            topic.message_type, topic.name, topic.writer_qos.profile()
        )

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end_s, f"{what} did not happen; guard: {self.state()}"
            if self.holds:
                self.switch.publish(Bool(data=True))
                self._lift()
            self.executor.spin_once(timeout_sec=0.02)

    def _lift(self) -> None:
        """A chunk every 0.2 s, half of its length, so that a busy machine makes no gaps: joint 2 a
        little higher."""
        if time.monotonic() < self._next_s or not self.received[JOINT_STATES.name]:
            return
        self._next_s = time.monotonic() + 0.2
        newest = messages.read_joint_state(self.received[JOINT_STATES.name][-1])
        knots = np.tile(newest.positions, (8, 1))
        knots[:, LIFTED] += LIFT_RAD * (np.arange(1, 9) / 8) ** 2
        trajectory = JointTrajectory(read_arm_spec("panda").joint_names, TIMES_S, knots)
        stamp_ns = int(self.node.get_clock().now().nanoseconds)
        self.stamps.append(stamp_ns)
        self.chunks.publish(messages.joint_trajectory_message(trajectory, stamp_ns))

    def num_executed(self, *, own: bool) -> int:
        """Chunks on which the guard has reported: the operator's own, or the policy's."""
        stamps = map(messages.stamp_ns, self.received[EXECUTED_ACTIONS.name])
        return sum((stamp in self.stamps) is own for stamp in stamps)

    def state(self) -> dict[str, str]:
        kept = self.received[GUARD_STATE.name]
        return dict(messages.read_status(kept[-1]).values) if kept else {}

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(service_type, name)
        self.wait_for(client.service_is_ready, name)
        if self.holds:
            # The guard counts it as held for 0.2 s, and this process may have stood still since.
            self.switch.publish(Bool(data=True))
        future = client.call_async(request)
        self.wait_for(future.done, name)
        self.node.destroy_client(client)
        return future.result()


@pytest.fixture(scope="module")
def corrected(
    own_domain: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A recording in which the policy, the operator and the policy again moved the arm."""
    path = tmp_path_factory.mktemp("corrections") / "corrected.mcap"
    process = start_module("tests.ros.light_graph", os.environ["ROS_DOMAIN_ID"], "", str(path))
    operator = Operator()
    said = {}
    try:
        operator.wait_for(lambda: operator.num_executed(own=False) >= 2, "the policy's chunks")
        start, end = START_EPISODE.client_name, END_EPISODE.client_name
        said["end too early"] = operator.call(SetBool, end, SetBool.Request(data=True))
        said["start"] = operator.call(Trigger, start, Trigger.Request())
        said["second start"] = operator.call(Trigger, start, Trigger.Request())
        # Counted from the episode's start on: the calls above take time of their own.
        before = operator.num_executed(own=False)
        operator.wait_for(lambda: operator.num_executed(own=False) >= before + 3, "more of them")
        operator.holds = True
        operator.wait_for(lambda: operator.num_executed(own=True) >= 9, "the operator's chunks")
        said["engage while held"] = operator.call(Trigger, ENGAGE.client_name, Trigger.Request())
        operator.holds = False
        operator.wait_for(lambda: operator.state().get("holding") == "deadman", "the hold")
        operator.wait_for(
            lambda: operator.call(Trigger, ENGAGE.client_name, Trigger.Request()).success, "engage"
        )
        before = operator.num_executed(own=False)
        operator.wait_for(lambda: operator.num_executed(own=False) >= before + 4, "the policy")
        said["state after"] = operator.state()
        said["end"] = operator.call(SetBool, end, SetBool.Request(data=True))
        process.send_signal(signal.SIGINT)
        finish(process, TIMEOUT_S)
        yield SimpleNamespace(path=path, said=said, num_own=operator.num_executed(own=True))
    finally:
        operator.close()
        process.kill()


def test_the_services_say_what_they_did(corrected: SimpleNamespace) -> None:
    said = corrected.said
    assert not said["end too early"].success
    assert "call start_episode first" in said["end too early"].message
    assert said["start"].success
    assert not said["second start"].success
    assert said["end"].message == "the episode ends with success"
    assert not said["engage while held"].success
    assert "release it first" in said["engage while held"].message
    assert said["state after"]["engaged"] == "true"
    assert said["state after"]["fault"] == ""


def test_corrections_are_labels_beside_what_the_policy_wanted(
    corrected: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    words = ["to_dataset", str(corrected.path), "--out", str(out), "--image-size", "64"]
    # The machine may stand still for a while.
    assert par_ros([*words, "--max-gap", "5"]) == 0
    source = LeRobotDataset(out)
    assert source.arm == "panda"
    episode = source.read(0)
    assert len(source) == 1
    assert episode.success[-1]
    assert episode.teaches is not None
    assert episode.policy_actions is not None
    assert 0 < episode.teaches.sum() < episode.num_steps
    taught = np.flatnonzero(episode.teaches)
    # The operator lifted joint 2, and the arm followed, as far as no chunk was held on the way; the
    # policy wanted to move joint 1 only.
    missed = np.abs(episode.actions - episode.executed_actions)[taught]
    assert np.median(missed[:, LIFTED]) < 0.2 * LIFT_RAD
    assert missed.max() < 2 * LIFT_RAD
    lifted = episode.actions[taught, LIFTED].max() - episode.measured_joint_positions[0, LIFTED]
    assert lifted > 0.25 * LIFT_RAD
    apart = np.abs(episode.actions - episode.policy_actions)[taught, LIFTED]
    assert apart.max() > 0.25 * LIFT_RAD
    # Where the policy had the arm nothing is taught.
    assert not episode.teaches[:4].any()
    assert not episode.teaches[-4:].any()
    assert DemonstrationSet(out).read_steps(0).teaches is not None


def test_the_recording_replays_to_the_bit(corrected: SimpleNamespace) -> None:
    """The switch and the operator's chunks are among the guard's inputs."""
    finished = run("replay", str(corrected.path))
    assert "the same to the bit" in finished.output
    assert finished.code == 0
