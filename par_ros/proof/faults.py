# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros faults --json F`: faults injected into a moving arm, over real DDS.

The guard and a loopback arm run as processes; this one is the policy (a process of its own where
it is to be killed, the real policy_node with a swing for a network where the camera fails), the
wire that joint states and pictures travel on, the clock where a case needs one, and the judge. Each
case brings the arm into motion, injects one fault, and looks at what the guard sends: was the fault
noticed (the counters of guard and policy_node), how long until the command is at rest, and did the
command break a limit at any millisecond (limit_oracle.py, with the pick-up time that the message
really had, up to the 10 ms that a controller is given). What was killed is started again, and the
arm must move again without any cleaning by hand.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.subscription import MessageInfo
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.parameters import read_arm_spec
from par_ros.process import PARENT_VARIABLE, read_together, report_error
from par_ros.proof.limit_oracle import ControllerOracle
from par_ros.proof.scripted_policy import CHUNK_S, KNOT_TIMES_S, Swing, chunk_message
from par_ros.proof.seeing_policy import INSTRUCTION
from par_ros.run_results import hardware
from par_ros.topics import (
    ACTION_CHUNK,
    CLOCK,
    DIAGNOSTICS,
    DISENGAGE,
    E_STOP,
    ENGAGE,
    GUARD,
    IMAGE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    POLICY,
    RESET_STOP,
    STOP,
)

_ARM_JOINT_STATES = "arm_joint_states"
_CAMERA_IMAGES = "camera_images"
_POLICY_PROCESS = "proof.scripted_policy"
_SEEING_PROCESS = "proof.seeing_policy"
_CAMERA_PROCESS = "proof.scripted_camera"
_RUNNER_PROCESS = "proof.guard_runner"
_ARM_PROCESS = "loopback_arm_node"
_SUPERVISOR = "real_arm_node"
_MAX_PICKUP_S = 0.01
_NUM_ATTEMPTS = 5
_MIN_SPEED_RAD_S = 0.05
# The joint states pass through this process, which a busy machine delays.
_MAX_JOINT_STATE_AGE_S = 0.3
_REST_AFTER_STOP_S = 0.5
# The swing moves by the 0.1 rad that show a frozen picture within this.
_FROZEN_S = 1.3
_SERVICE_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 5.0
_BRING_UP_TIMEOUT_S = 60.0
_BRING_UP_STEPS = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
_SETTLE_TIMEOUT_S = 10.0
# A killed policy stays in the ROS graph until its lease ends, and the guard waits for that.
_ENGAGE_TIMEOUT_S = 45.0
# Beyond the deadline of the case's watch: a silent camera is named within 2 s of the fault.
_OBSERVE_S = 1.8


class SuiteError(Exception):
    """The suite itself could not run; the text is a sentence."""


