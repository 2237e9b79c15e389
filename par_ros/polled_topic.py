# SPDX-License-Identifier: Apache-2.0
"""A subscription that the executor never waits for: its owner takes what has come when it asks."""

from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from par_ros.topics import Qos


class _NeverExecuted(CallbackGroup):  # type: ignore[misc]  # rclpy has no types
    """Subscriptions of this group are taken from by hand."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


class PolledTopic:
    """One topic; messages stay serialized until they are wanted."""

    def __init__(self, node: Node, message_type: Any, name: str, qos: Qos) -> None:
        """At most `qos.depth` messages wait; the newest are kept."""
        self._type = message_type
        self._most_at_once = qos.depth
        self._subscription = node.create_subscription(
            message_type,
            name,
            _not_called,
            qos.profile(),
            callback_group=_NeverExecuted(),
            raw=True,
        )

    @property
    def name(self) -> str:
        """The topic's full name."""
        return str(self._subscription.topic_name)

    def destroy(self, node: Node) -> None:
        """Stop listening."""
        node.destroy_subscription(self._subscription)

    def take(self) -> Iterator[bytes]:
        """The messages that have come since the last call, serialized, in their order."""
        for _ in range(self._most_at_once):
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self._type, True)
            if taken is None:
                return
            yield taken[0]


def _not_called(_: Any) -> None:
    return
