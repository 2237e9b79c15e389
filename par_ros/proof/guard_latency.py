# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros guard_latency --chunks N --json F`: action_chunk in to joint_trajectory out.

The guard and a loopback arm run as processes, this one is the policy. A chunk goes out every 0.1 s,
timed so that the swing goes on; every third carries noise that the guard has to track within the
limits, which is its longest computation. The time counts from just before the chunk is published
here to the moment at which the guard's middleware has sent the trajectory (its source timestamp):
one hop through DDS, reading the message, the filter, writing the message. The way back is not in
it. Both clocks are the machine's own.

With --in-process the same chunks go through the filter alone, and what is counted is the processor
time of its computation: on an idle machine the time that passes.
"""

import argparse
import datetime
import json
import os
import random
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.subscription import MessageInfo
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.joint_trajectory import Motion, MotionState
from par_ros.control.safety_filter import Join, SafetyFilter, arm_trajectory
from par_ros.parameters import read_arm_spec
from par_ros.process import report_error
from par_ros.proof.faults import Rig, SuiteError
from par_ros.proof.scripted_policy import KNOT_TIMES_S, Swing, chunk_message
from par_ros.run_results import hardware
from par_ros.topics import EXECUTED_ACTIONS

_PERIOD_S = 0.1
_NUM_WARM_UP = 20
_NOISE_RAD = 0.004
_ANSWER_TIMEOUT_S = 1.0


class LatencyRig(Rig):
    """The fault suite's rig, with a clock on every chunk instead of a judge."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_ns: deque[int] = deque(maxlen=8)
        self.executed: JointTrajectoryMessage | None = None
        self.create_subscription(
            JointTrajectoryMessage,
            EXECUTED_ACTIONS.name,
            self._on_executed,
            EXECUTED_ACTIONS.reader_qos.profile(),
        )

    def _on_trajectory(self, message: JointTrajectoryMessage, info: MessageInfo) -> None:
        self.sent_ns.append(int(info["source_timestamp"]))

    def _on_executed(self, message: JointTrajectoryMessage) -> None:
        self.executed = message

    def measure(self, num_chunks: int) -> dict[str, list[float]]:
        """Milliseconds of each chunk, by what the guard did: "unchanged" or "tracked"."""
        self.start_system(sim_time=False, supervised=False)
        if not self._engage():
            raise SuiteError("the guard did not engage; run python -m par_ros faults first.")
        self.oracle = None
        assert self.measured is not None
        swing = Swing(self.measured[:-1], self.spec.home, float(self.measured[-1]))
        noise = np.random.default_rng(0)
        begin_s = time.monotonic()
        times_ms: dict[str, list[float]] = {"unchanged": [], "tracked": []}
        for number in range(num_chunks + _NUM_WARM_UP):
            due_s = begin_s + number * _PERIOD_S
            self.spin_until(lambda due_s=due_s: time.monotonic() >= due_s, 10.0)
            knots = swing.knots(time.monotonic() - begin_s)
            if number % 3 == 2:
                knots[:, :-1] += noise.normal(0.0, _NOISE_RAD, knots[:, :-1].shape)
            outcome, took_ms = self._ask(chunk_message(self.spec, knots, self.now_ns()))
            if number >= _NUM_WARM_UP and outcome:
                times_ms[outcome].append(took_ms)
        return times_ms

    def _ask(self, message: JointTrajectoryMessage) -> tuple[str, float]:
        self.sent_ns.clear()
        self.executed = None
        begin_ns = time.time_ns()
        self.chunks.publish(message)
        stamp_ns = messages.stamp_ns(message)

        def is_answered() -> bool:
            executed = self.executed
            answers = executed is not None and messages.stamp_ns(executed) == stamp_ns
            return answers and len(self.sent_ns) > 0

        if not self.spin_until(is_answered, _ANSWER_TIMEOUT_S):
            return "", 0.0
        assert self.executed is not None
        sent = messages.read_joint_trajectory(self.executed).positions
        asked = messages.read_joint_trajectory(message).positions
        outcome = "unchanged" if np.array_equal(sent, asked) else "tracked"
        return outcome, (self.sent_ns[0] - begin_ns) / 1e6


def in_process(num_chunks: int) -> dict[str, list[float]]:
    """Milliseconds of processor time of each chunk in the filter, by its outcome; no ROS."""
    spec = read_arm_spec("panda")
    safety_filter = SafetyFilter(spec, num_actions=len(KNOT_TIMES_S), step_s=float(KNOT_TIMES_S[0]))
    swing = Swing(spec.home, spec.home + 1.0, 0.02)
    noise = np.random.default_rng(0)
    state = MotionState.at_rest(spec.home)
    times_ms: dict[str, list[float]] = {"unchanged": [], "tracked": []}
    for number in range(num_chunks + _NUM_WARM_UP):
        knots = swing.knots(number * _PERIOD_S)
        if number % 3 == 2:
            knots[:, :-1] += noise.normal(0.0, _NOISE_RAD, knots[:, :-1].shape)
        begin_s = time.thread_time()
        filtered = safety_filter.apply(Join(state), knots, 0.02)
        took_ms = 1e3 * (time.thread_time() - begin_s)
        if filtered.nodes is None:
            continue
        state = Motion(arm_trajectory(spec, filtered.nodes), state).state_at(_PERIOD_S)
        if number >= _NUM_WARM_UP:
            times_ms[filtered.outcome].append(took_ms)
    return times_ms


def over_ros(num_chunks: int) -> dict[str, list[float]]:
    """Milliseconds of each chunk through a guard of its own process. Raises SuiteError."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
    rclpy.init(args=[])
    rig = LatencyRig()
    try:
        return rig.measure(num_chunks)
    finally:
        rig.end_all()
        rig.destroy_node()
        rclpy.try_shutdown()


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


def main(arguments: list[str]) -> int:
    """The command; 0 where every chunk was answered."""
    parser = argparse.ArgumentParser(prog="python -m par_ros guard_latency", description=__doc__)
    parser.add_argument("--chunks", type=int, default=600)
    parser.add_argument("--in-process", action="store_true", help="the filter alone")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    try:
        times_ms = (in_process if options.in_process else over_ros)(options.chunks)
    except SuiteError as error:
        return report_error(error)
    everything = [value for values in times_ms.values() for value in values]
    result: dict[str, Any] = {
        "command": f"python -m par_ros guard_latency --chunks {options.chunks}"
        + (" --in-process" if options.in_process else ""),
        "all": summary(everything),
        "unchanged": summary(times_ms["unchanged"]),
        "tracked": summary(times_ms["tracked"]),
        "num_unanswered": options.chunks - len(everything),
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }
    text = json.dumps(result, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if result["num_unanswered"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
