# SPDX-License-Identifier: Apache-2.0
"""The controller's reference as safety_node reads it: the newest when asked, not every message.

joint_trajectory_controller publishes its state at every control cycle, a thousand times a second.
The executor never waits for this subscription; the node takes what has come at each of its ticks.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.node import Node

from par_ros import messages
from par_ros.control.reference_watch import ReferenceSample
from par_ros.polled_topic import PolledTopic
from par_ros.topics import CONTROLLER_REFERENCE, CONTROLLER_STATE_NAME


class ReferenceInput:
    """One subscription, read by polling."""

    def __init__(self, node: Node, source: str, joint_names: tuple[str, ...]) -> None:
        """source: "controller_state" or "topic", as the parameter `reference`.

        Raises ValueError where controller_state is wanted and control_msgs is not installed.
        """
        self._joint_names = joint_names
        self.fault = ""
        self._read: Callable[[Any, tuple[str, ...]], ReferenceSample]
        if source == "topic":
            name, self._type = CONTROLLER_REFERENCE.name, CONTROLLER_REFERENCE.message_type
            self._read = messages.read_reference
        else:
            name, self._type = CONTROLLER_STATE_NAME, controller_state_type()
            self._read = messages.read_controller_state
        # 20 Hz of ticks at 1 kHz, and a few ticks that come late.
        self._topic = PolledTopic(node, self._type, name, CONTROLLER_REFERENCE.reader_qos)

    @property
    def topic_name(self) -> str:
        """The topic's full name."""
        return self._topic.name

    def destroy(self, node: Node) -> None:
        """Stop listening."""
        self._topic.destroy(node)

    def take(self, *, only_newest: bool) -> list[ReferenceSample]:
        """What has come since the last call; a message that cannot be read is kept as `fault`."""
        waiting = deque(self._topic.take(), maxlen=1 if only_newest else None)
        samples = []
        for data in waiting:
            try:
                message = messages.deserialize_reference(data, self._type)
                samples.append(self._read(message, self._joint_names))
                self.fault = ""
            except ValueError as error:
                self.fault = str(error)
        return samples


def controller_state_type() -> Any:
    """control_msgs' class. Raises ValueError where it is not installed."""
    try:
        from control_msgs.msg import JointTrajectoryControllerState
    except ImportError:
        raise ValueError(
            "control_msgs is not installed, so the controller's reference cannot be read: install "
            "it (apt-get install ros-$ROS_DISTRO-control-msgs), or choose reference:=none, with "
            "which a lost trajectory is not noticed."
        ) from None
    return JointTrajectoryControllerState
