# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros guard_latency --chunks N --json F`: the guard's latency for a chunk.

Two figures. In process: the guard alone, filter and outgoing check, from a chunk to a trajectory,
without any message; processor time, which on an idle machine is the time that passes. Over DDS: the
guard and an arm run as processes, this one is the policy, and the time counts from just before the
chunk is published here to the moment at which the guard's middleware has sent the trajectory (its
source timestamp): one hop through DDS, reading the message, the guard, writing the message. The way
back is not in it. Both clocks are the machine's own.

A chunk goes out every 0.1 s, timed so that the swing goes on; every third carries noise that the
guard has to track within the limits, which is its longest computation.
"""

import datetime
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import rclpy
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.command_line import output_file, parse
from par_model.output_files import write_text
from par_ros import messages
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.guard import Guard, GuardSettings
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import Moment
from par_ros.parameters import read_arm_spec
from par_ros.process import report_error
from par_ros.proof.fault_processes import SuiteError
from par_ros.proof.fault_rig import GUARD_PARAMETERS, FaultRig
from par_ros.proof.faults import own_domain
from par_ros.proof.scripted_policy import KNOT_TIMES_S, Swing, chunk_message
from par_ros.run_results import hardware
from par_ros.topics import ENGAGE, JOINT_TRAJECTORY

_PERIOD_S = 0.1
_NUM_WARM_UP = 20
_NOISE_RAD = 0.004
_ANSWER_TIMEOUT_S = 1.0
_TRAJECTORY_TIMEOUT_S = 0.05
_ENGAGE_TIMEOUT_S = 15.0
_GRIPPER_M = 0.04
_TICK_NS = 20_000_000


@dataclass(frozen=True)
class LatencyOptions:
    """The command line."""

    # chunks that are measured, one every 0.1 s
    chunks: int = 600
    # the guard alone
    in_process: bool = False
    # where to write the result; times are in milliseconds
    json: Annotated[Path | None, output_file()] = None

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise ValueError(f"--chunks must be at least 1, got {self.chunks}.")


Times = dict[str, list[float]]


class Swinging:
    """The chunk for a moment of the swing, every third one with noise."""

    def __init__(self, spec: ArmSpec, begin: FloatArray, begin_s: float) -> None:
        """The arm stands at `begin` [J] at `begin_s`."""
        self._swing = Swing(begin, spec.home, _GRIPPER_M)
        self._begin_s = begin_s
        self._noise = np.random.default_rng(0)

    def knots(self, number: int, time_s: float) -> FloatArray:
        """float64 [8, J + 1]."""
        knots = self._swing.knots(time_s - self._begin_s)
        if number % 3 == 2:
            knots[:, :-1] += self._noise.normal(0.0, _NOISE_RAD, knots[:, :-1].shape)
        return knots


class GuardAlone:
    """A guard in this process before an arm that follows exactly; time is given, not waited for."""

    def __init__(self) -> None:
        self._spec = read_arm_spec("panda")
        self._guard = Guard(self._spec, GuardSettings())
        self._now_ns = 1_000 * NANOSECONDS

    def measure(self, num_chunks: int) -> Times:
        """Milliseconds of each chunk, by what the guard did: "unchanged" or "tracked"."""
        self._wait(0.4)
        reply = self._guard.engage(self._moment())
        if not reply.success:
            raise SuiteError(f"the guard did not engage: {reply.message}.")
        swinging = Swinging(self._spec, self._spec.home, 0.0)
        times_ms: Times = {"unchanged": [], "tracked": []}
        for number in range(num_chunks + _NUM_WARM_UP):
            knots = swinging.knots(number, number * _PERIOD_S)
            chunk = RequestedChunk(self._now_ns, self._spec.joint_names, KNOT_TIMES_S, knots)
            tracked = self._guard.counters["tracked"]
            begin_s = time.thread_time()
            command = self._guard.on_chunk(chunk, self._moment())
            took_ms = 1e3 * (time.thread_time() - begin_s)
            if number >= _NUM_WARM_UP and command.arm is not None:
                outcome = "tracked" if self._guard.counters["tracked"] > tracked else "unchanged"
                times_ms[outcome].append(took_ms)
            self._wait(_PERIOD_S)
        return times_ms

    def _wait(self, duration_s: float) -> None:
        for _ in range(round(duration_s * NANOSECONDS / _TICK_NS)):
            self._now_ns += _TICK_NS
            moment = self._moment()
            positions = self._guard.commanded_positions(moment)
            here = self._spec.home if positions is None else positions
            self._guard.on_joint_state(
                JointSample(self._now_ns, np.append(here, _GRIPPER_M), None), moment
            )
            self._guard.on_reference(self._reference(here), moment)
            self._guard.on_tick(1, moment)

    def _reference(self, positions: FloatArray) -> ReferenceSample:
        zeros = np.zeros(len(positions))
        return ReferenceSample(self._now_ns, positions, zeros, zeros)

    def _moment(self) -> Moment:
        return Moment(self._now_ns, self._now_ns - 900 * NANOSECONDS)


class LatencyRig(FaultRig):
    """The fault suite's rig, with a clock on every chunk instead of a judge."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._sent_ns: deque[int] = deque(maxlen=8)
        # Why the guard disengaged meanwhile; it is engaged again.
        self.faults: list[str] = []
        self.create_subscription(
            JointTrajectoryMessage,
            JOINT_TRAJECTORY.name,
            self._on_trajectory,
            JOINT_TRAJECTORY.reader_qos.profile(),
        )

    def _on_trajectory(self, message: JointTrajectoryMessage, info: Mapping[str, Any]) -> None:
        self._sent_ns.append(int(info["source_timestamp"]))

    def measure(self, num_chunks: int) -> Times:
        """As GuardAlone.measure()."""
        self.start_arm()
        self.start_guard(GUARD_PARAMETERS, supervised=False)
        self.start_policy("")
        self.pause_policy()
        swinging = self._engaged()
        begin_s = time.monotonic()
        times_ms: Times = {"unchanged": [], "tracked": []}
        for number in range(num_chunks + _NUM_WARM_UP):
            due_s = begin_s + number * _PERIOD_S
            self.spin_until(lambda due_s=due_s: time.monotonic() >= due_s, 10.0)
            knots = swinging.knots(number, time.monotonic())
            outcome, took_ms = self._ask(chunk_message(self.spec, knots, self.now_ns()))
            if number >= _NUM_WARM_UP and outcome:
                times_ms[outcome].append(took_ms)
            if self.reports.engaged is False:
                self.faults.append(self.reports.fault)
                swinging = self._engaged()
                begin_s = time.monotonic() - number * _PERIOD_S
        return times_ms

    def _engaged(self) -> Swinging:
        """Engage, and swing from where the arm stands."""
        engaged = self.spin_until(
            lambda: bool(self.trigger(ENGAGE.client_name).success), _ENGAGE_TIMEOUT_S
        )
        here = self.positions()
        if not engaged or here is None:
            raise SuiteError("the guard did not engage; run python -m par_ros faults first.")
        self.spin_until(lambda: bool(self.reports.engaged), 1.0)
        return Swinging(self.spec, here, time.monotonic())

    def _ask(self, message: JointTrajectoryMessage) -> tuple[str, float]:
        self._sent_ns.clear()
        begin_ns = time.time_ns()
        self.chunks.publish(message)
        stamp_ns = messages.stamp_ns(message)
        # A chunk that is held is answered without a trajectory.
        answered = self.spin_until(lambda: stamp_ns in self.reports.executed, _ANSWER_TIMEOUT_S)
        if not (
            answered and self.spin_until(lambda: len(self._sent_ns) > 0, _TRAJECTORY_TIMEOUT_S)
        ):
            return "", 0.0
        asked = messages.read_joint_trajectory(message).positions
        outcome = (
            "unchanged" if np.array_equal(self.reports.executed[stamp_ns], asked) else "tracked"
        )
        return outcome, (self._sent_ns[0] - begin_ns) / 1e6


