# SPDX-License-Identifier: Apache-2.0
"""A recording's messages as ROS messages and records; damaged ones are refused in one sentence."""

import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage

from par_model.json_file import shown
from par_ros import messages
from par_ros.fitted_subscription import COMPRESSED
from par_ros.messages import Picture
from par_ros.recorded_graph import RecordedGraph
from par_ros.recording import RecordedMessage, Recording
from par_ros.topics import IMAGE, Topic, message_type_name

RecordType = TypeVar("RecordType")

# Bytes of a serialised message up to the end of its header's stamp.
_STAMP_END = 12


@dataclass
class Recorded:
    """A recording's messages by topic, as ROS messages, in order. ValueError for damaged ones."""

    recording: Recording
    graph: RecordedGraph
    notes: list[str] = field(default_factory=list)

    def of(self, topic: Topic) -> list[Any]:
        return [decoded(data, topic) for data in self._data(topic)]

    def pictures(self, topic: Topic = IMAGE) -> dict[int, RecordedMessage]:
        """A view's pictures as they came, by stamp: to decode all where few are needed is slow."""
        name = self.graph.topics.get(topic.name, topic.name)
        types = (IMAGE.type_name, message_type_name(CompressedImage))
        found = {}
        for message in self.recording.messages:
            if message.topic not in (name, name + COMPRESSED):
                continue
            if message.type_name not in types:
                raise ValueError(_wrong_type(message, " or ".join(types)))
            found[header_stamp_ns(message.data)] = message
        return found

    def _data(self, topic: Topic) -> Iterator[bytes]:
        # An older recording does not name topics that were added since.
        name = self.graph.topics.get(topic.name, topic.name)
        for message in self.recording.messages:
            if message.topic != name:
                continue
            if message.type_name != topic.type_name:
                raise ValueError(_wrong_type(message, topic.type_name))
            yield message.data

    def by_stamp(self, topic: Topic) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = defaultdict(list)
        for message in self.of(topic):
            found[messages.stamp_ns(message)].append(message)
        return found

    def records(
        self, topic: Topic, from_values: Callable[[Mapping[str, str]], RecordType]
    ) -> Iterator[RecordType]:
        """The messages of a topic of statuses, as the records that they carry."""
        for message in self.of(topic):
            try:
                yield from_values(messages.read_status(message).values)
            except ValueError as error:
                raise ValueError(f"the recording is damaged: {error}") from error


def decoded_picture(message: RecordedMessage) -> Picture:
    """The picture's message, raw or compressed. Raises ValueError as decoded()."""
    is_raw = message.type_name == IMAGE.type_name
    return _deserialized(message.data, IMAGE.message_type if is_raw else CompressedImage)


def decoded(data: bytes, topic: Topic) -> Any:
    """The ROS message. Raises ValueError for bytes that cannot be read as the topic's type."""
    return _deserialized(data, topic.message_type, topic.name)


def _deserialized(data: bytes, message_type: Any, topic_name: str = IMAGE.name) -> Any:
    try:
        return deserialize_message(data, message_type)
    except RuntimeError as error:
        # rclpy's errors have no other base in common.
        raise ValueError(
            f"the recording is damaged: {len(data)} bytes of topic {topic_name} are not a "
            f"{message_type_name(message_type)}."
        ) from error


def _wrong_type(message: RecordedMessage, expected: str) -> str:
    return (
        f"topic {message.topic} of the recording has type {shown(message.type_name)}, expected is "
        f"{expected}; was it recorded by another version?"
    )


def header_stamp_ns(data: bytes) -> int:
    """Header stamp of a serialised message that begins with a header."""
    if len(data) < _STAMP_END:
        raise ValueError(f"the recording is damaged: a message of {len(data)} bytes has no stamp.")
    # CDR: four bytes of encapsulation, of which the second's lowest bit is the byte order.
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(order + "iI", data, 4)
    return int(seconds) * messages.NANOSECONDS + int(nanoseconds)
