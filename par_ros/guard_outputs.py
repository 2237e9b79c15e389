# SPDX-License-Identifier: Apache-2.0
"""What safety_node publishes: commands, executed actions and the guard's state."""

import time

from rclpy.duration import Duration
from rclpy.node import Node

from par_ros import guard_report, messages
from par_ros.control.command import Command
from par_ros.control.guard import Guard
from par_ros.control.timeline import Moment
from par_ros.topics import (
    DIAGNOSTICS,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    GRIPPER_TRAJECTORY_SHADOW,
    GUARD_INPUTS,
    GUARD_STATE,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
)
from par_ros.wire_records import GuardInput

# Engaged, stop latched, holding, a stop is due, kind of the fault; counted holds and changes.
_Told = tuple[bool, bool, str, bool, str, int, int]


class GuardOutputs:
    """The publishers of one configured guard, and its log."""

    def __init__(self, node: Node, *, dry_run: bool, joint_prefix: str) -> None:
        """dry_run: commands go to the shadow topics. joint_prefix: of the controllers' joints."""
        self._node = node
        self._prefix = joint_prefix
        # Two arms' guards share /diagnostics.
        self._name = messages.status_name(node)
        self._last_event = ""
        # What the state that was published last said.
        self._reported: _Told | None = None
        self._noted: list[messages.Status] = []
        topics = (
            JOINT_TRAJECTORY_SHADOW if dry_run else JOINT_TRAJECTORY,
            GRIPPER_TRAJECTORY_SHADOW if dry_run else GRIPPER_TRAJECTORY,
            EXECUTED_ACTIONS,
            DIAGNOSTICS,
            GUARD_STATE,
            GUARD_INPUTS,
        )
        self._publishers = [
            node.create_publisher(topic.message_type, topic.name, topic.writer_qos.profile())
            for topic in topics
        ]
        self._arm, self._gripper, self._executed, self._status, self._state, self._taken = (
            self._publishers
        )

    def destroy(self) -> None:
        """Stop publishing."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def publish(self, command: Command) -> None:
        """Send what a command has, the arm's part first, and log its events."""
        for publisher, trajectory in (
            (self._arm, command.arm),
            (self._gripper, command.gripper),
        ):
            if trajectory is not None:
                message = messages.joint_trajectory_message(
                    trajectory, command.stamp_ns, joint_prefix=self._prefix
                )
                publisher.publish(message)
        if command.executed is not None:
            self._executed.publish(
                messages.executed_message(
                    command.executed, command.executed_stamp_ns, holds=command.executed_holds
                )
            )
        self.report(command)
        self.publish_notes()

    def wait_for_arrival(self, timeout_s: float) -> None:
        """Until the controllers have acknowledged every trajectory and all readers the last state,
        or the time is over."""
        end_s = time.monotonic() + timeout_s
        for publisher in (self._arm, self._gripper, self._state):
            left_s = max(end_s - time.monotonic(), 0.0)
            publisher.wait_for_all_acked(Duration(seconds=left_s))

    def report(self, command: Command) -> None:
        """Log the events of a command."""
        logger = self._node.get_logger()
        for event in command.events:
            self._last_event = event.text
            # One call site a level: rclpy ties each to one severity.
            if event.level == "error":
                logger.error(event.text)
            elif event.level == "warning":
                logger.warning(event.text)
            else:
                logger.info(event.text)

    @property
    def is_recorded(self) -> bool:
        """Whether anybody reads guard_inputs."""
        return bool(self._taken.get_subscription_count())

    def note_input(self, given: GuardInput) -> None:
        """Note what the guard was given and when, if anybody reads it.

        The arm does not wait for it: it is published behind the command, in the order of noting.
        """
        if self.is_recorded:
            self._noted.append(
                messages.Status(self._name, messages.OK, given.kind, given.to_values())
            )

    def publish_notes(self) -> None:
        """Publish what was noted since the last command."""
        for status in self._noted:
            self._taken.publish(messages.status_message(status))
        self._noted = []

    def has_news(self, guard: Guard) -> bool:
        """Whether the state, holds or changes are others than when the state was published."""
        return _told_of(guard) != self._reported

    def publish_state(self, guard: Guard, more: dict[str, str], moment: Moment) -> None:
        """guard_state, and the same with the counters and `more` on /diagnostics."""
        self._reported = _told_of(guard)
        state = guard_report.guard_state(self._name, guard)
        self._state.publish(messages.status_message(state))
        status = guard_report.diagnostics(self._name, guard, self._last_event, more)
        self._status.publish(messages.diagnostics_message((status,), moment.ros_ns))


def _told_of(guard: Guard) -> _Told:
    fault = guard.last_fault
    return (
        guard.engaged,
        guard.stop_latched,
        guard.holding,
        guard.owes_stop,
        "" if fault is None else fault.kind,
        guard.counters["holds"],
        guard.counters["tracked"],
    )
