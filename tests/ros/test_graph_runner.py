# SPDX-License-Identifier: Apache-2.0
"""Graphs as real processes over DDS: they come up, and however they end, nothing stays.

Arm, guard and fixed chunks for the processes' life and death, where Ctrl-C has to end everything
within 3 s; the real policy node, with random weights, for what it refuses.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.graph_runner import END_GRACE_S
from par_ros.topics import (
    ACTION_CHUNK,
    DIAGNOSTICS,
    ENGAGE,
    EXECUTED_ACTIONS,
    GUARD,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    STOP,
    ServiceEntry,
)
from tests.ros.processes import children, finish, run, start_module, wait_for

pytestmark = pytest.mark.ros

START_TIMEOUT_S = 200.0
# On an idle machine 2 s: END_GRACE_S, then SIGKILL.
CTRL_C_TIMEOUT_S = 15.0
SIDES = ("left", "right")
NODES = {"loopback_arm_node", "safety_node", "fixed_chunk_node"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.ros.checkpoints import save_random_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    save_random_checkpoint(folder)
    return str(folder)


class Listener:
    """A node in the children's domain that counts the chunks that it hears."""

    def __init__(self, domain: str, namespace: str = "") -> None:
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=int(domain))
        self.node = Node("listener", context=self._context, namespace=namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._num_chunks = 0
        self._engage = self.node.create_client(Trigger, ENGAGE.client_name)
        self._engaging: Any = None
        self.commands: list[JointTrajectoryMessage] = []
        self.node.create_subscription(
            JOINT_TRAJECTORY.message_type,
            JOINT_TRAJECTORY.name,
            self.commands.append,
            JOINT_TRAJECTORY.reader_qos.profile(),
        )
        self.node.create_subscription(
            ACTION_CHUNK.message_type,
            ACTION_CHUNK.name,
            self._count,
            ACTION_CHUNK.reader_qos.profile(),
        )

    def _count(self, _: object) -> None:
        self._num_chunks += 1

    def hears_chunks(self) -> bool:
        """Whether the policy answers pictures; spins a little."""
        self.spin()
        return self._num_chunks > 0

    def hears_commands(self) -> bool:
        """Whether any trajectory has come; asks the guard to engage."""
        self._ask_to_engage()
        self.spin()
        return bool(self.commands)

    def comes_to_hear_more_commands(self) -> bool:
        """As hears_more_commands; asks the guard to engage."""
        self._ask_to_engage()
        return self.hears_more_commands()

    def hears_more_commands(self) -> bool:
        """Whether another trajectory came."""
        heard = len(self.commands)
        self.spin()
        return len(self.commands) > heard

    def _ask_to_engage(self) -> None:
        """The guard does so by itself only once, and an arm that a busy machine holds up disengages
        it."""
        may_ask = self._engaging is None or self._engaging.done()
        if may_ask and self._engage.service_is_ready():
            self._engaging = self._engage.call_async(Trigger.Request())

    def spin(self) -> None:
        """Take what has come, and what comes within 0.05 s."""
        end_s = time.monotonic() + 0.05
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left_s)

    def state_of(self, name: str) -> int:
        client = self.node.create_client(GetState, f"{name}/get_state")
        assert client.wait_for_service(30.0)
        return int(self.wait_for(client.call_async(GetState.Request())).current_state.id)

    def wait_for(self, future: Any) -> Any:
        """A service's answer."""
        self._executor.spin_until_future_complete(future, timeout_sec=30.0)
        assert future.done()
        return future.result()

    def close(self) -> None:
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def listener(free_domain: str) -> Iterator[Listener]:
    listener = Listener(free_domain)
    yield listener
    listener.close()


@pytest.fixture
def runner(free_domain: str, listener: Listener) -> Iterator["subprocess.Popen[str]"]:
    """The light graph, up and answering."""
    process = start_module("tests.ros.light_graph", free_domain)
    try:
        await_chunks(process, listener)
        yield process
    finally:
        for child in children(process.pid).values():
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def await_chunks(process: "subprocess.Popen[str]", listener: Listener) -> None:
    wait_for(
        lambda: listener.hears_chunks() or process.poll() is not None, START_TIMEOUT_S, "a chunk"
    )
    assert process.poll() is None, process.communicate()


