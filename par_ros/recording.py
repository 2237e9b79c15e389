# SPDX-License-Identifier: Apache-2.0
"""A recording: messages as they came over DDS (raw CDR) in one MCAP file, and how to read it back.

Messages are written one by one, without chunks: a file that was cut off anywhere, by a crash or a
full disk, holds every message before the cut. Only a file that was closed has a summary; `mcap
recover` makes one for a file that was not. A closed file carries a checksum of all its messages.
"""

import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mcap.exceptions import EndOfFile, InvalidMagic
from mcap.records import Channel, Footer, Message, Metadata, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

from par_model.json_file import parse_object
from par_model.output_files import make_folder, written_to_disk

_METADATA = "par_ros"
_PROFILE = "ros2"
_MAGIC = b"\x89MCAP0\r\n"
_ENCODING = "cdr"
_SEPARATOR = "\n" + "=" * 80 + "\n"
_BUILT_IN = {
    "bool", "byte", "char", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32",
    "uint32", "int64", "uint64", "string", "wstring",
}  # fmt: skip


@dataclass(frozen=True)
class RecordedMessage:
    """One message: topic as in the graph, its type as `package/msg/Name`, CDR bytes, and when it
    was written (system clock)."""

    topic: str
    type_name: str
    data: bytes
    time_ns: int


@dataclass(frozen=True)
class Recording:
    """What a file holds.

    Attributes:
        settings: the graph's settings, as the recorder got them.
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
        self._path = path
        make_folder("the recording's folder", path.parent)
        try:
            self._file = path.open("xb", buffering=1 << 20)
        except FileExistsError as error:
            raise ValueError(
                f"recording {path} exists already; give another name, nothing is overwritten."
            ) from error
        self._is_whole = True
        self._writer = Writer(
            self._file,
            use_chunking=False,
            compression=CompressionType.NONE,
            enable_data_crcs=True,
        )
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
        channel = self._writer.register_channel(topic, _ENCODING, self._schemas[type_name])
        self._num_messages[channel] = 0
        return channel

    def write(self, channel: int, data: bytes) -> None:
        """Append one message. Raises ValueError for what the disk refuses."""
        now_ns = time.time_ns()
        self._num_messages[channel] += 1
        with self._written():
            self._writer.add_message(
                channel, now_ns, data, now_ns, sequence=self._num_messages[channel]
            )

    def sync(self) -> None:
        """Hand everything to the operating system: the death of this process costs nothing more.

        Raises ValueError for what the disk refuses.
        """
        with self._written():
            self._file.flush()

    def sync_to_disk(self) -> None:
        """Wait until what was handed over is on the disk; may be called from another thread.

        Raises ValueError for what the disk refuses.
        """
        with self._written():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the summary and close the file; without it where the disk has refused a part."""
        if not self._is_whole:
            with suppress(OSError):
                self._file.close()
            return
        with self._written():
            self._writer.finish()
            self._file.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            with written_to_disk("recording", self._path):
                yield
        except ValueError as error:
            self._is_whole = False
            raise ValueError(f"{error} What came before is in it.") from error


class _WholeReads:
    """A file whose reads give all that was asked for, or say that it has ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def read(self, length: int) -> bytes:
        # Asked before anything is read: a damaged length would be taken as memory first.
        if length > self._left:
            raise EndOfFile
        self._left -= length
        return self._file.read(length)


def read_recording(path: Path) -> Recording:
    """Read a file, closed or cut off.

    Raises ValueError for what is no recording of ours, and for a damaged one.
    """
    contents = _Contents([])
    with _readable(path) as file:
        contents.messages.extend(_messages(file, contents))
    settings = _settings(path, contents)
    return Recording(settings, tuple(contents.messages), contents.is_closed)


def read_settings(path: Path) -> Mapping[str, Any]:
    """The graph's settings in a file. Raises ValueError as read_recording."""
    contents = _Contents([])
    with _readable(path) as file:
        # They come first.
        next(_messages(file, contents), None)
    return _settings(path, contents)


def stream_messages(path: Path, topics: Collection[str]) -> Iterator[RecordedMessage]:
    """The messages of some topics, one at a time. Raises ValueError as read_recording."""
    with _readable(path) as file:
        for message in _messages(file, _Contents([])):
            if message.topic in topics:
                yield message


@contextmanager
def _readable(path: Path) -> Iterator[IO[bytes]]:
    """The open file; what is wrong with it becomes a ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} cannot be read: it is not a file; check the path.")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except InvalidMagic as error:
        raise ValueError(f"{path} is not an MCAP file; give a file of record:=true.") from error
    except Exception as error:  # mcap and its decompressors raise whatever damage makes them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}; try `mcap recover`.") from error


def _settings(path: Path, contents: "_Contents") -> dict[str, Any]:
    if contents.settings is None:
        raise ValueError(f"{path} was not made by record:=true of par_ros; it cannot be replayed.")
    return parse_object(
        contents.settings, f"{path}: what was recorded of the graph", "record again"
    )


@dataclass
class _Contents:
    """What has been read so far; settings as text."""

    messages: list[RecordedMessage]
    settings: str | None = None
    is_closed: bool = False


def _messages(file: IO[bytes], contents: _Contents) -> Iterator[RecordedMessage]:
    """Every message; notes in `contents` what else there is.

    Raises the errors of mcap; ValueError for a record that refers to a missing one.
    """
    types: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    for record in _records(file):
        if isinstance(record, Message):
            if record.channel_id not in channels:
                raise ValueError(f"a message is of the missing channel {record.channel_id}")
            topic, type_name = channels[record.channel_id]
            yield RecordedMessage(topic, type_name, record.data, record.log_time)
        elif isinstance(record, Schema):
            types[record.id] = record.name
        elif isinstance(record, Channel):
            channels[record.id] = record.topic, _type_name(record, types)
        elif isinstance(record, Metadata) and record.name == _METADATA:
            contents.settings = record.metadata.get("settings")
        elif isinstance(record, Footer):
            contents.is_closed = True


def _type_name(channel: Channel, types: Mapping[int, str]) -> str:
    if channel.message_encoding != _ENCODING or channel.schema_id not in types:
        raise ValueError(
            f"topic {channel.topic!r} is encoded as {channel.message_encoding!r} and of schema "
            f"{channel.schema_id}; {_ENCODING!r} and a schema of the file are expected"
        )
    return types[channel.schema_id]


def _records(file: IO[bytes]) -> Iterator[Any]:
    """Every whole record; the end of a file that was cut off is an end."""
    is_whole = _ends_as_a_closed_one(file)
    try:
        yield from StreamReader(_WholeReads(file), validate_crcs=True).records  # type: ignore[arg-type]
    except EndOfFile as error:
        if is_whole:
            raise ValueError("its last record is complete, but one before it is damaged") from error


def _ends_as_a_closed_one(file: IO[bytes]) -> bool:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - len(_MAGIC)))
    end = file.read()
    file.seek(0)
    return end == _MAGIC and size > len(_MAGIC)


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
