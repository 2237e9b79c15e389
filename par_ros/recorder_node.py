# SPDX-License-Identifier: Apache-2.0
"""Writes the graph's topics to one MCAP file: pictures, joint states, chunks, commands, status.

It takes messages as bytes and judges nothing. Twice a second everything is handed to the operating
system, once a second waited for on the disk, so a crash loses at most the last second. It writes
from its start to its end; `activate` waits until it hears every writer, so that a graph whose other
nodes are activated after it is recorded from the first chunk. Two services mark an episode's start
and end, and its success.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.subscription import Subscription
from std_srvs.srv import SetBool, Trigger

from par_ros import messages
from par_ros.fitted_subscription import (
    COMPRESSED,
    Candidate,
    FittedSubscription,
    camera_candidates,
)
from par_ros.leaving import leave
from par_ros.lifecycle import ManagedNode
from par_ros.parameters import RecorderNodeParameters, declare
from par_ros.process import report_error, run_node, transition
from par_ros.recording import RecordingWriter
from par_ros.topics import (
    ACTION_CHUNK,
    ATTENTION_IMAGE,
    END_EPISODE,
    EPISODE_MARKS,
    EXECUTED_ACTIONS,
    GUARD_INPUTS,
    IMAGE,
    JOINT_STATES,
    OBSERVED,
    PREDICTED_IMAGE,
    RECORDER,
    START_EPISODE,
    TOPICS,
    Qos,
    Topic,
    camera_topics,
    view_names,
)
from par_ros.wire_records import EpisodeMark

_SYNC_PERIOD_S = 0.5
# A picture that waits is a megabyte, anything else is small.
_PICTURE_DEPTH = 20
_PICTURES = (IMAGE, PREDICTED_IMAGE, ATTENTION_IMAGE)
_DEPTH = 200
# Without one of these nothing can be replayed; whatever else is written is waited for, too.
_REQUIRED = (ACTION_CHUNK, OBSERVED, EXECUTED_ACTIONS, GUARD_INPUTS, JOINT_STATES)
# Two participants whose first announcements were lost find each other at the next, 3 s later.
_MATCH_TIMEOUT_S = 10.0
_MATCH_POLL_S = 0.02


class RecorderNode(ManagedNode):
    """Writes every message of its topics, as it came, to one file."""

    def __init__(self) -> None:
        super().__init__(RECORDER)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._on_disk: Future[None] | None = None
        self._writer: RecordingWriter | None = None
        parameters = declare(self, RecorderNodeParameters)
        self._is_lockstep = parameters.mode == "lockstep"
        views = camera_topics(view_names(parameters.views))
        topics = (*TOPICS, *(topic for pair in views.values() for topic in pair))
        names = {topic.name: self.resolve_topic_name(topic.name) for topic in topics}
        settings = {**json.loads(parameters.settings), "topics": names}
        path = Path(parameters.file).expanduser()
        writer = self._writer = RecordingWriter(path, settings)
        self._cameras = [
            self._record_camera(image, parameters.image_transport, writer)
            for image, _ in views.values()
        ]
        images = {image for image, _ in views.values()}
        others = (
            topic
            for topic in dict.fromkeys(topics)
            if topic not in images and topic is not EPISODE_MARKS
        )
        self._inputs = {topic: self._record(topic, writer) for topic in others}
        self._create_marks(writer)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_SYNC_PERIOD_S, lambda: self._sync(writer), clock=steady)
        self.get_logger().info(f"recording to {path}")

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Wait at most _MATCH_TIMEOUT_S for every writer; then log which ones are missing."""
        deadline_s = time.monotonic() + _MATCH_TIMEOUT_S
        while (unheard := list(self._unheard())) and time.monotonic() < deadline_s:
            time.sleep(_MATCH_POLL_S)
        if unheard:
            self.get_logger().warning(
                f"not recorded yet, as no writer was found: {', '.join(unheard)}; check that its "
                "node runs, and its QoS (`ros2 topic info --verbose`)."
            )
        return super().on_activate(state)

    def _unheard(self) -> Iterator[str]:
        for camera in self._cameras:
            camera.fit()
            if not camera.hears_all():
                yield camera.candidate.topic_name
        for topic, subscription in self._inputs.items():
            num_expected = max(self.count_publishers(topic.name), int(topic in _REQUIRED))
            # Humble's subscriptions cannot say whom they hear.
            count = getattr(subscription, "get_publisher_count", lambda n=num_expected: n)
            if count() < num_expected:
                yield subscription.topic_name

    def _record(self, topic: Topic, writer: RecordingWriter) -> "Subscription[Any]":
        channel = writer.add_topic(self.resolve_topic_name(topic.name), topic.type_name)
        return self.create_subscription(
            topic.message_type,
            topic.name,
            lambda data: writer.write(channel, data),
            self._qos(topic),
            raw=True,
        )

    def _record_camera(
        self, topic: Topic, transport: str, writer: RecordingWriter
    ) -> FittedSubscription:
        """The pictures of a view, raw or compressed as they are published."""
        channels: dict[Candidate, int] = {}
        raw_name = self.resolve_topic_name(topic.name)

        def write(data: bytes, _: str) -> None:
            candidate = camera.candidate
            if candidate not in channels:
                # Readers of recordings look for these two names, whatever is remapped.
                name = raw_name if candidate.topic_name == raw_name else raw_name + COMPRESSED
                channels[candidate] = writer.add_topic(name, candidate.type_name)
            writer.write(channels[candidate], data)

        candidates = camera_candidates(self, transport, topic.name)
        camera = FittedSubscription(self, candidates, write, self._qos(IMAGE), raw=True)
        return camera

    def _create_marks(self, writer: RecordingWriter) -> None:
        """The services that mark episodes; a mark goes into the file itself, not by way of DDS."""
        self._is_in_episode = False
        name, marks = self.resolve_topic_name(EPISODE_MARKS.name), EPISODE_MARKS
        channel = writer.add_topic(name, marks.type_name)
        publisher = self.create_publisher(
            marks.message_type, marks.name, marks.writer_qos.profile()
        )

        def mark(text: str, *, is_start: bool, success: bool = False) -> str:
            self._is_in_episode = is_start
            given = EpisodeMark(self.get_clock().now().nanoseconds, is_start, success)
            message = messages.status_message(
                messages.Status(messages.status_name(self), messages.OK, text, given.to_values())
            )
            writer.write(channel, serialize_message(message))
            publisher.publish(message)
            self.get_logger().info(text)
            return text

        def start(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            response.success = not self._is_in_episode
            response.message = (
                mark("an episode starts", is_start=True)
                if response.success
                else "an episode has started already; call end_episode first"
            )
            return response

        def end(request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
            response.success = self._is_in_episode
            how = "with success" if request.data else "without success"
            response.message = (
                mark(f"the episode ends {how}", is_start=False, success=request.data)
                if response.success
                else "no episode has started; call start_episode first"
            )
            return response

        self.create_service(Trigger, START_EPISODE.private_name, start)
        self.create_service(SetBool, END_EPISODE.private_name, end)

    def _qos(self, topic: Topic) -> QoSProfile:
        """Sensor data as REP-2003 reads it: a camera's driver may offer nothing better."""
        return Qos(
            reliable=topic.reader_qos.reliable or self._is_lockstep,
            depth=_PICTURE_DEPTH if topic in _PICTURES else _DEPTH,
            transient_local=topic.reader_qos.transient_local,
        ).profile()

    def _sync(self, writer: RecordingWriter) -> None:
        for camera in self._cameras:
            camera.fit()
        writer.sync()
        if self._on_disk is not None:
            if not self._on_disk.done():
                return
            self._on_disk.result()
        self._on_disk = self._disk.submit(writer.sync_to_disk)

    def destroy_node(self) -> None:
        """Close the file, then the node."""
        self._disk.shutdown()
        try:
            if self._writer is not None:
                self._writer.close()
        except ValueError as error:
            report_error(error)
        super().destroy_node()


def main() -> int:
    """The executable recorder_node."""
    return run_node(RecorderNode)


if __name__ == "__main__":
    leave(main())
