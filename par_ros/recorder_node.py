# SPDX-License-Identifier: Apache-2.0
"""Writes what the graph says to one MCAP file: pictures, joint states, chunks, commands, status.

It takes messages as bytes and judges nothing. Twice a second everything is handed to the operating
system, once a second waited for on the disk, so a crash loses at most the last second.
"""

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from par_ros.parameters import RecorderNodeParameters, declare
from par_ros.process import run_node
from par_ros.recording import RecordingWriter
from par_ros.topics import IMAGE, PREDICTED_IMAGE, RECORDER, TOPICS, Qos, Topic

_SYNC_PERIOD_S = 0.5
# A picture that waits is a megabyte, anything else is small.
_PICTURE_DEPTH = 20
_DEPTH = 200


class RecorderNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__(RECORDER)
        parameters = declare(self, RecorderNodeParameters)
        self._is_lockstep = parameters.mode == "lockstep"
        names = {topic.name: self.resolve_topic_name(topic.name) for topic in TOPICS}
        settings = {**json.loads(parameters.settings), "topics": names}
        path = Path(parameters.file).expanduser()
        self._writer = RecordingWriter(path, settings)
        for topic in TOPICS:
            self._record(topic)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._on_disk: Future[None] | None = None
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_SYNC_PERIOD_S, self._sync, clock=steady)
        self.get_logger().info(f"recording to {path}")

    def _record(self, topic: Topic) -> None:
        channel = self._writer.add_topic(self.resolve_topic_name(topic.name), topic.type_name)
        qos = Qos(
            # Sensor data as REP-2003 reads it: a camera's driver may offer nothing better.
            reliable=topic.reader_qos.reliable or self._is_lockstep,
            depth=_PICTURE_DEPTH if topic in (IMAGE, PREDICTED_IMAGE) else _DEPTH,
            transient_local=topic.reader_qos.transient_local,
        )
        self.create_subscription(
            topic.message_type,
            topic.name,
            lambda data: self._writer.write(channel, data),
            qos.profile(),
            raw=True,
        )

    def _sync(self) -> None:
        self._writer.sync()
        if self._on_disk is not None:
            if not self._on_disk.done():
                return
            self._on_disk.result()
        self._on_disk = self._disk.submit(self._writer.sync_to_disk)

    def destroy_node(self) -> None:
        """Close the file, then the node."""
        self._disk.shutdown()
        self._writer.close()
        super().destroy_node()


def main() -> int:
    """The executable recorder_node."""
    return run_node(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