def summary(times_ms: list[float]) -> dict[str, float | int]:
    """p50, p95, p99 and worst, ms."""
    if not times_ms:
        return {"num": 0}
    return {
        "num": len(times_ms),
        "p50_ms": float(np.percentile(times_ms, 50)),
        "p95_ms": float(np.percentile(times_ms, 95)),
        "p99_ms": float(np.percentile(times_ms, 99)),
        "worst_ms": max(times_ms),
    }


def summaries(times_ms: Times) -> dict[str, dict[str, float | int]]:
    """Of all chunks, and by what became of them."""
    everything = [value for values in times_ms.values() for value in values]
    return {"all": summary(everything), **{name: summary(v) for name, v in times_ms.items()}}


def in_process(num_chunks: int) -> Times:
    """Of a guard in this process."""
    return GuardAlone().measure(num_chunks)


def over_dds(num_chunks: int) -> tuple[Times, list[str]]:
    """Of a guard in a process of its own, and why it disengaged. Raises SuiteError."""
    own_domain()
    rclpy.init(args=[])
    with tempfile.TemporaryDirectory(prefix="par_latency_") as folder:
        rig = LatencyRig(Path(folder))
        try:
            return rig.measure(num_chunks), rig.faults
        finally:
            rig.destroy_node()
            rclpy.try_shutdown()
            rig.processes.end_all()


def main(arguments: list[str]) -> int:
    """The command; 0 where every chunk was answered."""
    options = parse(LatencyOptions, "python -m par_ros guard_latency", __doc__, arguments)
    try:
        alone_ms = in_process(options.chunks)
        times_ms, faults = (alone_ms, []) if options.in_process else over_dds(options.chunks)
    except (SuiteError, ValueError) as error:
        return report_error(error)
    num_answered = sum(len(values) for values in times_ms.values())
    result: dict[str, Any] = {
        "command": f"python -m par_ros guard_latency --chunks {options.chunks}"
        + (" --in-process" if options.in_process else ""),
        **summaries(times_ms),
        "in_process": summaries(alone_ms),
        "num_unanswered": options.chunks - num_answered,
        "disengaged_because": faults,
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }
    text = json.dumps(result, indent=1)
    if options.json is not None:
        write_text("the result", options.json, text + "\n")
    print(text)
    parts = {"in process": result["in_process"]["all"]}
    if not options.in_process:
        parts["over DDS"] = result["all"]
    for name, part in parts.items():
        if part["num"]:
            print(f"{name}: p50 {part['p50_ms']:.2f} ms, p99 {part['p99_ms']:.2f} ms")
    return 0 if result["num_unanswered"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
