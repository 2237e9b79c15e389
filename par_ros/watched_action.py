# SPDX-License-Identifier: Apache-2.0
"""An action client that knows within a second whether its server still answers.

DDS notices a killed process only after some 20 s. So the server is asked again and again for the
result of a goal that does not exist: every action server answers at once that it knows none.
"""

import time
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node

from par_ros.control.gripper_adapter import Server

# Asked every 0.4 s and missed for 0.9 s: known within a second of its end.
_ASK_PERIOD_S = 0.4
_SILENT_AFTER_S = 0.9


class WatchedAction:
    """One action of a node; step() must be called often."""

    def __init__(self, node: Node, action_type: Any, name: str) -> None:
        self._node = node
        self._client = ActionClient(node, action_type, name)
        self._service = action_type.Impl.GetResultService
        self._results = node.create_client(self._service, f"{name}/_action/get_result")
        self._asked: Any = None
        self._asked_s = -_ASK_PERIOD_S
        self._heard_s: float | None = None

    def step(self) -> None:
        """Ask where it is time to."""
        now_s = time.monotonic()
        if not self._client.server_is_ready():
            self._heard_s = None
            return
        if self._heard_s is None:
            self._heard_s = now_s
        if now_s - self._asked_s >= _ASK_PERIOD_S:
            self._forget_question()
            self._asked_s = now_s
            self._asked = self._results.call_async(self._service.Request())
            self._asked.add_done_callback(self._on_heard)

    @property
    def server(self) -> Server:
        """Whether the server is there, and answers."""
        if self._heard_s is None:
            return Server.ABSENT
        is_silent = time.monotonic() - self._heard_s > _SILENT_AFTER_S
        return Server.SILENT if is_silent else Server.READY

    def send_goal_async(self, goal: Any) -> Any:
        """As ActionClient's."""
        return self._client.send_goal_async(goal)

    def if_unknown(self, handle: Any, call: Callable[[], None]) -> None:
        """Call `call` where the server, which may be another by now, does not know the goal."""

        def judge(future: Any) -> None:
            if future.result().status == GoalStatus.STATUS_UNKNOWN:
                call()

        request = self._service.Request(goal_id=handle.goal_id)
        self._results.call_async(request).add_done_callback(judge)

    def destroy(self) -> None:
        """Goals go on: the server keeps them."""
        self._forget_question()
        self._node.destroy_client(self._results)
        self._client.destroy()

    def _forget_question(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._results.remove_pending_request(self._asked)
        self._asked = None

    def _on_heard(self, future: Any) -> None:
        self._heard_s = time.monotonic()