def test_graph_comes_up_active_alone_and_ctrl_c_ends_every_process(
    runner: "subprocess.Popen[str]", listener: Listener, free_domain: str
) -> None:
    assert set(children(runner.pid)) == NODES
    for name in ("safety_node", "policy_node"):
        assert listener.state_of(name) == State.PRIMARY_STATE_ACTIVE
    # Two that start together see no node of each other: a lock decides.
    second = finish(start_module("tests.ros.light_graph", free_domain), START_TIMEOUT_S)
    assert second.code == 1
    assert second.sentences == [
        f"error: ROS domain {free_domain} already holds a run with this namespace, which may still "
        "be starting; end that run, or choose another domain with domain_id:=N or another "
        "namespace:=NAME."
    ]
    assert runner.poll() is None
    started_s = time.monotonic()
    runner.send_signal(signal.SIGINT)
    finished = finish(runner, START_TIMEOUT_S)
    assert time.monotonic() - started_s < CTRL_C_TIMEOUT_S
    assert finished.code == 130
    assert "Traceback" not in finished.error
    assert not children(runner.pid)


def test_killed_runner_leaves_no_orphans(runner: "subprocess.Popen[str]") -> None:
    runner.kill()
    runner.communicate()
    wait_for(lambda: not children(runner.pid), START_TIMEOUT_S, "the end of all children")
    assert not children(runner.pid)


def test_a_dead_child_ends_the_run_with_a_sentence_and_the_arm_at_rest(
    runner: "subprocess.Popen[str]", listener: Listener
) -> None:
    # Not a further one: on a machine too busy for the joint states the guard rests by now.
    wait_for(listener.hears_commands, START_TIMEOUT_S, "a command to the arm")
    os.kill(children(runner.pid)["fixed_chunk_node"], signal.SIGKILL)
    finished = finish(runner, START_TIMEOUT_S)
    assert finished.code == 1
    assert finished.sentences == [
        "error: policy_node ended unexpectedly (signal SIGKILL), so the run was ended."
    ]
    assert not children(runner.pid)
    while listener.hears_more_commands():
        pass
    last = listener.commands[-1].points[-1]
    assert not any(last.velocities)
    assert not any(last.accelerations)


def test_the_guard_outlives_a_policy_that_may_be_lost(free_domain: str, listener: Listener) -> None:
    """Its loss is reported once; the guard stays active and answers."""
    process = start_module("tests.ros.light_graph", free_domain, "", "", "may be lost")
    try:
        await_chunks(process, listener)
        os.kill(children(process.pid)["fixed_chunk_node"], signal.SIGKILL)
        assert process.stderr is not None
        reported = next(line for line in process.stderr if line.startswith("error: "))
        assert set(children(process.pid)) == NODES - {"fixed_chunk_node"}
        assert listener.state_of("safety_node") == State.PRIMARY_STATE_ACTIVE
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        finished = finish(process, START_TIMEOUT_S)
    finally:
        process.kill()
    assert finished.code == 130
    assert reported == (
        "error: policy_node has ended, the other processes continue: policy_node ended "
        "unexpectedly (signal SIGKILL).\n"
    )
    assert finished.sentences == []
    assert not children(process.pid)


def test_sigterm_ends_every_process_a_hung_one_too(runner: "subprocess.Popen[str]") -> None:
    os.kill(children(runner.pid)["fixed_chunk_node"], signal.SIGSTOP)
    started_s = time.monotonic()
    runner.terminate()
    finish(runner, START_TIMEOUT_S)
    assert time.monotonic() - started_s > END_GRACE_S
    assert not children(runner.pid)


def test_taken_name_is_refused(free_domain: str) -> None:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=int(free_domain))
    node = Node("policy_node", context=context)
    try:
        finished = finish(start_module("tests.ros.light_graph", free_domain), START_TIMEOUT_S)
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert finished.code == 1
    assert finished.sentences == [
        f"error: ROS domain {free_domain} already holds a node /policy_node; end that run, or "
        "choose another domain with domain_id:=N or another namespace:=NAME."
    ]
    assert "Traceback" not in finished.error


class ArmListener(Listener):
    """Hears one arm's joints and every guard's status."""

    def __init__(self, domain: str, namespace: str) -> None:
        super().__init__(domain, namespace)
        self._guard_name = f"{namespace}/{GUARD}"
        self.first_joint_rad: list[float] = []
        self.guards: dict[str, Mapping[str, str]] = {}
        for topic, callback in (
            (JOINT_STATES, lambda message: self.first_joint_rad.append(message.position[0])),
            (DIAGNOSTICS, self._keep_guards),
        ):
            self.node.create_subscription(
                topic.message_type, topic.name, callback, topic.reader_qos.profile()
            )

    def _keep_guards(self, message: DiagnosticArray) -> None:
        for status in messages.read_diagnostics(message):
            if status.name.endswith(GUARD):
                self.guards[status.name] = status.values

    def sees_motion(self) -> bool:
        """The first joint sways by 0.05 rad."""
        self.spin()
        return bool(self.first_joint_rad) and float(np.ptp(self.first_joint_rad)) > 0.01

    def comes_to_move(self) -> bool:
        """As sees_motion; engages a guard again that a machine standing still has made stop."""
        moves = self.sees_motion()
        status = self.guards.get(self._guard_name)
        if status is not None and status["engaged"] == status["stop_latched"] == "false":
            # The next status says how that went.
            del self.guards[self._guard_name]
            self.call(ENGAGE)
        return moves

    def call(self, service: ServiceEntry) -> None:
        """Call one of this arm's guard's services."""
        client = self.node.create_client(Trigger, service.client_name)
        assert client.wait_for_service(30.0)
        self.wait_for(client.call_async(Trigger.Request()))


