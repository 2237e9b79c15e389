# SPDX-License-Identifier: Apache-2.0
"""Is a trajectory in time for a simulated arm? Asked in the middle of a callback.

Such an arm stands between its control steps, and /clock shows each step some time before the arm
makes it (control/step_pace.py). So what is sent while the clock stands is in time.
"""

from rclpy.node import Node

from par_ros import messages
from par_ros.control.timeline import Moment
from par_ros.polled_topic import PolledTopic
from par_ros.topics import CLOCK

# Of the lead, what computing may take: the rest is the way of the messages, arm and gripper.
_COMPUTING_SHARE = 0.5


class SimulatedClock:
    """/clock, read by polling."""

    def __init__(self, node: Node, lead_s: float) -> None:
        """lead_s: from a step's time on the clock to the step, wall time."""
        self._topic = PolledTopic(node, CLOCK.message_type, CLOCK.name, CLOCK.reader_qos)
        self._within_ns = messages.seconds_to_ns(_COMPUTING_SHARE * lead_s)
        self._newest_ns = 0

    def destroy(self, node: Node) -> None:
        """Stop listening."""
        self._topic.destroy(node)

    def is_in_time(self, moment: Moment, now: Moment) -> bool:
        """Whether what was planned at `moment` and is sent now is there before the next step."""
        if now.steady_ns - moment.steady_ns <= self._within_ns:
            return True
        for data in self._topic.take():
            try:
                message = messages.deserialize(data, CLOCK.message_type, "a clock message")
            except ValueError:
                # It tells no time.
                continue
            self._newest_ns = messages.time_to_ns(message.clock)
        return self._newest_ns <= moment.ros_ns
