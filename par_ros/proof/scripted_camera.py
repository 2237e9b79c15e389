# SPDX-License-Identifier: Apache-2.0
"""A camera that shows noise at 20 Hz: no two pictures are equal. For the fault suite.

What is wrong with it comes as a word on a topic of the suite's own.
"""

import sys
from typing import get_args

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from par_ros import messages
from par_ros.process import run_node
from par_ros.proof.fault_world import CAMERA_WORLD, CameraWorld
from par_ros.topics import IMAGE

IMAGE_SIZE = 128
_PERIOD_S = 0.05
_OLD_S = 0.6


class ScriptedCameraNode(Node):
    """Publishes pictures until it is ended."""

    def __init__(self) -> None:
        super().__init__("scripted_camera")
        self._random = np.random.default_rng(0)
        self._world: CameraWorld = "good"
        self._kept: Image | None = None
        self._images = self.create_publisher(Image, IMAGE.name, IMAGE.writer_qos.profile())
        self.create_subscription(String, CAMERA_WORLD, self._on_world, 10)
        self.create_timer(_PERIOD_S, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_world(self, message: String) -> None:
        if message.data in get_args(CameraWorld):
            self._world = message.data

    def _publish(self) -> None:
        now_ns = int(self.get_clock().now().nanoseconds)
        message = self._mangled(self._picture(IMAGE_SIZE), now_ns)
        if message is not None:
            self._images.publish(message)

    def _picture(self, size: int) -> messages.ImageArray:
        return self._random.integers(0, 256, (size, size, 3), dtype=np.uint8)

    def _mangled(self, picture: messages.ImageArray, now_ns: int) -> Image | None:
        world = self._world
        if world == "stopped":
            return None
        if world == "black":
            picture = np.zeros_like(picture)
        elif world == "smaller":
            picture = self._picture(IMAGE_SIZE // 2)
        elif world == "old":
            now_ns -= messages.seconds_to_ns(_OLD_S)
        message = messages.array_to_image(picture, "rgb8", now_ns, "camera")
        if world == "encoding":
            message.encoding = "8UC3"
        if world not in ("frozen", "stalled"):
            self._kept = message
        elif self._kept is not None:
            # One and the same picture, or one and the same stamp.
            part = "data" if world == "frozen" else "header"
            setattr(message, part, getattr(self._kept, part))
        return message


if __name__ == "__main__":
    sys.exit(run_node(ScriptedCameraNode))
