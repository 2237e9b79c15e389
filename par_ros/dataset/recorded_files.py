# SPDX-License-Identifier: Apache-2.0
"""The messages in a recording, one at a time: ours, or a rosbag2 (MCAP or sqlite3)."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from par_ros.recording import RecordedMessage, read_settings, stream_messages
from par_ros.topics import message_type_name

_TYPES = {
    message_type_name(kind): kind
    for kind in (
        CompressedImage, DiagnosticStatus, Float64MultiArray, Image, JointState, JointTrajectory,
    )
}  # fmt: skip


class RecordedFile(Protocol):
    """A recording; reading it raises ValueError, one sentence, for damage."""

    path: Path

    def messages(self, topics: Collection[str]) -> Iterator[RecordedMessage]:
        """The messages of these topics, in the order in which they were written."""
        ...


class OwnRecording:
    """A file of record:=true. Raises ValueError for another one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.settings: Mapping[str, Any] = read_settings(path)
        except ValueError as error:
            raise ValueError(f"{error} A rosbag2 of other topics needs --mapping.") from error

    def messages(self, topics: Collection[str]) -> Iterator[RecordedMessage]:
        return stream_messages(self.path, topics)


class Bag:
    """A rosbag2: its folder, or one file of it. Raises ValueError for what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ValueError(f"{path} cannot be read: it does not exist; check the path.")
        if path.suffix == ".bag":
            raise ValueError(f"{path} is a ROS 1 bag; make a rosbag2 of it with rosbags-convert.")
        with self._opened() as reader:
            self.types = {row.topic: str(row.msgtype) for row in reader.connections}

    def messages(self, topics: Collection[str]) -> Iterator[RecordedMessage]:
        with self._opened() as reader:
            wanted = [row for row in reader.connections if row.topic in topics]
            if not wanted:
                return
            for row, time_ns, data in reader.messages(wanted):
                yield RecordedMessage(row.topic, str(row.msgtype), bytes(data), time_ns)

    @contextmanager
    def _opened(self) -> Iterator[AnyReader]:
        try:
            with AnyReader([self.path]) as reader:
                yield reader
        except Exception as error:  # rosbags and its storages raise whatever damage makes them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{self.path} cannot be read as a rosbag2: {reason}; give the bag's folder, "
                "and try `ros2 bag reindex` if it was cut off."
            ) from error


def decoded(message: RecordedMessage, *expected: Any) -> Any:
    """The ROS message. Raises ValueError for another type than these, and for damaged bytes."""
    kind = _TYPES.get(message.type_name)
    if kind not in expected:
        names = " or ".join(message_type_name(one) for one in expected)
        raise ValueError(f"topic {message.topic} has type {message.type_name}, expected is {names}")
    try:
        return deserialize_message(message.data, kind)
    except RuntimeError as error:
        # rclpy's errors have no other base in common.
        raise ValueError(
            f"{len(message.data)} bytes of topic {message.topic} are not a {message.type_name}"
        ) from error
