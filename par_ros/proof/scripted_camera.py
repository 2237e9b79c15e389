# SPDX-License-Identifier: Apache-2.0
"""A camera that shows noise at 20 Hz: no two pictures are equal. For the fault suite."""

import sys

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Image

from par_ros import messages
from par_ros.process import run_node
from par_ros.topics import IMAGE

IMAGE_SIZE = 128
_PERIOD_S = 0.05


class ScriptedCameraNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("scripted_camera")
        self._random = np.random.default_rng(0)
        self._images = self.create_publisher(Image, IMAGE.name, IMAGE.writer_qos.profile())
        self.create_timer(_PERIOD_S, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        picture = self._random.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        now_ns = self.get_clock().now().nanoseconds
        self._images.publish(messages.array_to_image(picture, "rgb8", now_ns, "camera"))


if __name__ == "__main__":
    sys.exit(run_node(ScriptedCameraNode))
