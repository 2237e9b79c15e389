# SPDX-License-Identifier: Apache-2.0
"""What guard and policy report about themselves on their topics. For the fault suite."""

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.joint_trajectory import FloatArray
from par_ros.topics import (
    DIAGNOSTICS,
    EXECUTED_ACTIONS,
    GUARD,
    GUARD_INPUTS,
    GUARD_STATE,
    POLICY,
)
from par_ros.wire_records import GuardInput, GuardState, PolicyStatus


class GuardReports:
    """Listens on a node that is spun.

    Attributes:
        state: the newest guard_state; None before the first.
        counters: the guard's, of /diagnostics.
        counted_s: when each counter changed last, seconds of the steady clock.
        moments_ns: steady time of what the guard was given, newest last.
        executed: positions [L, J + 1] of executed_actions by their chunk's stamp, ns.
        camera_faults: what the policy said of its camera.
    """

    def __init__(self, node: Node) -> None:
        self.moments_ns: list[int] = []
        self.executed: dict[int, FloatArray] = {}
        self.camera_faults: set[str] = set()
        self.forget_guard()
        for topic, callback in (
            (GUARD_STATE, self._on_guard_state),
            (GUARD_INPUTS, self._on_guard_input),
            (DIAGNOSTICS, self._on_diagnostics),
            (EXECUTED_ACTIONS, self._on_executed),
        ):
            node.create_subscription(
                topic.message_type, topic.name, callback, topic.reader_qos.profile()
            )

    def forget_guard(self) -> None:
        """A new guard is started."""
        self.state: GuardState | None = None
        self.counters: dict[str, int] = {}
        self.counted_s: dict[str, float] = {}

    @property
    def engaged(self) -> bool | None:
        """As the guard reported last; None before."""
        return None if self.state is None else self.state.engaged

    @property
    def stop_latched(self) -> bool:
        """Whether the guard reported a latched stop."""
        return self.state is not None and self.state.stop_latched

    @property
    def fault(self) -> str:
        """Kind of the fault that the guard reported last; empty without."""
        return "" if self.state is None else self.state.fault

    def _on_guard_state(self, message: DiagnosticStatus) -> None:
        self.state = GuardState.from_values(messages.read_status(message).values)

    def _on_guard_input(self, message: DiagnosticStatus) -> None:
        given = GuardInput.from_values(messages.read_status(message).values)
        self.moments_ns.append(given.moment.steady_ns)

    def _on_executed(self, message: JointTrajectoryMessage) -> None:
        self.executed[messages.stamp_ns(message)] = messages.read_joint_trajectory(
            message
        ).positions

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in messages.read_diagnostics(message):
            if status.name == GUARD:
                self._count(
                    {name: int(text) for name, text in status.values.items() if text.isdigit()}
                )
            elif status.name == POLICY:
                fault = PolicyStatus.from_values(status.values).camera_fault
                if fault:
                    self.camera_faults.add(f"camera_{fault}")

    def _count(self, counters: dict[str, int]) -> None:
        """A guard that was configured again counts from 0."""
        for name, count in counters.items():
            if count != self.counters.get(name, 0):
                self.counted_s[name] = time.monotonic()
        self.counters = counters
