# SPDX-License-Identifier: Apache-2.0
"""A recording's messages as ROS messages and fields; what is damaged is refused in one sentence."""

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.serialization import deserialize_message

from par_model.json_file import shown
from par_ros import guard_report, messages
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.timeline import Moment
from par_ros.recording import Recording
from par_ros.topics import IMAGE, Topic

# A stamp's seconds are an int32.
_MAX_STAMP_NS = 2**31 * messages.NANOSECONDS - 1
# Bytes of a serialised message up to the end of its header's stamp.
_STAMP_END = 12


class Fields:
    """The texts of one recorded status; each is read as what it should be, or refused."""

    def __init__(self, topic: str, values: Mapping[str, str]) -> None:
        self._topic = topic
        self._values = values

    def text(self, name: str) -> str:
        if name not in self._values:
            raise ValueError(f"the recording is damaged: a message of {self._topic} lacks {name}.")
        return self._values[name]

    def whole(self, name: str) -> int:
        """A whole number from 0; of nanoseconds, as many as a stamp can hold."""
        return self._whole(name, self.text(name))

    def optional_whole(self, name: str) -> int | None:
        """As `whole`; None for an empty text."""
        return self.whole(name) if self.text(name) else None

    def wholes(self, name: str) -> list[int]:
        """As `whole`, with spaces between."""
        return [self._whole(name, word) for word in self.text(name).split()]

    def moment(self, prefix: str = "") -> Moment:
        """Both clocks, as safety_node notes them."""
        return Moment(self.whole(f"{prefix}ros_ns"), self.whole(f"{prefix}steady_ns"))

    def references(self, num_joints: int) -> list[ReferenceSample]:
        """What the guard heard of the controller."""
        text = self.text("samples")
        try:
            return guard_report.unpack_references(text, num_joints)
        except ValueError:
            raise self._odd("samples", text) from None

    def _whole(self, name: str, text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_STAMP_NS))
        if not is_number or int(text) > _MAX_STAMP_NS:
            raise self._odd(name, text)
        return int(text)

    def _odd(self, name: str, text: str) -> ValueError:
        return ValueError(
            f"the recording is damaged: {name} in a message of {self._topic} is {shown(text)}."
        )


@dataclass
class Recorded:
    """A recording's messages by topic, as ROS messages, in order. ValueError for damaged ones."""

    recording: Recording
    notes: list[str] = field(default_factory=list)

    def of(self, topic: Topic) -> list[Any]:
        return [decoded(data, topic) for data in self._data(topic)]

    def pictures(self) -> dict[int, bytes]:
        """The pictures as they came, by stamp: to decode all where few are needed is slow."""
        return {_stamp_ns(data): data for data in self._data(IMAGE)}

    def _data(self, topic: Topic) -> Iterator[bytes]:
        name = self.recording.settings["topics"][topic.name]
        for message in self.recording.messages:
            if message.topic != name:
                continue
            if message.type_name != topic.type_name:
                raise ValueError(
                    f"topic {name} of the recording has type {shown(message.type_name)}, expected "
                    f"is {topic.type_name}; was it recorded by another version?"
                )
            yield message.data

    def by_stamp(self, topic: Topic) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = defaultdict(list)
        for message in self.of(topic):
            found[messages.stamp_ns(message)].append(message)
        return found

    def statuses(self, topic: Topic) -> Iterator[Fields]:
        for message in self.of(topic):
            yield Fields(topic.name, messages.read_status(message).values)


def decoded(data: bytes, topic: Topic) -> Any:
    """The ROS message. Raises ValueError for bytes that cannot be read as the topic's type."""
    try:
        return deserialize_message(data, topic.message_type)
    except RuntimeError as error:
        # rclpy's errors have no other base in common.
        raise ValueError(
            f"the recording is damaged: {len(data)} bytes of topic {topic.name} are not a "
            f"{topic.type_name}."
        ) from error


def _stamp_ns(data: bytes) -> int:
    """Header stamp of a serialised message that begins with a header."""
    if len(data) < _STAMP_END:
        raise ValueError(f"the recording is damaged: a message of {len(data)} bytes has no stamp.")
    # CDR: four bytes of encapsulation, of which the second's lowest bit is the byte order.
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(order + "iI", data, 4)
    return int(seconds) * messages.NANOSECONDS + int(nanoseconds)
