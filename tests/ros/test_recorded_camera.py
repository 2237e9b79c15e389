# SPDX-License-Identifier: Apache-2.0
"""recorder_node with the cameras that people have: what they publish is what is recorded."""

import signal
import time

import cv2
import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from par_ros import messages
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import Recorded, decoded_picture
from par_ros.recording import read_recording
from par_ros.topics import IMAGE
from tests.ros.processes import finish, start_module

pytestmark = pytest.mark.ros

TIMEOUT_S = 60.0
LEAST_RECORDED = 20
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.mark.parametrize(
    ("topic", "is_compressed", "mode"),
    [
        (IMAGE.name, False, "lockstep"),
        (IMAGE.name, True, "realtime"),
        (f"{IMAGE.name}/compressed", True, "realtime"),
    ],
)
def test_pictures_are_recorded_as_they_come(
    tmp_path, free_domain: str, topic: str, is_compressed: bool, mode: str
) -> None:
    """From a best-effort camera, in lockstep too; 48 x 64 pixels, each picture of one level."""
    path = tmp_path / "camera.mcap"
    process = start_module(
        "par_ros.recorder_node", "--ros-args", "-p", f"file:={path}", "-p", f"mode:={mode}"
    )
    context = Context()
    context.init(domain_id=int(free_domain))
    camera = Node("camera", context=context)
    publisher = camera.create_publisher(
        CompressedImage if is_compressed else Image, topic, BEST_EFFORT
    )
    try:
        count, deadline_s = 0, time.monotonic() + TIMEOUT_S
        # Some are lost while the recorder looks for them, and more where a busy machine starves it.
        while count == 0 or count % 20 or _num_recorded(path) <= LEAST_RECORDED:
            assert time.monotonic() < deadline_s and process.poll() is None
            if publisher.get_subscription_count():
                count += 1
            assert count < 256, "a picture's level ends there"
            publisher.publish(_picture(count, is_compressed))
            time.sleep(0.05)
    finally:
        camera.destroy_node()
        context.try_shutdown()
        process.send_signal(signal.SIGINT)
        ended = finish(process, TIMEOUT_S)
    assert (ended.code, ended.sentences) == (0, [])
    recorded = _recorded(path)
    pictures = recorded.pictures()
    assert len(pictures) > LEAST_RECORDED
    for stamp_ns, message in pictures.items():
        picture = messages.image_to_rgb(decoded_picture(message))
        level = stamp_ns // messages.NANOSECONDS
        np.testing.assert_array_equal(picture, np.full((48, 64, 3), level))


def _picture(level: int, is_compressed: bool) -> Image | CompressedImage:
    pixels = np.full((48, 64, 3), level, np.uint8)
    message = messages.array_to_image(pixels, "rgb8", 0, "")
    if is_compressed:
        message = CompressedImage(format="png", data=cv2.imencode(".png", pixels)[1].tobytes())
    message.header.stamp = messages.ns_to_time(level * messages.NANOSECONDS)
    return message


def _num_recorded(path) -> int:
    """Pictures that are in the file by now."""
    try:
        return len(_recorded(path).pictures())
    except ValueError:
        # Not even its settings.
        return 0


def _recorded(path) -> Recorded:
    recording = read_recording(path)
    topics = recording.settings["topics"]
    return Recorded(recording, RecordedGraph({}, {}, "", "", "", topics))