@dataclass(frozen=True)
class FaultResult:
    """One row of the table.

    Attributes:
        detected: the guard's counter for this fault went up.
        expected: the counter that had to go up.
        seen: all counters that went up, the guard's and camera_<kind> of policy_node.
        holds: whether the arm had to come to rest.
        time_to_hold_s: from the fault to a command at rest; None where the motion goes on.
        allowed_s: the deadline of the watch that finds it, and 0.5 s.
        limit_violations: samples of the command, at 1 kHz, that broke a limit after the start.
        largest_velocity_share, ...: of the joint's limit, commanded from the fault on.
        recovered: what was killed was started again and the arm moved again; None where nothing was
            killed.
        recovery_s: from the new start to the arm in motion.
        recovery_seen: where it did not move again, the guard's counters that went up meanwhile.
    """

    name: str
    detected: bool
    expected: str
    seen: tuple[str, ...]
    holds: bool
    time_to_hold_s: float | None
    allowed_s: float
    limit_violations: int
    largest_velocity_share: float
    largest_acceleration_share: float
    largest_jerk_share: float
    examples: tuple[str, ...]
    recovered: bool | None = None
    recovery_s: float | None = None
    recovery_seen: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Noticed, at rest in time, no limit broken, and back in motion where it was killed."""
        in_time = not self.holds or (
            self.time_to_hold_s is not None and self.time_to_hold_s <= self.allowed_s
        )
        well = self.detected and in_time and self.limit_violations == 0
        return well and self.recovered is not False


@dataclass(frozen=True)
class Fault:
    """One case: `inject` is called once in full motion.

    Attributes:
        name, expected: of the case, and the counter that must go up.
        watch_s: deadline of the watch that finds it.
        holds: whether the arm must come to rest.
        policy: "" for this process, or the module of the process that is the policy.
        supervised: guard and real_arm_node under a runner of their own.
        sim_time: guard and arm live on /clock.
        phase_s: how far into a chunk it happens.
        restarted: the process that is started again afterwards; "" where none is.
    """

    name: str
    expected: str
    inject: Callable[["Rig"], None]
    watch_s: float = 0.0
    holds: bool = True
    policy: str = ""
    supervised: bool = False
    sim_time: bool = False
    phase_s: float = 0.2
    restarted: str = ""


class Rig(Node):
    """Policy, wire, clock and judge in one node; guard and arm as child processes."""

    def __init__(self) -> None:
        super().__init__("fault_rig")
        self.spec: ArmSpec = read_arm_spec("panda")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # Clients are kept: discovery takes longer than a call. (Node._clients is rclpy's own.)
        self._service_clients: dict[str, Any] = {}
        self._sim_time = False
        self._supervised = False
        # Added to the monotonic clock: the clock that guard and arm live on.
        self.clock_offset_ns = 0
        self.mangle_joints: Callable[[JointState], JointState | None] | None = None
        self.mangle_chunk: Callable[[JointTrajectoryMessage], JointTrajectoryMessage | None] | None
        self.mangle_chunk = None
        self.mangle_image: Callable[[Image], Image | None] | None = None
        self.counters: dict[str, int] = {}
        self.camera_faults: set[str] = set()
        self.measured: FloatArray | None = None
        self._speed_rad_s = 0.0
        self.oracle: ControllerOracle | None = None
        self._oracle_zero_s = 0.0
        # System clock minus monotonic clock.
        self._system_offset_ns = 0
        self._swing: Swing | None = None
        self._next_chunk_s = float("inf")
        self._num_chunks = 0
        self.last_chunk_s = 0.0
        self.last_message: JointTrajectoryMessage | None = None
        self.chunks = self._make_chunk_publisher()
        self._wire = self.create_publisher(
            JointState, JOINT_STATES.name, JOINT_STATES.writer_qos.profile()
        )
        self.stop_topic = self.create_publisher(Bool, E_STOP.name, E_STOP.writer_qos.profile())
        self._clock_out = self.create_publisher(
            ClockMessage, CLOCK.name, CLOCK.writer_qos.profile()
        )
        self.create_subscription(
            JointState, _ARM_JOINT_STATES, self._on_arm_joints, JOINT_STATES.reader_qos.profile()
        )
        self.create_subscription(
            JointTrajectoryMessage,
            JOINT_TRAJECTORY.name,
            self._on_trajectory,
            JOINT_TRAJECTORY.reader_qos.profile(),
        )
        self._pictures = self.create_publisher(Image, IMAGE.name, IMAGE.writer_qos.profile())
        self.create_subscription(Image, _CAMERA_IMAGES, self._on_image, IMAGE.reader_qos.profile())
        self.create_subscription(
            DiagnosticArray,
            DIAGNOSTICS.name,
            self._on_diagnostics,
            DIAGNOSTICS.reader_qos.profile(),
        )

    # Time.

    def now_ns(self) -> int:
        """The clock of guard and arm."""
        if self._sim_time:
            return time.monotonic_ns() + self.clock_offset_ns
        return int(self.get_clock().now().nanoseconds)

    def spin_for(self, duration_s: float) -> None:
        """Let everything happen for `duration_s` of wall time."""
        self.spin_until(lambda: False, duration_s)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Spin until `condition` holds; False after `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= end_s:
                return False
            if self._sim_time:
                self._clock_out.publish(messages.clock_message(self.now_ns()))
            rclpy.spin_once(self, timeout_sec=0.001 if self._sim_time else 0.005)
            self._publish_chunk_if_due()
        return True

    # Processes.

    def start_process(self, name: str, arguments: list[str]) -> None:
        """Start `python -m par_ros.<name>`, or the module of that dotted name."""
        parameters = ["-p", f"use_sim_time:={str(self._sim_time).lower()}"]
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"par_ros.{name}", "--ros-args", *arguments, *parameters],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Signal one child process."""
        self._processes[name].send_signal(number)

    def kill_child_of(self, name: str, child: str) -> None:
        """SIGKILL the process that child process `name` started with `child` in its command."""
        parent = self._processes[name].pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        for pid in map(int, children.split()):
            if child.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return
        raise SuiteError(f"{name} has no child process {child}; start it by hand.")

    def end_process(self, name: str) -> None:
        """Kill one child process and wait for it."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def end_all(self) -> None:
        """Kill every child process."""
        for name in list(self._processes):
            self.end_process(name)

    def start_guard(self) -> None:
        """Start the guard and bring it to active; or have the runner do so."""
        if self._supervised:
            self.start_process(_RUNNER_PROCESS, [])
        else:
            settings = (
                "reference:=topic",
                f"max_joint_state_age_s:={_MAX_JOINT_STATE_AGE_S}",
            )
            self.start_process(GUARD, [word for setting in settings for word in ("-p", setting)])
        self._bring_up(GUARD, drive=not self._supervised)

    def _bring_up(self, node: str, *, drive: bool = True) -> None:
        """Wait until a lifecycle node is active; `drive` it there."""
        # A killed node's services stay in the ROS graph for a while and swallow requests: ask for
        # the state until the living one answers.
        end_s = time.monotonic() + _BRING_UP_TIMEOUT_S
        while time.monotonic() < end_s:
            state = self._call_once(GetState, f"{node}/get_state", GetState.Request())
            if state is None:
                continue
            if state.current_state.id == State.PRIMARY_STATE_ACTIVE:
                return
            step = _BRING_UP_STEPS.get(state.current_state.id)
            if step is not None and drive:
                request = ChangeState.Request(transition=Transition(id=step))
                self._call_once(ChangeState, f"{node}/change_state", request)
        raise SuiteError(f"{node} did not come up; start it by hand and read its log.")

    def start_system(self, *, sim_time: bool, supervised: bool) -> None:
        """Arm and guard on the chosen clock."""
        self.end_all()
        self._sim_time, self._supervised = sim_time, supervised
        self.clock_offset_ns = 1_000 * NANOSECONDS
        self.measured = None
        self.start_arm()
        self.start_guard()
        if not self.spin_until(lambda: self.measured is not None, _SERVICE_TIMEOUT_S):
            raise SuiteError("the loopback arm sent no joint states; start it by hand.")

    def start_arm(self) -> None:
        """The loopback arm; its joint states go through this process."""
        self.start_process(
            _ARM_PROCESS,
            ["-r", f"{JOINT_STATES.name}:={_ARM_JOINT_STATES}", "-p", "publish_images:=false"],
        )

    def trigger(self, name: str) -> Any:
        """Call one of the guard's services."""
        return self._call(Trigger, name, Trigger.Request())

    def _call(self, service_type: Any, name: str, request: Any) -> Any:
        end_s = time.monotonic() + _SERVICE_TIMEOUT_S
        while time.monotonic() < end_s:
            response = self._call_once(service_type, name, request)
            if response is not None:
                return response
        raise SuiteError(f"service {name} did not answer.")

    def _call_once(self, service_type: Any, name: str, request: Any) -> Any:
        """One call; None where no answer comes in time."""
        if name not in self._service_clients:
            self._service_clients[name] = self.create_client(service_type, name)
        client = self._service_clients[name]
        if not self.spin_until(client.service_is_ready, _ANSWER_TIMEOUT_S):
            return None
        future = client.call_async(request)
        return future.result() if self.spin_until(future.done, _ANSWER_TIMEOUT_S) else None

    # The policy.

    def _make_chunk_publisher(self) -> Any:
        return self.create_publisher(
            JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
        )

    def start_policy(self, process: str) -> None:
        """Begin to swing, from where the arm is; in this process, or in one of that name."""
        self._num_chunks = 0
        if process:
            if self.chunks is not None:
                self.destroy_publisher(self.chunks)
                self.chunks = None
            # A policy that was killed before is still in the graph for a while.
            self.spin_until(
                lambda: self.count_publishers(ACTION_CHUNK.name) == 0, _ENGAGE_TIMEOUT_S
            )
            if process == _SEEING_PROCESS:
                self.start_process(_CAMERA_PROCESS, ["-r", f"{IMAGE.name}:={_CAMERA_IMAGES}"])
                self.start_process(process, ["-p", f"instruction:={INSTRUCTION}"])
                self._bring_up(POLICY)
            else:
                self.start_process(process, [])
            return
        if self.chunks is None:
            self.chunks = self._make_chunk_publisher()
            self.spin_until(lambda: self.chunks.get_subscription_count() > 0, 5.0)
        assert self.measured is not None
        self._swing = Swing(self.measured[:-1], self.spec.home, float(self.measured[-1]))
        self._next_chunk_s = time.monotonic()

    def stop_policy(self) -> None:
        """Send no more chunks. A policy process is asked to leave, so that the graph forgets it."""
        self._next_chunk_s = float("inf")
        for name in (_POLICY_PROCESS, _SEEING_PROCESS, _CAMERA_PROCESS):
            process = self._processes.get(name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
                self.spin_until(lambda process=process: process.poll() is not None, 5.0)
            self.end_process(name)

    def _publish_chunk_if_due(self) -> None:
        if time.monotonic() < self._next_chunk_s:
            return
        self._next_chunk_s += CHUNK_S
        self.publish_chunk()

    def publish_chunk(self) -> None:
        """The swing's next chunk, through `mangle_chunk`."""
        assert self._swing is not None
        knots = self._swing.knots(CHUNK_S * self._num_chunks)
        self._num_chunks += 1
        message = chunk_message(self.spec, knots, self.now_ns())
        if self.mangle_chunk is not None:
            changed = self.mangle_chunk(message)
            if changed is None:
                return
            message = changed
        self.last_message = message
        self.last_chunk_s = time.monotonic()
        self.chunks.publish(message)

    # The wire, and the judge.

    def _on_arm_joints(self, message: JointState) -> None:
        sample = messages.read_joint_state(message)
        self.measured = sample.positions
        if sample.velocities is not None:
            self._speed_rad_s = float(np.abs(sample.velocities[:-1]).max())
        forwarded = message if self.mangle_joints is None else self.mangle_joints(message)
        if forwarded is not None:
            self._wire.publish(forwarded)

    def _on_image(self, message: Image) -> None:
        forwarded = message if self.mangle_image is None else self.mangle_image(message)
        if forwarded is not None:
            self._pictures.publish(forwarded)

    def _on_trajectory(self, message: JointTrajectoryMessage, info: MessageInfo) -> None:
        if self.oracle is None:
            return
        now_s = self.judged_s()
        stamp_s = None
        if messages.stamp_ns(message):
            offset_ns = self.clock_offset_ns if self._sim_time else self._system_offset_ns
            stamp_s = (messages.stamp_ns(message) - offset_ns) / NANOSECONDS - self._oracle_zero_s
            sent_s = stamp_s
        else:
            # It starts when it is picked up. The middleware writes the time of sending.
            sent_ns = int(info["source_timestamp"])
            sent_s = (sent_ns - self._system_offset_ns) / NANOSECONDS - self._oracle_zero_s
        # What the wire took beyond a controller's 10 ms is not the guard's.
        pickup_s = float(np.clip(now_s, sent_s, sent_s + _MAX_PICKUP_S))
        trajectory = messages.read_joint_trajectory(message)
        self.oracle.receive(trajectory, stamp_s, max(pickup_s, self.oracle.time_s))

    def start_judging(self) -> None:
        """A new oracle that stands where the arm stands."""
        assert self.measured is not None
        self.oracle = ControllerOracle(self.spec, self.measured[:-1], blends=False)
        self._oracle_zero_s = time.monotonic()
        # Once a case: reading two clocks for each message would move the joins by a tenth of a
        # millisecond, which looks like jerk.
        self._system_offset_ns = read_together(time.time_ns)[0].offset_ns

    def judged_s(self) -> float:
        """Now on the oracle's axis."""
        return time.monotonic() - self._oracle_zero_s

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in messages.read_diagnostics(message):
            if status.name == GUARD:
                self.counters = {
                    name: int(value) for name, value in status.values.items() if value.isdigit()
                }
            elif status.name == POLICY and status.values.get("camera_fault"):
                self.camera_faults.add(f"camera_{status.values['camera_fault']}")

    # Cases.

    def run(self, fault: Fault) -> FaultResult:
        """Bring the arm into motion, inject, observe; and start again what was killed."""
        self._prepare(fault)
        before = dict(self.counters)
        self.camera_faults = set()
        fault_s = self.judged_s()
        assert self.oracle is not None
        self.oracle.forget_largest()
        fault.inject(self)
        self.spin_for(fault.watch_s + _OBSERVE_S if fault.holds else 1.0)
        seen = (*self._risen_since(before), *sorted(self.camera_faults))
        result = self._finish(fault, fault_s, seen)
        return self._with_recovery(fault, result) if fault.restarted else result

    def _risen_since(self, before: dict[str, int]) -> tuple[str, ...]:
        """The guard's counters that are higher than `before`."""
        return tuple(name for name, count in self.counters.items() if count > before.get(name, 0))

    def _with_recovery(self, fault: Fault, result: FaultResult) -> FaultResult:
        """Whether the arm moves again after a new start of what was killed, and after how long."""
        begin_s = time.monotonic()
        before = dict(self.counters)
        try:
            if fault.restarted == GUARD:
                self.end_process(_RUNNER_PROCESS if self._supervised else GUARD)
                self.counters = before = {}
                self.start_guard()
            elif fault.restarted == _ARM_PROCESS:
                self.end_process(_ARM_PROCESS)
                self.start_arm()
            if fault.policy:
                # Until its lease ends a killed policy stays in the graph, where the guard sees it.
                self.spin_until(
                    lambda: self.count_publishers(ACTION_CHUNK.name) == 0, _ENGAGE_TIMEOUT_S
                )
            moves = self._move(fault)
        except SuiteError:
            moves = False
        recovery_s = time.monotonic() - begin_s if moves else None
        self.stop_policy()
        self.oracle = None
        seen = () if moves else self._risen_since(before)
        return replace(result, recovered=moves, recovery_s=recovery_s, recovery_seen=seen)

    def _prepare(self, fault: Fault) -> None:
        """The arm in full motion, at the case's phase of a chunk."""
        for _ in range(_NUM_ATTEMPTS):
            self.stop_policy()
            self.mangle_chunk = self.mangle_joints = self.mangle_image = None
            clock = (self._sim_time, self._supervised)
            if clock != (fault.sim_time, fault.supervised) or not self._processes:
                self.start_system(sim_time=fault.sim_time, supervised=fault.supervised)
            if self._move(fault):
                sent = self._num_chunks
                self.spin_until(lambda sent=sent: self._num_chunks > sent, CHUNK_S)
                self.spin_for(fault.phase_s)
                if self._is_moving():
                    return
        raise SuiteError(
            f"{fault.name}: the arm did not move in {_NUM_ATTEMPTS} attempts (the guard counted "
            f"{self.counters}); run it alone with --only, on a machine that is not busy."
        )

    def _engage(self) -> bool:
        """Stopped, judged from here on, engaged."""
        self.trigger(RESET_STOP.client_name)
        self.trigger(DISENGAGE.client_name)
        self.spin_for(0.8)
        self.start_judging()
        return self.spin_until(
            lambda: bool(self.trigger(ENGAGE.client_name).success), _ENGAGE_TIMEOUT_S
        )

    def _move(self, fault: Fault) -> bool:
        """True once engaged and two chunks have passed."""
        # policy_node is engaged when it is up, as by an operator: on two cores, camera and policy
        # that start together delay the joint states until the guard rests and is disengaged.
        engage_last = fault.policy == _SEEING_PROCESS
        if engage_last:
            self.start_policy(fault.policy)
        if not self._engage():
            return False
        passed = self._num_passed()
        if not engage_last:
            self.start_policy(fault.policy)
        return self.spin_until(lambda: self._num_passed() >= passed + 2, _SETTLE_TIMEOUT_S)

    def _is_moving(self) -> bool:
        """On a busy machine chunks come late, and the arm may just be waiting for one."""
        # Of the arm, not of the oracle: a trajectory that is still on its way must find the oracle
        # at the time of its stamp.
        return self._speed_rad_s > _MIN_SPEED_RAD_S

    def _num_passed(self) -> int:
        return self.counters.get("unchanged", 0) + self.counters.get("tracked", 0)

    def _finish(self, fault: Fault, fault_s: float, seen: tuple[str, ...]) -> FaultResult:
        self.stop_policy()
        oracle = self.oracle
        assert oracle is not None
        oracle.advance(self.judged_s())
        self.oracle = None
        at_rest = not oracle.velocities.any()
        time_to_hold_s = max(oracle.last_motion_s - fault_s, 0.0) if at_rest else None
        findings = oracle.findings
        return FaultResult(
            name=fault.name,
            detected=fault.expected in seen,
            expected=fault.expected,
            seen=seen,
            holds=fault.holds,
            time_to_hold_s=time_to_hold_s if fault.holds else None,
            allowed_s=fault.watch_s + _REST_AFTER_STOP_S,
            limit_violations=findings.num_violations,
            largest_velocity_share=findings.largest["velocity"],
            largest_acceleration_share=findings.largest["acceleration"],
            largest_jerk_share=findings.largest["jerk"],
            examples=tuple(findings.examples[:3]),
        )


# What is done to the next chunk.


def _next_chunk(
    change: Callable[[JointTrajectoryMessage], JointTrajectoryMessage],
) -> Callable[[Rig], None]:
    """Publish one changed chunk now, and regular ones after it."""

    def inject(rig: Rig) -> None:
        rig.mangle_chunk = change
        rig.publish_chunk()
        rig.mangle_chunk = None

    return inject


def _with_positions(
    change: Callable[[FloatArray], FloatArray],
) -> Callable[[Rig], None]:
    def changed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
        trajectory = messages.read_joint_trajectory(message)
        new = JointTrajectory(
            trajectory.joint_names, trajectory.times_s, change(trajectory.positions.copy())
        )
        return messages.joint_trajectory_message(new, messages.stamp_ns(message))

    return _next_chunk(changed)


def _put(knot: int, joint: int, value: float) -> Callable[[FloatArray], FloatArray]:
    def change(positions: FloatArray) -> FloatArray:
        positions[knot, joint] = value
        return positions

    return change


def _noise(positions: FloatArray) -> FloatArray:
    positions[:, 0] += 0.03 * np.where(np.arange(8) % 2, 1.0, -1.0)
    return positions


def _fast(positions: FloatArray) -> FloatArray:
    positions[:, 0] += 3.0 * KNOT_TIMES_S
    return positions


def _beyond_position(positions: FloatArray) -> FloatArray:
    """Towards joint 4's upper limit in steps that are no jump."""
    positions[:, 3] = positions[:, 3] + 0.28 * np.arange(1, 9)
    return positions


def _with_stamp(offset_s: float) -> Callable[[Rig], None]:
    def changed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
        stamp_ns = messages.stamp_ns(message) + round(offset_s * NANOSECONDS)
        message.header.stamp = messages.ns_to_time(stamp_ns)
        return message

    return _next_chunk(changed)


def _without_last_joint(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    trajectory = messages.read_joint_trajectory(message)
    fewer = JointTrajectory(
        trajectory.joint_names[:-1], trajectory.times_s, trajectory.positions[:, :-1]
    )
    return messages.joint_trajectory_message(fewer, messages.stamp_ns(message))


def _renamed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    message.joint_names = [f"other_{name}" for name in message.joint_names]
    return message


def _reversed_joints(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    message.joint_names = list(reversed(message.joint_names))
    return message


def _five_points(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    message.points = list(message.points)[:5]
    return message


def _no_points(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    message.points = []
    return message


def _ragged(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    message.points[3].positions = list(message.points[3].positions)[:4]
    return message


def _same_times(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    message.points[4].time_from_start = message.points[3].time_from_start
    return message


def _stretched(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
    for number, point in enumerate(message.points):
        point.time_from_start = messages.ns_to_duration((number + 1) * 80_000_000)
    return message


def _send_again(rig: Rig) -> None:
    assert rig.last_message is not None
    rig.chunks.publish(rig.last_message)


def _slow_policy(rig: Rig) -> None:
    """Every answer is 0.6 s old when it comes."""

    def changed(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
        stamp_ns = messages.stamp_ns(message) - round(0.6 * NANOSECONDS)
        message.header.stamp = messages.ns_to_time(stamp_ns)
        return message

    rig.mangle_chunk = changed


def _silent_policy(rig: Rig) -> None:
    rig.mangle_chunk = lambda _: None


def _second_policy(rig: Rig) -> None:
    second = rig.create_publisher(
        JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
    )
    rig.spin_until(lambda: rig.counters.get("fault_two_policies", 0) > 0, 2.0)
    rig.destroy_publisher(second)


def _joints(change: Callable[[JointState], JointState | None]) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        rig.mangle_joints = change

    return inject


def _joints_missing_one(message: JointState) -> JointState:
    message.name = list(message.name)[:-2]
    message.position = list(message.position)[:-2]
    message.velocity = list(message.velocity)[:-2]
    return message


def _joints_nan(message: JointState) -> JointState:
    message.position[2] = float("nan")
    return message


def _joints_jump(message: JointState) -> JointState:
    message.position[2] += 0.5
    return message


def _joints_drift(rig: Rig) -> None:
    """As if the arm were pushed away: 0.5 rad/s away from its command."""
    begin_s = time.monotonic()

    def change(message: JointState) -> JointState:
        message.position[1] -= 0.5 * (time.monotonic() - begin_s)
        return message

    rig.mangle_joints = change


def _images(change: Callable[[Image], Image | None]) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        rig.mangle_image = change

    return inject


def _image_frozen(rig: Rig) -> None:
    """One and the same picture with stamps that go on."""
    kept: list[Image] = []

    def change(message: Image) -> Image:
        kept.append(message)
        message.data = kept[0].data
        return message

    rig.mangle_image = change


def _image_stalled(rig: Rig) -> None:
    """Pictures that change, with one and the same stamp."""
    kept: list[Image] = []

    def change(message: Image) -> Image:
        kept.append(message)
        message.header.stamp = kept[0].header.stamp
        return message

    rig.mangle_image = change


def _image_black(message: Image) -> Image:
    black = np.zeros((message.height, message.width, 3), np.uint8)
    return messages.array_to_image(black, "rgb8", messages.stamp_ns(message), "camera")


def _image_smaller(message: Image) -> Image:
    picture = messages.image_to_rgb(message)[::2, ::2]
    return messages.array_to_image(
        np.ascontiguousarray(picture), "rgb8", messages.stamp_ns(message), "camera"
    )


def _image_encoding(message: Image) -> Image:
    message.encoding = "bayer_rggb8"
    return message


def _image_old(message: Image) -> Image:
    stamp_ns = messages.stamp_ns(message) - round(0.6 * NANOSECONDS)
    message.header.stamp = messages.ns_to_time(stamp_ns)
    return message


def _policy_hangs(rig: Rig) -> None:
    """Stopped for 2 s, and then it goes on as if nothing had been."""
    rig.send_signal(_POLICY_PROCESS, signal.SIGSTOP)
    rig.spin_for(2.0)
    rig.send_signal(_POLICY_PROCESS, signal.SIGCONT)


def _clock_step(step_s: float) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        rig.clock_offset_ns += round(step_s * NANOSECONDS)

    return inject


def _stop_service(rig: Rig) -> None:
    rig.trigger(STOP.client_name)


def _stop_topic(rig: Rig) -> None:
    rig.stop_topic.publish(Bool(data=True))


def _kill_guard(rig: Rig) -> None:
    rig.send_signal(GUARD, signal.SIGKILL)


FAULTS: tuple[Fault, ...] = (
    Fault("chunk: NaN", "fault_not_finite", _with_positions(_put(2, 3, float("nan")))),
    Fault("chunk: Inf", "fault_not_finite", _with_positions(_put(0, 0, float("inf")))),
    Fault("chunk: NaN gripper", "fault_not_finite", _with_positions(_put(5, 7, float("nan")))),
    Fault("chunk: other joints", "fault_joints", _next_chunk(_renamed)),
    Fault("chunk: a joint missing", "fault_joints", _next_chunk(_without_last_joint)),
    Fault("chunk: joints in another order", "fault_joint_order", _next_chunk(_reversed_joints)),
    Fault("chunk: five points", "fault_shape", _next_chunk(_five_points)),
    Fault("chunk: no points", "fault_shape", _next_chunk(_no_points)),
    Fault("chunk: ragged points", "fault_shape", _next_chunk(_ragged)),
    Fault("chunk: times not increasing", "fault_times", _next_chunk(_same_times)),
    Fault("chunk: times stretched", "fault_times", _next_chunk(_stretched)),
    Fault("chunk: jump of 1 rad", "fault_jump", _with_positions(_put(4, 1, 1.5))),
    Fault("chunk: stamp in the future", "fault_future", _with_stamp(1.0)),
    Fault("chunk: sent twice", "duplicate", _send_again, holds=False),
    Fault("chunk: older than the last", "reordered", _with_stamp(-0.3), holds=False),
    Fault("chunk: noise beyond the acceleration", "tracked", _with_positions(_noise), holds=False),
    Fault("chunk: beyond the velocity", "refused", _with_positions(_fast), holds=False),
    Fault("chunk: beyond a position limit", "refused", _with_positions(_beyond_position),
          holds=False),
    Fault("policy: silent", "fault_dead_policy", _silent_policy, watch_s=0.7),
    Fault("policy: killed", "fault_dead_policy",
          lambda rig: rig.send_signal(_POLICY_PROCESS, signal.SIGKILL),
          watch_s=0.7, policy=_POLICY_PROCESS, restarted=_POLICY_PROCESS),
    Fault("policy: hangs for 2 s", "fault_dead_policy", _policy_hangs,
          watch_s=0.7, policy=_POLICY_PROCESS),
    Fault("policy: answers 0.6 s late", "fault_dead_policy", _slow_policy, watch_s=0.7),
    Fault("policy: two of them", "fault_two_policies", _second_policy, watch_s=0.4),
    Fault("camera: killed", "camera_silent",
          lambda rig: rig.send_signal(_CAMERA_PROCESS, signal.SIGKILL),
          watch_s=0.7, policy=_SEEING_PROCESS, restarted=_CAMERA_PROCESS),
    Fault("camera: stopped", "camera_silent", _images(lambda _: None),
          watch_s=0.7, policy=_SEEING_PROCESS),
    Fault("camera: frozen", "camera_frozen", _image_frozen,
          watch_s=0.7 + _FROZEN_S, policy=_SEEING_PROCESS),
    Fault("camera: stamps do not go on", "camera_stalled", _image_stalled,
          watch_s=0.7, policy=_SEEING_PROCESS),
    Fault("camera: black", "camera_black", _images(_image_black),
          watch_s=0.7, policy=_SEEING_PROCESS),
    Fault("camera: wrong size", "camera_size", _images(_image_smaller),
          watch_s=0.7, policy=_SEEING_PROCESS),
    Fault("camera: wrong encoding", "camera_encoding", _images(_image_encoding),
          watch_s=0.7, policy=_SEEING_PROCESS),
    Fault("camera: pictures 0.6 s old", "camera_stale", _images(_image_old),
          watch_s=0.7, policy=_SEEING_PROCESS),
    Fault("joint states: stopped", "fault_joint_states_stale", _joints(lambda _: None),
          watch_s=_MAX_JOINT_STATE_AGE_S + 0.05),
    Fault("joint states: a joint missing", "fault_joint_states", _joints(_joints_missing_one)),
    Fault("joint states: NaN", "fault_joint_states", _joints(_joints_nan)),
    Fault("joint states: a joint jumps", "fault_joint_jump", _joints(_joints_jump)),
    Fault("arm: pushed off its command", "fault_tracking_error", _joints_drift, watch_s=0.6),
    Fault("arm: stopped (SIGSTOP)", "fault_joint_states_stale",
          lambda rig: rig.send_signal(_ARM_PROCESS, signal.SIGSTOP),
          watch_s=_MAX_JOINT_STATE_AGE_S + 0.05),
    Fault("stop: service, start of a chunk", "e_stops", _stop_service, phase_s=0.02),
    Fault("stop: service, middle of a chunk", "e_stops", _stop_service, phase_s=0.2),
    Fault("stop: topic, end of a chunk", "e_stops", _stop_topic, phase_s=0.37),
    Fault("clock: 5 s back", "fault_clock", _clock_step(-5.0), sim_time=True),
    Fault("clock: 5 s forward", "fault_clock", _clock_step(5.0), sim_time=True),
    Fault("arm: killed", "fault_joint_states_stale",
          lambda rig: rig.send_signal(_ARM_PROCESS, signal.SIGKILL),
          watch_s=_MAX_JOINT_STATE_AGE_S + 0.05, restarted=_ARM_PROCESS),
    Fault("guard: killed", "", _kill_guard, watch_s=0.4, restarted=GUARD),
    Fault("supervisor: killed", "", lambda rig: rig.kill_child_of(_RUNNER_PROCESS, _SUPERVISOR),
          watch_s=0.4, supervised=True, restarted=GUARD),
    Fault("runner: killed", "", lambda rig: rig.send_signal(_RUNNER_PROCESS, signal.SIGKILL),
          watch_s=0.4, supervised=True, restarted=GUARD),
)  # fmt: skip


def run_suite(
    only: str | None, done: list[FaultResult], save: Callable[[list[FaultResult]], None]
) -> list[FaultResult]:
    """All cases but those `done`, or those whose name contains `only`; a line each on stderr.

    `save` is called with the results so far after each case.
    """
    chosen = [fault for fault in FAULTS if only is None or only in fault.name]
    if not chosen:
        names = "; ".join(fault.name for fault in FAULTS)
        raise SuiteError(f"no fault's name contains {only!r}; the faults are: {names}.")
    rclpy.init(args=[])
    rig = Rig()
    results = list(done)
    try:
        for fault in chosen:
            if any(result.name == fault.name for result in done):
                continue
            results.append(_run_case(rig, fault))
            print(_line(results[-1]), file=sys.stderr, flush=True)
            save(results)
    finally:
        rig.end_all()
        rig.destroy_node()
        rclpy.try_shutdown()
    return results


def _run_case(rig: Rig, fault: Fault) -> FaultResult:
    try:
        result = rig.run(fault)
    except SuiteError as error:
        # Nothing was injected yet: the arm could not be brought into motion. Once more, from new.
        print(f"once more: {error}", file=sys.stderr, flush=True)
        rig.end_all()
        result = rig.run(fault)
    if not fault.expected:
        # Nobody is left to count: that the arm came to rest without a guard is the detection.
        detected = result.time_to_hold_s is not None
        result = replace(result, detected=detected, expected="the tail")
    if fault.name.startswith(("arm:", "guard:", "supervisor:", "runner:")):
        rig.end_all()
    return result


def _line(result: FaultResult) -> str:
    hold = "goes on" if not result.holds else "never"
    if result.time_to_hold_s is not None:
        hold = f"{result.time_to_hold_s:.3f} s of {result.allowed_s:.2f}"
    verdict = "ok  " if result.passed else "FAIL"
    noticed = "noticed" if result.detected else "MISSED "
    violations = f"{result.limit_violations} violations"
    if result.recovered is not None:
        again = f"NEVER ({', '.join(result.recovery_seen)})"
        if result.recovery_s is not None:
            again = f"after {result.recovery_s:.1f} s"
        violations += f", moves again {again}"
    if not result.passed:
        violations += f" (seen: {', '.join(result.seen)}) {'; '.join(result.examples)}"
    return f"{verdict} {result.name:40s} {noticed} hold {hold:18s} {violations}"


def report(results: list[FaultResult], command: str) -> dict[str, Any]:
    """What goes into the JSON file."""
    return {
        "command": command,
        "passed": all(result.passed for result in results),
        "num_faults": len(results),
        "num_passed": sum(result.passed for result in results),
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
        "faults": [asdict(result) for result in results],
    }


def markdown_table(content: dict[str, Any]) -> str:
    """The README's table, from what report() gives."""
    rows = [
        "| Fault | Noticed | At rest after | Allowed | Velocity | Acceleration | Jerk "
        "| Limits broken | Moves again after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fault in content["faults"]:
        hold, allowed = "moves on", ""
        if fault["holds"]:
            rest_s = fault["time_to_hold_s"]
            hold = "never" if rest_s is None else f"{rest_s:.2f} s"
            allowed = f"{fault['allowed_s']:.2f} s"
        shares = " | ".join(
            f"{100 * fault[f'largest_{quantity}_share']:.0f} %"
            for quantity in ("velocity", "acceleration", "jerk")
        )
        again = ""
        if fault["recovered"] is not None:
            again = f"{fault['recovery_s']:.0f} s" if fault["recovered"] else "NEVER"
        rows.append(
            f"| {fault['name']} | {'yes' if fault['detected'] else 'NO'} | {hold} | {allowed} "
            f"| {shares} | {fault['limit_violations']} | {again} |"
        )
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """The command; 0 where every fault was noticed, held in time and broke no limit."""
    parser = argparse.ArgumentParser(prog="python -m par_ros faults", description=__doc__)
    parser.add_argument("--only", help="run the faults whose name contains this")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what the file of --json holds already"
    )
    parser.add_argument(
        "--table", type=Path, help="run nothing: print the README's table from this JSON file"
    )
    options = parser.parse_args(arguments)
    if options.table is not None:
        print(markdown_table(json.loads(options.table.read_text(encoding="utf-8"))))
        return 0
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
    done: list[FaultResult] = []
    if options.resume:
        if options.json is None or not options.json.is_file():
            parser.error("--resume goes on from the file of --json; name one that is there")
        stored = json.loads(options.json.read_text(encoding="utf-8"))
        done = [FaultResult(**row) for row in stored["faults"]]

    def save(results: list[FaultResult]) -> None:
        if options.json is not None:
            content = report(results, "python -m par_ros faults")
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    try:
        results = run_suite(options.only, done, save)
    except SuiteError as error:
        return report_error(error)
    content = report(results, "python -m par_ros faults")
    print(markdown_table(content))
    return 0 if content["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
