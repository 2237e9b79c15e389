# SPDX-License-Identifier: Apache-2.0
"""A guard and a loopback arm as processes, and a node that talks to them. Bounded waits only."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from par_ros import messages
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.parameters import read_arm_spec
from par_ros.process import PARENT_VARIABLE
from par_ros.topics import (
    ACTION_CHUNK,
    CONTROLLER_REFERENCE,
    DIAGNOSTICS,
    E_STOP_STATE,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    GUARD_STATE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
    Topic,
)

TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 5.0
KNOT_STEP_S = 0.05


class GuardRig:
    """`with GuardRig() as rig:`; every message that the guard or the arm sends is kept."""

    def __init__(self, arm: str = "panda") -> None:
        """arm: in config/arms, or a file."""
        self._arm = arm
        self.spec = read_arm_spec(arm)
        self.context = Context()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.logs: dict[str, IO[str]] = {}
        self.received: dict[str, list[Any]] = {}

    def __enter__(self) -> "GuardRig":
        import rclpy

        rclpy.init(args=[], context=self.context)
        self.node = Node("guard_rig", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        for topic in (
            JOINT_STATES, JOINT_TRAJECTORY, JOINT_TRAJECTORY_SHADOW, GRIPPER_TRAJECTORY,
            EXECUTED_ACTIONS, E_STOP_STATE, DIAGNOSTICS, GUARD_STATE, CONTROLLER_REFERENCE,
        ):  # fmt: skip
            self._keep(topic)
        self.chunks = self.node.create_publisher(
            ACTION_CHUNK.message_type, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
        )
        return self

    def __exit__(self, *_: object) -> None:
        # Before the others are killed: the middleware may crash on the way out of a killed one's
        # shared memory.
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()
        for process in self.processes.values():
            process.kill()
            process.wait()
        for log in self.logs.values():
            log.close()

    def _keep(self, topic: Topic) -> None:
        kept = self.received.setdefault(topic.name, [])
        self.node.create_subscription(
            topic.message_type, topic.name, kept.append, topic.reader_qos.profile()
        )

    def start(self, name: str, *parameters: str, program: str = "") -> None:
        """One executable with `name:=value` parameters; program: Python text in its place."""
        words = [word for parameter in parameters for word in ("-p", parameter)]
        what = ("-c", program) if program else ("-m", f"par_ros.{name}")
        # A file: a full pipe that nobody reads stops the process.
        self.logs[name] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed at the end
        self.processes[name] = subprocess.Popen(
            # A terminal's, wherever the tests run from: below nohup SIGHUP is ignored.
            ["env", "--default-signal=HUP", sys.executable, *what, "--ros-args", *words],
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            stderr=self.logs[name],
            text=True,
        )

    def log_of(self, name: str) -> str:
        """What an executable that has ended wrote to stderr."""
        self.logs[name].seek(0)
        return self.logs[name].read()

    def cpu_s(self, name: str) -> float:
        """Processor time of an executable so far, in seconds."""
        fields = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2]
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def start_guard(self, *parameters: str, program: str = "") -> None:
        """The guard, configured and active. Arm, chunks and the guard itself may be late: the
        machine may be busy."""
        self.start("safety_node", f"arm:={self._arm}", "reference:=topic",
                   "max_joint_state_age_s:=5.0", "max_reference_age_s:=5.0",
                   "max_observation_age_s:=10.0", "first_chunk_timeout_s:=60.0",
                   "late_after_s:=5.0", "policy_timeout_s:=20.0", "splice_s:=0.1",
                   *parameters, program=program)  # fmt: skip
        self.bring_up()

    def bring_up(self) -> None:
        """Configure and activate the guard.

        After a SIGKILL the dead guard's services stay in the ROS graph for a while, and swallow
        requests: ask for the state until somebody answers.
        """
        steps = {
            State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
            State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
        }
        end_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end_s:
            state = self.call_once(GetState, "safety_node/get_state", GetState.Request())
            if state is None:
                continue
            if state.current_state.id == State.PRIMARY_STATE_ACTIVE:
                return
            request = ChangeState.Request(transition=Transition(id=steps[state.current_state.id]))
            self.call_once(ChangeState, "safety_node/change_state", request)
        raise AssertionError("the guard did not become active")

    def change(self, transition: int) -> bool:
        """One lifecycle transition of the guard. Asked for once: a second request would be refused,
        since the first one has changed the state."""
        request = ChangeState.Request(transition=Transition(id=transition))
        response = self.call_once(ChangeState, "safety_node/change_state", request, TIMEOUT_S)
        assert response is not None, "safety_node/change_state did not answer"
        return bool(response.success)

    def trigger(self, service: str) -> Trigger.Response:
        """One of the guard's services."""
        return self.call(Trigger, f"safety_node/{service}", Trigger.Request())

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call until it is answered; fails the test after TIMEOUT_S."""
        end_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end_s:
            response = self.call_once(service_type, name, request)
            if response is not None:
                return response
        raise AssertionError(f"{name} did not answer")

    def call_once(
        self, service_type: Any, name: str, request: Any, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Any:
        """One call; None where no answer comes within `timeout_s`."""
        client = self.node.create_client(service_type, name)
        self.wait_for(client.service_is_ready, name)
        future = client.call_async(request)
        end_s = time.monotonic() + timeout_s
        while not future.done() and time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.05)
        self.node.destroy_client(client)
        return future.result() if future.done() else None

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Spin until `condition`; fails the test after TIMEOUT_S."""
        end_s = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > end_s:
                raise AssertionError(f"{what} did not happen; the guard: {self._last_status()}")
            self.executor.spin_once(timeout_sec=0.05)

    def _last_status(self) -> str:
        for message in reversed(self.received[DIAGNOSTICS.name]):
            for status in messages.read_diagnostics(message):
                if status.name == "safety_node":
                    return f"{status.message}; {dict(status.values)}"
        return "no status"

    def wait_for_one_more(self, topic: Topic) -> Any:
        """The next message of `topic`."""
        before = len(self.received[topic.name])
        self.wait_for(lambda: len(self.received[topic.name]) > before, topic.name)
        return self.received[topic.name][before]

    def engage(self) -> None:
        """Once joint states have come."""
        self.wait_for(lambda: bool(self.trigger("engage").success), "engage")

    def positions(self) -> FloatArray:
        """The newest measured positions."""
        self.wait_for(lambda: bool(self.received[JOINT_STATES.name]), "joint_states")
        return messages.read_joint_state(self.received[JOINT_STATES.name][-1]).positions

    def gentle_knots(self) -> FloatArray:
        """0.02 rad further in each joint, from rest."""
        here = self.positions()
        ramp = np.outer(
            (np.arange(1, 9) / 8.0) ** 2, np.append(np.full(self.spec.num_arm_joints, 0.02), 0.0)
        )
        return here + ramp

    def publish(
        self, knots: FloatArray, stamp_ns: int | None = None, step_s: float = KNOT_STEP_S
    ) -> int:
        """One action chunk of actions `step_s` apart; gives its stamp."""
        self.wait_for(lambda: self.chunks.get_subscription_count() > 0, "the guard's subscription")
        if stamp_ns is None:
            stamp_ns = int(self.node.get_clock().now().nanoseconds)
        times_s = step_s * np.arange(1, len(knots) + 1)
        trajectory = JointTrajectory(self.spec.joint_names, times_s, knots)
        self.chunks.publish(messages.joint_trajectory_message(trajectory, stamp_ns))
        return stamp_ns

    def follow(self, knots: FloatArray, reached: Callable[[], bool], what: str) -> None:
        """Publish a chunk and wait until `reached`.

        Again where a busy machine was too slow: the guard could not plan within the splice, or the
        arm had not taken a trajectory 20 ms after it.
        """
        self.publish(knots)

        def is_reached() -> bool:
            if self.state()["holding"] in ("slow", "not_taken"):
                self.engage()
                self.publish(knots)
                self.wait_for_one_more(EXECUTED_ACTIONS)
            return reached()

        self.wait_for(is_reached, what)

    def state(self) -> dict[str, str]:
        """What the guard said last on guard_state."""
        kept = self.received[GUARD_STATE.name]
        self.wait_for(lambda: bool(kept), "guard_state")
        return dict(messages.read_status(kept[-1]).values)

    def is_latched(self) -> bool:
        """What e_stop_state says, as far as it has come."""
        kept = self.received[E_STOP_STATE.name]
        return bool(kept) and bool(kept[-1].data)

    def wait_for_state(self, **values: str) -> None:
        """Until guard_state says so."""
        self.wait_for(lambda: self.state().items() >= values.items(), f"guard_state {values}")

    def guard_values(self) -> dict[str, str]:
        """Values of the guard's next status."""
        end_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end_s:
            for status in messages.read_diagnostics(self.wait_for_one_more(DIAGNOSTICS)):
                if status.name == "safety_node":
                    return dict(status.values)
        raise AssertionError("no diagnostics of the guard")
