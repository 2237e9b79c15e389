# SPDX-License-Identifier: Apache-2.0
"""A subscription that takes what is offered: the topic and type of several that somebody publishes,
and best effort where the publisher offers no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from par_ros.sequence_sources import SequenceSources
from par_ros.topic_check import is_named, node_name, topic_problem
from par_ros.topics import IMAGE, message_type_name

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# What image_transport puts behind the name of the raw topic.
COMPRESSED = "/compressed"


@dataclass(frozen=True)
class Candidate:
    """A topic and a type of its messages.

    Attributes:
        topic_name: as the topic is called in the graph.
        asked_name: what rclpy must be given for it. rclpy remaps every name, also one that is the
            result of a remap, so `topic_name` may lead to another topic.
    """

    topic_name: str
    asked_name: str
    message_type: Any

    @staticmethod
    def of(node: Node, name: str, message_type: Any) -> "Candidate":
        """The topic that the node's code calls `name`."""
        return Candidate(node.resolve_topic_name(name), name, message_type)

    @property
    def type_name(self) -> str:
        """`package/msg/Name`."""
        return message_type_name(self.message_type)


def camera_candidates(
    node: Node, transport: str, topic_name: str = IMAGE.name
) -> tuple[Candidate, ...]:
    """Where a camera's pictures may come, the best first.

    transport: auto, raw or compressed. image_transport publishes compressed pictures on a topic of
    their own below the raw ones'.
    """
    raw = Candidate.of(node, topic_name, Image)
    same = Candidate.of(node, topic_name, CompressedImage)
    if transport == "raw":
        return (raw,)
    if raw.topic_name.endswith(COMPRESSED):
        return (same,)
    below = _below(node, raw)
    return (*below, same) if transport == "compressed" else (raw, same, *below)


def _below(node: Node, raw: Candidate) -> tuple[Candidate, ...]:
    """The compressed pictures of a raw topic.

    A remap of that name in the node's code is followed; one of the name in the graph belongs to
    another input, and nothing that rclpy can be given leads there.
    """
    own = raw.asked_name + COMPRESSED
    if node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True):
        return (Candidate.of(node, own, CompressedImage),)
    in_graph = Candidate.of(node, raw.topic_name + COMPRESSED, CompressedImage)
    return (in_graph,) if in_graph.topic_name == in_graph.asked_name else ()


class FittedSubscription:
    """One input of a node; `fit` looks at the graph and subscribes anew where that is better."""

    def __init__(
        self,
        node: Node,
        candidates: tuple[Candidate, ...],
        on_message: Callable[[Any, str], None],
        qos: QoSProfile,
        *,
        raw: bool = False,
    ) -> None:
        """on_message gets the message (raw: its bytes) and its publisher's name, empty until known.

        The user's QoS overrides are those of the first candidate's topic.
        """
        self._node = node
        self._candidates = candidates
        self._on_message = on_message
        self._raw = raw
        self._names: dict[bytes, str] = {}
        self._sequences = SequenceSources()
        self.candidate = candidates[0]
        # The overrides are written into it.
        wanted = qos.reliability
        first = self._subscribe(
            qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._qos = first.qos_profile
        self._may_relax = self._qos.reliability == wanted
        self._subscription: Any = first

    @property
    def is_relaxed(self) -> bool:
        """Whether messages that are lost are not sent again, though that was wanted."""
        now = self._subscription
        return now is not None and bool(now.qos_profile.reliability != self._qos.reliability)

    def destroy(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def fit(self) -> str:
        """Take what is published now; why nothing can come, or empty."""
        found = {one: self._publishers(one) for one in self._candidates}
        best = self.candidate
        if not found[best]:
            best = next((one for one in self._candidates if found[one]), best)
        self._change(best, self._fitting_qos(found[best]))
        return topic_problem(
            best.topic_name,
            found[best] or self._node.get_publishers_info_by_topic(best.asked_name),
            best.type_name,
            self._fitting_qos(found[best]),
        )

    def hears_all(self) -> bool:
        """Whether every publisher of the topic has been matched, as far as that is known."""
        if self._subscription is None:
            return False
        expected = len(self._publishers(self.candidate))
        # Humble's subscriptions cannot say whom they hear.
        count = getattr(self._subscription, "get_publisher_count", lambda: expected)
        return bool(count() >= expected)

    def _fitting_qos(self, endpoints: list[Any]) -> QoSProfile:
        """What was wanted; best effort where no publisher offers more and the user set nothing."""
        offered = {endpoint.qos_profile.reliability for endpoint in endpoints}
        is_fit = self._qos.reliability == ReliabilityPolicy.BEST_EFFORT
        if is_fit or not self._may_relax or offered != {ReliabilityPolicy.BEST_EFFORT}:
            return self._qos
        return QoSProfile(
            history=self._qos.history,
            depth=self._qos.depth,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            durability=self._qos.durability,
        )

    def _publishers(self, candidate: Candidate) -> list[Any]:
        endpoints = self._node.get_publishers_info_by_topic(candidate.asked_name)
        return [one for one in endpoints if one.topic_type == candidate.type_name]

    def _change(self, candidate: Candidate, qos: QoSProfile) -> None:
        if self._subscription is not None:
            if (candidate, qos) == (self.candidate, self._subscription.qos_profile):
                return
            self.destroy()
        self.candidate = candidate
        self._sequences = SequenceSources()
        try:
            self._subscription = self._subscribe(qos)
        except rclpy_implementation.RCLError:
            # Two types on one topic are refused, and the executor may still hold the old
            # subscription: the next look tries again.
            self._subscription = None

    def _subscribe(self, qos: QoSProfile, **options: Any) -> Any:
        return self._node.create_subscription(
            self.candidate.message_type,
            self.candidate.asked_name,
            self._take,
            qos,
            raw=self._raw,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
            **options,
        )

    def _take(self, message: Any, info: Any) -> None:
        self._on_message(message, self._source(info, message))

    def _source(self, info: Any, message: Any) -> str:
        """The publisher's name; where the middleware does not tell, its frame."""
        gid = info.get("publisher_gid")
        if gid is None:
            number = info.get("publication_sequence_number")
            if number is not None:
                return self._source_by_number(number)
            return "" if self._raw else f"frame {message.header.frame_id!r}"
        key = bytes(gid["data"])
        if key not in self._names:
            self._names |= {
                bytes(endpoint.endpoint_gid): node_name(endpoint)
                for endpoint in self._publishers(self.candidate)
                if is_named(endpoint)
            }
        return self._names.get(key, "")

    def _source_by_number(self, number: int) -> str:
        sources = self._sequences
        index = sources.index(number)
        if sources.is_named(index):
            return sources.name(index, set())
        found = self._publishers(self.candidate)
        return sources.name(index, {node_name(one) for one in found if is_named(one)})

    def _on_incompatible(self, event: Any) -> None:
        self._node.get_logger().warning(
            f"a publisher of {self.candidate.topic_name} offers too little "
            f"{qos_policy_name_from_kind(event.last_policy_kind).lower()}; the node's status says "
            "whether it can be heard"
        )
