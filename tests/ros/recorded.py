# SPDX-License-Identifier: Apache-2.0
"""Recordings as a robot makes them: an arm of two joints and a gripper, a camera, marks.

Joint `j1` turns 0.1 rad a second, `j2` against it, the gripper's finger stands. Pictures are of one
colour, whose red channel is the number of the picture.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, JointState

from par_ros import messages
from par_ros.topics import message_type_name
from par_ros.wire_records import EpisodeMark

S = 1_000_000_000
BEGIN_NS = 1_700_000_000 * S
NAMES = ("j1", "j2", "finger")


@dataclass(frozen=True)
class Sent:
    """A message on a topic; `written_s` after the beginning it was written down."""

    topic: str
    message: Any
    written_s: float


def position(time_s: np.ndarray) -> np.ndarray:
    """[T, 3]: where the joints are."""
    return np.stack((0.1 * time_s, -0.1 * time_s, np.full_like(time_s, 0.02)), axis=-1)


def ns(time_s: float) -> int:
    return BEGIN_NS + round(time_s * S)


def pictures(times_s: Iterable[float], topic: str = "/camera/image_raw") -> list[Sent]:
    sent = []
    for number, time_s in enumerate(times_s):
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[..., 0] = number % 256
        picture = messages.array_to_image(pixels, "rgb8", ns(time_s), "camera")
        sent.append(Sent(topic, picture, time_s + 0.02))
    return sent


def depth_pictures(
    times_s: Iterable[float], encoding: str, topic: str = "/depth/image_raw"
) -> list[Sent]:
    """0.5 m and a centimetre more with every picture; of the upper third nothing was measured.

    encoding: 16UC1, 32FC1, or a format of compressedDepth.
    """
    sent = []
    for number, time_s in enumerate(times_s):
        metres = np.full((48, 64), distance_m(number), np.float32)
        metres[:16] = 0.0
        picture = depth_picture(metres, encoding, ns(time_s))
        sent.append(Sent(topic, picture, time_s + 0.02))
    return sent


def distance_m(number: int) -> float:
    """What the depth picture of this number shows."""
    return 0.5 + 0.01 * number


def depth_picture(metres: np.ndarray, encoding: str, stamp_ns: int) -> Any:
    """A message of distances [H, W], 0 where nothing was measured."""
    millimetres = np.rint(1000.0 * metres).astype(np.uint16)
    if encoding == "16UC1":
        return messages.array_to_image(millimetres, "16UC1", stamp_ns, "camera")
    if encoding == "32FC1":
        return messages.array_to_image(metres, "32FC1", stamp_ns, "camera")
    import cv2

    whole, png = cv2.imencode(".png", millimetres)
    assert whole
    picture = CompressedImage(format=encoding, data=struct.pack("<iff", 0, 0.0, 0.0) + bytes(png))
    picture.header.stamp = messages.ns_to_time(stamp_ns)
    return picture


def joint_states(times_s: Iterable[float], topic: str = "/joint_states") -> list[Sent]:
    sent = []
    for time_s in times_s:
        values = position(np.array(time_s))
        state = messages.joint_state_message(NAMES, values, np.zeros(3), ns(time_s))
        sent.append(Sent(topic, state, time_s + 0.001))
    return sent


def commands(
    times_s: Iterable[float], ahead: float, topic: str = "/leader/joint_states"
) -> list[Sent]:
    """Joint states of a leader arm that is `ahead` rad ahead."""
    sent = []
    for time_s in times_s:
        values = position(np.array(time_s)) + np.array([ahead, ahead, 0.0])
        state = JointState(name=list(NAMES), position=values.tolist())
        state.header.stamp = messages.ns_to_time(ns(time_s))
        sent.append(Sent(topic, state, time_s + 0.001))
    return sent


def mark(time_s: float, *, is_start: bool, success: bool = False) -> Sent:
    values = EpisodeMark(ns(time_s), is_start, success).to_values()
    status = messages.Status("recorder_node", messages.OK, "", values)
    return Sent("/episode_marks", messages.status_message(status), time_s)


def write_bag(path: Path, sent: list[Sent], *, sqlite: bool = False) -> Path:
    """A rosbag2 of these messages."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    plugin = StoragePlugin.SQLITE3 if sqlite else StoragePlugin.MCAP
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        rows: dict[str, Any] = {}
        for one in sorted(sent, key=lambda one: one.written_s):
            if one.topic not in rows:
                kind = message_type_name(type(one.message))
                rows[one.topic] = writer.add_connection(one.topic, kind, typestore=store)
            writer.write(rows[one.topic], ns(one.written_s), serialize_message(one.message))
    return path
