# SPDX-License-Identifier: Apache-2.0
"""A recording: messages as they came over DDS (raw CDR) in one MCAP file, and how to read it back.

Messages are written one by one, without chunks: a file that was cut off anywhere, by a crash or a
full disk, holds every message before the cut. Only a file that was closed has a summary; `mcap
recover` makes one for a file that was not.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mcap.exceptions import EndOfFile, InvalidMagic, McapError
from mcap.records import Channel, Footer, Message, Metadata
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

_METADATA = "par_ros"
_PROFILE = "ros2"
_SEPARATOR = "\n" + "=" * 80 + "\n"
_BUILT_IN = {
    "bool", "byte", "char", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32",
    "uint32", "int64", "uint64", "string", "wstring",
}  # fmt: skip


@dataclass(frozen=True)
class RecordedMessage:
    """One message: topic as in the graph, CDR bytes, and when it was written (system clock)."""

    topic: str
    data: bytes
    time_ns: int


@dataclass(frozen=True)
class Recording:
    """What a file holds.

    Attributes:
        settings: what the recorder was told of the graph.
        messages: in the order in which they were written.
        is_closed: False for a file that was cut off.
    """

    settings: Mapping[str, Any]
    messages: tuple[RecordedMessage, ...]
    is_closed: bool


class RecordingWriter:
    """Writes one file. `sync` bounds what a crash can cost."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raises ValueError for a file that exists or cannot be made."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=1 << 20)
        except FileExistsError as error:
            raise ValueError(
                f"recording {path} exists already; give another name, nothing is overwritten."
            ) from error
        except OSError as error:
            raise ValueError(f"recording {path} cannot be written: {error.strerror}.") from error
        self._writer = Writer(self._file, use_chunking=False, compression=CompressionType.NONE)
        self._writer.start(profile=_PROFILE, library="par_ros")
        self._writer.add_metadata(_METADATA, {"settings": json.dumps(dict(settings))})
        self._schemas: dict[str, int] = {}
        self._num_messages: dict[int, int] = {}

    def add_topic(self, topic: str, type_name: str) -> int:
        """Register a topic of type `package/msg/Name`; gives the number for `write`."""
        if type_name not in self._schemas:
            definition = message_definition(type_name).encode()
            self._schemas[type_name] = self._writer.register_schema(
                type_name, "ros2msg", definition
            )
        channel = self._writer.register_channel(topic, "cdr", self._schemas[type_name])
        self._num_messages[channel] = 0
        return channel

    def write(self, channel: int, data: bytes) -> None:
        """Append one message."""
        now_ns = time.time_ns()
        self._num_messages[channel] += 1
        self._writer.add_message(
            channel, now_ns, data, now_ns, sequence=self._num_messages[channel]
        )

    def sync(self) -> None:
        """Hand everything to the operating system: the death of this process costs nothing more."""
        self._file.flush()

    def sync_to_disk(self) -> None:
        """Wait until what was handed over is on the disk; may be called from another thread."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the summary and close the file."""
        self._writer.finish()
        self._file.close()


class _WholeReads:
    """A file whose reads give all that was asked for, or say that it has ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise EndOfFile
        return data


def read_recording(path: Path) -> Recording:
    """Read a file, closed or cut off. Raises ValueError for what is no recording of ours."""
    settings: Mapping[str, Any] | None = None
    messages: list[RecordedMessage] = []
    topics: dict[int, str] = {}
    is_closed = False
    try:
        for record in _records(path):
            if isinstance(record, Message):
                topic = topics[record.channel_id]
                messages.append(RecordedMessage(topic, record.data, record.log_time))
            elif isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, Metadata) and record.name == _METADATA:
                settings = json.loads(record.metadata["settings"])
            elif isinstance(record, Footer):
                is_closed = True
    except InvalidMagic as error:
        raise ValueError(f"{path} is not an MCAP file; give a file of record:=true.") from error
    except McapError as error:
        raise ValueError(f"{path} is damaged: {error}; try `mcap recover`.") from error
    if settings is None:
        raise ValueError(f"{path} was not made by record:=true of par_ros; it cannot be replayed.")
    return Recording(settings, tuple(messages), is_closed)


def _records(path: Path) -> Iterator[Any]:
    """Every whole record; the end of a file that was cut off is an end."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    with file:
        try:
            yield from StreamReader(_WholeReads(file)).records  # type: ignore[arg-type]
        except EndOfFile:
            return


def message_definition(type_name: str) -> str:
    """The text of `package/msg/Name` and of all types in it, as MCAP's "ros2msg" wants it.

    Raises ValueError where the installed package has no such file.
    """
    waiting, texts = [type_name], dict[str, str]()
    while waiting:
        name = waiting.pop(0)
        if name in texts:
            continue
        texts[name] = _definition_file(name).read_text(encoding="utf-8")
        waiting += _types_in(texts[name], package=name.split("/")[0])
    first, *others = texts
    parts = [texts[first]]
    parts += [f"MSG: {name.replace('/msg/', '/')}\n{texts[name]}" for name in others]
    return _SEPARATOR.join(parts)


def _types_in(definition: str, package: str) -> list[str]:
    """Full names of the message types that a definition's fields have."""
    found = []
    for line in definition.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        name = words[0].partition("[")[0].partition("<=")[0]
        if name not in _BUILT_IN:
            owner, _, short = name.rpartition("/")
            found.append(f"{owner or package}/msg/{short}")
    return found


def _definition_file(type_name: str) -> Path:
    package, _, short = type_name.split("/")
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    for prefix in prefixes:
        path = Path(prefix) / "share" / package / "msg" / f"{short}.msg"
        if prefix and path.is_file():
            return path
    raise ValueError(
        f"the definition of {type_name} was not found in {', '.join(filter(None, prefixes))}; "
        f"install {package}, or source the ROS installation."
    )