def test_two_arms_at_once_do_not_hear_each_other(free_domain: str) -> None:
    """left and right in one domain: both engage and move; a stop of one leaves the other alone."""
    runners = {side: start_module("tests.ros.light_graph", free_domain, side) for side in SIDES}
    arms = {side: ArmListener(free_domain, side) for side in SIDES}
    try:
        for side, arm in arms.items():
            await_chunks(runners[side], arm)
            wait_for(arm.comes_to_move, START_TIMEOUT_S, f"motion of {side}")
            for topic in (ACTION_CHUNK, JOINT_TRAJECTORY, EXECUTED_ACTIONS):
                path = f"/{side}/{topic.name}"
                # The topic's data may come before the news of who writes it.
                wait_for(
                    lambda arm=arm, path=path: arm.node.count_publishers(path) == 1,
                    START_TIMEOUT_S,
                    f"one writer of {path}",
                )
                assert arm.node.count_publishers(f"/{topic.name}") == 0
        left, right = arms["left"], arms["right"]
        right.call(STOP)

        def stops(arm: ArmListener) -> dict[str, str]:
            arm.spin()
            return {name: values["stop_latched"] for name, values in arm.guards.items()}

        expected = {"left/safety_node": "false", "right/safety_node": "true"}
        for arm in arms.values():
            wait_for(lambda arm=arm: stops(arm) == expected, START_TIMEOUT_S, "both guards' status")
        left.first_joint_rad.clear()
        wait_for(left.sees_motion, START_TIMEOUT_S, "motion of left")
        assert stops(left) == expected
        assert left.guards["left/safety_node"]["engaged"] == "true"
        runners["right"].send_signal(signal.SIGINT)
        finish(runners["right"], START_TIMEOUT_S)
        assert set(children(runners["left"].pid)) == NODES
    finally:
        for side in SIDES:
            arms[side].close()
            runners[side].send_signal(signal.SIGINT)
            runners[side].communicate()


def test_checkpoint_with_a_missing_tensor_is_one_sentence(tmp_path: Path, free_domain: str) -> None:
    import json

    from tests.ros.checkpoints import save_random_checkpoint

    folder = tmp_path / "broken"
    save_random_checkpoint(folder)
    index_path = folder / "weights.safetensors.index.json"
    index = json.loads(index_path.read_text())
    missing = sorted(index["weight_map"])[0]
    del index["weight_map"][missing]
    index_path.write_text(json.dumps(index))
    finished = run("loopback", f"checkpoint:={folder}", f"domain_id:={free_domain}")
    assert finished.code == 1
    assert len(finished.sentences) == 1
    assert "Traceback" not in finished.error


def test_empty_checkpoint_folder_is_one_sentence(tmp_path: Path, free_domain: str) -> None:
    finished = run("loopback", f"checkpoint:={tmp_path}", f"domain_id:={free_domain}")
    assert finished.code == 1
    assert len(finished.sentences) == 1
    assert str(tmp_path) in finished.sentences[0]
    assert "Traceback" not in finished.error
    assert "`./par doctor` (python -m par_ros doctor) checks machine" in finished.error


def test_unknown_instruction_is_one_sentence(checkpoint: str, free_domain: str) -> None:
    finished = run(
        "loopback",
        f"checkpoint:={checkpoint}",
        f"domain_id:={free_domain}",
        "backend:=eager",
        "instruction:=Open the door.",
    )
    assert finished.code == 2
    assert len(finished.sentences) == 1
    assert "'Open the door.' is unknown to this policy; it knows: " in finished.sentences[0]


def test_unknown_robot_is_one_sentence(checkpoint: str, free_domain: str) -> None:
    finished = run(
        *("loopback", f"checkpoint:={checkpoint}", f"domain_id:={free_domain}"),
        *("backend:=eager", "robot:=hal9000"),
    )
    assert finished.code == 1
    assert all("hal9000" in sentence for sentence in finished.sentences)
    assert finished.sentences
    assert "Traceback" not in finished.error
