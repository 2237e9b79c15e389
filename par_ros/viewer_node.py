# SPDX-License-Identifier: Apache-2.0
"""Shows the graph live in a browser, through Rerun's web viewer.

It only listens: best effort, the newest messages, at a lower priority than the other processes, and
messages beyond `max_rate_hz` are dropped unread. No process waits for it, and its end ends nothing.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import rerun as rr
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from par_ros import messages
from par_ros.fitted_subscription import FittedSubscription, camera_candidates
from par_ros.leaving import leave
from par_ros.parameters import ViewerNodeParameters, declare, read_arm_spec
from par_ros.process import run_node
from par_ros.topics import (
    ACTION_CHUNK,
    ATTENTION_IMAGE,
    DIAGNOSTICS,
    EXECUTED_ACTIONS,
    GUARD_STATE,
    JOINT_STATES,
    POLICY,
    PREDICTED_IMAGE,
    VIEWER,
    Qos,
    Topic,
)
from par_ros.view_reader import picture_to_show
from par_ros.viewer_log import ATTENTION, CAMERA, PREDICTED, ViewerLog
from par_ros.wire_records import GuardState, PolicyStatus

_QOS = Qos(reliable=False, depth=5)
_FIT_PERIOD_S = 1.0
# Below every process that commands the arm.
_NICE = 10
_LEVELS = {messages.OK: "INFO", messages.WARN: "WARN"}


class ViewerNode(Node):
    """Subscribes, and hands what it hears to a ViewerLog."""

    def __init__(self) -> None:
        super().__init__(VIEWER)
        self._settings = parameters = declare(self, ViewerNodeParameters)
        stream = rr.RecordingStream("par_ros")
        # Before anything is logged: serve_grpc of rerun-sdk 0.23 hangs on what waits in the stream.
        address = _serve(stream, parameters)
        self._log = ViewerLog(stream, read_arm_spec(parameters.arm))
        # What was shown of each node last.
        self._shown: dict[str, str] = {}
        self._next_s: dict[str, float] = {}
        candidates = camera_candidates(self, parameters.image_transport)
        self._camera = FittedSubscription(
            self, candidates, self._on_camera, _QOS.profile(), raw=True
        )
        for topic, show in (
            (PREDICTED_IMAGE, self._on_predicted),
            (ATTENTION_IMAGE, self._on_attention),
            (JOINT_STATES, self._on_joints),
            (ACTION_CHUNK, self._on_chunk),
            (EXECUTED_ACTIONS, self._on_executed),
            (GUARD_STATE, self._on_guard_state),
            (DIAGNOSTICS, self._on_diagnostics),
        ):
            self._listen(topic, show)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_FIT_PERIOD_S, self._camera.fit, clock=steady)
        print(f"live view: {address}", flush=True)

    def _listen(self, topic: Topic, show: Callable[[Any], None]) -> None:
        def take(data: bytes) -> None:
            if topic is not JOINT_STATES or self._is_due(topic.name):
                self._show(show, data, topic.message_type)

        self.create_subscription(topic.message_type, topic.name, take, _QOS.profile(), raw=True)

    def _on_camera(self, data: bytes, _: str) -> None:
        if self._is_due(CAMERA):
            picture_type = self._camera.candidate.message_type
            self._show(lambda message: self._show_picture(CAMERA, message), data, picture_type)

    def _is_due(self, name: str) -> bool:
        """Whether the last one of this name is long enough ago."""
        now_s = time.monotonic()
        if now_s < self._next_s.get(name, 0.0):
            return False
        self._next_s[name] = now_s + 1.0 / self._settings.max_rate_hz
        return True

    def _show(self, show: Callable[[Any], None], data: bytes, message_type: Any) -> None:
        """A message that cannot be read is not shown: its reader in the graph reports it."""
        try:
            show(messages.deserialize(data, message_type, "a message"))
        except ValueError as error:
            self.get_logger().warning(f"not shown: {error}", throttle_duration_sec=10.0)

    def _on_predicted(self, message: Any) -> None:
        self._show_picture(PREDICTED, message)

    def _on_attention(self, message: Any) -> None:
        self._show_picture(ATTENTION, message)

    def _show_picture(self, entity: str, message: Any) -> None:
        picture = picture_to_show(message)
        self._log.show_picture(entity, picture, messages.stamp_ns(message))

    def _on_joints(self, message: Any) -> None:
        self._log.show_joints(messages.read_joint_state(message), self._settings.joint_prefix)

    def _on_chunk(self, message: Any) -> None:
        self._show_actions("chunk", message)

    def _on_executed(self, message: Any) -> None:
        self._show_actions("executed", message)

    def _show_actions(self, kind: str, message: Any) -> None:
        trajectory = messages.read_joint_trajectory(message)
        self._log.show_actions(kind, trajectory, messages.stamp_ns(message))

    def _on_guard_state(self, message: Any) -> None:
        state = GuardState.from_values(messages.read_status(message).values)
        texts = ["guard engaged" if state.engaged else "guard disengaged"]
        texts += ["stop latched"] if state.stop_latched else []
        texts += [f"holding: {state.holding}"] if state.holding else []
        texts += [f"fault: {state.fault}"] if state.fault else []
        level = "ERROR" if state.stop_latched or state.fault else "INFO"
        self._show_news("guard_state", level, ", ".join(texts))

    def _on_diagnostics(self, message: Any) -> None:
        own = messages.status_name(self).removesuffix(self.get_name())
        for status in messages.read_diagnostics(message):
            if not status.name.startswith(own):
                continue
            # Other messages may have no stamp for long: the arm's driver may not run yet.
            self._log.note_time(messages.stamp_ns(message))
            level = _LEVELS.get(status.level, "ERROR")
            self._show_news(status.name, level, f"{status.name}: {status.message}")
            if status.name == own + POLICY:
                policy = PolicyStatus.from_values(status.values)
                self._log.show_latencies(policy.new_latency_ms, messages.stamp_ns(message))

    def _show_news(self, name: str, level: str, text: str) -> None:
        if self._shown.get(name) != text:
            self._shown[name] = text
            self._log.show_event(level, text)


def _serve(stream: rr.RecordingStream, parameters: ViewerNodeParameters) -> str:
    """Serve the page and its content; gives the page's address. Raises ValueError where a port
    is taken."""
    web_port, content_port = parameters.port, parameters.port + 1
    for port in (web_port, content_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise ValueError(
                    f"the live view needs ports {web_port} and {content_port}, and port {port} "
                    f"cannot be had ({error.strerror}); give others with view_port:=N."
                ) from error
    content = stream.serve_grpc(grpc_port=content_port, server_memory_limit=parameters.memory_limit)
    rr.serve_web_viewer(web_port=web_port, open_browser=False, connect_to=content)
    return f"http://localhost:{web_port}/?url={content.replace('+', '%2B')}"


def main() -> int:
    """The executable viewer_node."""
    os.nice(_NICE)
    return run_node(ViewerNode)


if __name__ == "__main__":
    leave(main())
