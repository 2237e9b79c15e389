# SPDX-License-Identifier: Apache-2.0
"""Guard and arm as processes, and a node that is their policy, operator and clock.

The policy is this node, or a process of its own where it is to be killed, or the real policy_node
with a swing for a network where the camera fails. What the arm got is read from the file in which
it writes down every control cycle. Every wait is bounded.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import State, Transition
from rclpy.node import Node
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.parameters import read_arm_spec
from par_ros.proof.fault_judge import CycleLog
from par_ros.proof.fault_processes import FaultProcesses, SuiteError
from par_ros.proof.fault_world import (
    ARM_EVENTS,
    ARM_WORLD,
    CAMERA_WORLD,
    ArmWorld,
    OwnStep,
    PickUp,
    Stall,
    WorldTaken,
    event_of_text,
)
from par_ros.proof.guard_reports import GuardReports
from par_ros.proof.scripted_policy import CHUNK_S, Swing, chunk_message
from par_ros.proof.seeing_policy import INSTRUCTION
from par_ros.service_caller import ServiceCaller
from par_ros.topics import ACTION_CHUNK, E_STOP, GUARD, POLICY

ARM_PROCESS = "proof.fault_arm"
POLICY_PROCESS = "proof.scripted_policy"
SEEING_PROCESS = "proof.seeing_policy"
CAMERA_PROCESS = "proof.scripted_camera"
RUNNER_PROCESS = "proof.guard_runner"

GUARD_PARAMETERS = ("reference:=topic",)
_SERVICE_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 5.0
_BRING_UP_TIMEOUT_S = 60.0
# A killed node stays in the ROS graph until its lease ends.
GRAPH_TIMEOUT_S = 45.0
_BRING_UP_STEPS = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
_GRIPPER_M = 0.04
# Overlapped inference: actions of a chunk, and how old a picture is when its chunk is sent.
OVERLAPPED_ACTIONS = 18
OVERLAPPED_DELAY_S = 0.15


class FaultRig(Node):
    """Starts the processes, injects what a row asks for, and listens."""

    def __init__(self, folder: Path) -> None:
        super().__init__("fault_rig")
        self.spec: ArmSpec = read_arm_spec("panda")
        self.processes = FaultProcesses(folder)
        self.log = CycleLog(self.processes.cycles, self.spec.num_arm_joints)
        self.caller = ServiceCaller(self, self.spin_until)
        self.pick_ups: list[PickUp] = []
        self.own_steps: list[int] = []
        # Words that a case adds about itself, and the chunk that it changed.
        self.seen: set[str] = set()
        self.injected: JointTrajectoryMessage | None = None
        self.largest_stall_s = 0.0
        self.fault_ns = 0
        self.world = ArmWorld()
        self._world_of_arm = 0
        # Overlapped inference: chunks with look-ahead for pictures `delay_s` ago.
        self.overlapped = False
        self.delay_s = OVERLAPPED_DELAY_S
        self._swing: Swing | None = None
        self._swing_begin_s = 0.0
        self._next_chunk_s = float("inf")
        self.num_chunks = 0
        self.mangle_chunk: Callable[[JointTrajectoryMessage], JointTrajectoryMessage | None] | None
        self.mangle_chunk = None
        self.last_message: JointTrajectoryMessage | None = None
        self.chunks: Any = None
        self._create_topics()

    def _create_topics(self) -> None:
        self.stop_topic = self.create_publisher(Bool, E_STOP.name, E_STOP.writer_qos.profile())
        self._worlds = self.create_publisher(String, ARM_WORLD, 10)
        self.camera = self.create_publisher(String, CAMERA_WORLD, 10)
        self.create_subscription(String, ARM_EVENTS, self._on_arm_event, 200)
        self.reports = GuardReports(self)

    # Time.

    def now_ns(self) -> int:
        """ROS time of all processes."""
        return time.time_ns() + self.processes.clock.value_ns

    def step_clock(self, step_s: float) -> None:
        """Set the clock of all processes."""
        self.processes.clock.value_ns += round(step_s * NANOSECONDS)

    def mark(self) -> None:
        """Note the time of the fault."""
        self.fault_ns = time.monotonic_ns()

    def spin_for(self, duration_s: float) -> None:
        """Spin for `duration_s`."""
        self.spin_until(lambda: False, duration_s)

    def spin_until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Spin until `condition` holds; False after `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            now_s = time.monotonic()
            if now_s >= end_s:
                return False
            wait_s = min(0.02, max(self._next_chunk_s - now_s, 0.0), end_s - now_s)
            rclpy.spin_once(self, timeout_sec=wait_s)
            self.largest_stall_s = max(self.largest_stall_s, time.monotonic() - now_s - wait_s)
            if time.monotonic() >= self._next_chunk_s:
                self._next_chunk_s += CHUNK_S
                self.publish_chunk()
        return True

    # Guard and arm.

    def start_guard(self, parameters: tuple[str, ...], *, supervised: bool) -> None:
        """Start the guard and bring it to active; or have the runner do so."""
        self.reports.forget_guard()
        if supervised:
            self.processes.start(RUNNER_PROCESS, own_clock=True)
        else:
            self.processes.start(GUARD, *parameters)
        self.bring_up(GUARD, drive=not supervised)

    def start_arm(self) -> None:
        """Start the arm at its home, in the current world."""
        self.processes.start(ARM_PROCESS)
        self._world_of_arm = -1
        before = self.log.num_rows
        if not self.spin_until(lambda: self.log.num_rows > before + 1, _SERVICE_TIMEOUT_S):
            text = self.processes.log_tail(ARM_PROCESS)
            raise SuiteError(f"the suite's arm does not run: {text}")
        self.set_world(self.world)

    def set_world(self, world: ArmWorld) -> None:
        """Give the arm this world; return when it is in effect."""
        number = self.world.number + 1
        self.world = ArmWorld(**{**vars(world), "number": number})
        message = String(data=self.world.text())
        end_s = time.monotonic() + _SERVICE_TIMEOUT_S
        while self._world_of_arm != number:
            if time.monotonic() > end_s:
                raise SuiteError("the suite's arm does not answer.")
            # Again: it may not have been discovered yet.
            self._worlds.publish(message)
            self.spin_until(lambda: self._world_of_arm == number, 0.5)

    def bring_up(self, node: str, *, drive: bool = True) -> None:
        """Wait until a lifecycle node is active; `drive` it there."""
        # A killed node's services stay in the ROS graph for a while and swallow requests: ask for
        # the state until the living one answers.
        end_s = time.monotonic() + _BRING_UP_TIMEOUT_S
        while time.monotonic() < end_s:
            state = self.caller.lifecycle_state(node, _ANSWER_TIMEOUT_S)
            if state is None:
                continue
            if state == State.PRIMARY_STATE_ACTIVE:
                return
            step = _BRING_UP_STEPS.get(state)
            if step is not None and drive:
                self.change_state(node, step)
        raise SuiteError(f"{node} did not come up; start it by hand and read its log.")

    def change_state(self, node: str, transition: int) -> bool:
        """One lifecycle transition; True where it succeeded."""
        return bool(self.caller.change_state(node, transition, _ANSWER_TIMEOUT_S))

    def trigger(self, name: str) -> Any:
        """Call one of the guard's services."""
        return self.call(Trigger, name, Trigger.Request())

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call until it is answered."""
        end_s = time.monotonic() + _SERVICE_TIMEOUT_S
        while time.monotonic() < end_s:
            response = self.caller.call(service_type, name, request, _ANSWER_TIMEOUT_S)
            if response is not None:
                return response
        raise SuiteError(f"service {name} did not answer.")

    # The policy.

    def start_policy(self, process: str) -> None:
        """Begin to swing, from where the arm is; in this process, or in one of that name."""
        self.num_chunks = 0
        if process:
            self._start_policy_process(process)
            return
        if self.chunks is None:
            self.chunks = self.create_publisher(
                JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
            )
            self.spin_until(lambda: self.chunks.get_subscription_count() > 0, 5.0)
        position = self.positions()
        assert position is not None
        self._swing = Swing(position, self.spec.home, _GRIPPER_M)
        self._next_chunk_s = self._swing_begin_s = time.monotonic()

    def make_way_for(self, process: str) -> None:
        """Leave action_chunk to a process that is about to be the policy."""
        if self.chunks is not None:
            self.destroy_publisher(self.chunks)
            self.chunks = None
        if not self.processes.is_alive(process):
            # A policy that was killed before is still in the graph for a while.
            self.wait_for_no_policy()

    def _start_policy_process(self, process: str) -> None:
        self.make_way_for(process)
        if self.processes.is_alive(process):
            return
        if process == SEEING_PROCESS:
            self.start_camera()
            self.processes.start(process, f"instruction:={INSTRUCTION}")
            self.bring_up(POLICY)
        else:
            self.processes.start(process)

    def start_camera(self) -> None:
        """The camera, where it does not run yet."""
        if not self.processes.is_alive(CAMERA_PROCESS):
            self.processes.start(CAMERA_PROCESS)
        self.spin_until(lambda: self.camera.get_subscription_count() > 0, _SERVICE_TIMEOUT_S)

    def wait_for_no_policy(self) -> None:
        """Wait until this process is the only policy in the graph."""
        own = 0 if self.chunks is None else 1
        self.spin_until(lambda: self.count_publishers(ACTION_CHUNK.name) <= own, GRAPH_TIMEOUT_S)

    def pause_policy(self) -> None:
        """Send no more chunks from this process."""
        self._next_chunk_s = float("inf")

    def end_policy_processes(self, but: tuple[str, ...] = ()) -> None:
        """End the processes orderly, so that the graph forgets them."""
        for name in {POLICY_PROCESS, SEEING_PROCESS, CAMERA_PROCESS} - set(but):
            if self.processes.is_alive(name):
                self.processes.signal(name, signal.SIGCONT)
                self.processes.signal(name, signal.SIGINT)
                self.spin_until(lambda name=name: not self.processes.is_alive(name), 5.0)
            self.processes.end(name)

    def publish_chunk(self) -> None:
        """The swing's next chunk, through `mangle_chunk`."""
        assert self._swing is not None
        if self.overlapped:
            age_s = self.delay_s
            times_s = GuardSettings(num_actions=OVERLAPPED_ACTIONS).knot_times_s
            time_s = time.monotonic() - age_s - self._swing_begin_s
            knots = self._swing.knots(time_s, times_s)
        else:
            age_s, knots = 0.0, self._swing.knots(CHUNK_S * self.num_chunks)
        self.num_chunks += 1
        stamp_ns = self.now_ns() - round(age_s * NANOSECONDS)
        message: JointTrajectoryMessage | None = chunk_message(self.spec, knots, stamp_ns)
        if self.mangle_chunk is not None and message is not None:
            message = self.mangle_chunk(message)
        if message is None:
            return
        self.last_message = message
        self.chunks.publish(message)

    # The arm.

    def positions(self) -> FloatArray | None:
        """The newest command, float64 [J]."""
        newest = self.log.newest()
        return None if newest is None else newest[-1, 1:].copy()

    def speed_rad_s(self) -> float:
        """The fastest joint's."""
        newest = self.log.newest()
        if newest is None:
            return 0.0
        return float(np.abs(np.diff(newest[:, 1:], axis=0)).max()) * 1000.0

    def _on_arm_event(self, message: String) -> None:
        event = event_of_text(message.data)
        if isinstance(event, WorldTaken):
            self._world_of_arm = event.number
        elif isinstance(event, Stall):
            self.largest_stall_s = max(self.largest_stall_s, event.stall_s)
        elif isinstance(event, OwnStep):
            self.own_steps.append(event.cycle)
        else:
            self.pick_ups.append(event)
