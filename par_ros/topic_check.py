# SPDX-License-Identifier: Apache-2.0
"""Whether a topic is published as its reader needs it: by somebody, with its type, and with a QoS
that the reader can hear. The nodes ask it for their inputs, and `python -m par_ros doctor` too."""

import os
from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier

_UNKNOWN = "_NODE_NAME_UNKNOWN_"


def is_named(endpoint: TopicEndpointInfo) -> bool:
    """Whether the name of an endpoint's node is known yet."""
    return bool(endpoint.node_name != _UNKNOWN)


def node_name(endpoint: TopicEndpointInfo) -> str:
    """Full name of an endpoint's node."""
    if not is_named(endpoint):
        return "a node whose name is not known yet"
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def names_of(endpoints: Iterable[TopicEndpointInfo]) -> str:
    """Their nodes' names, each once."""
    return ", ".join(sorted({node_name(endpoint) for endpoint in endpoints}))


def topic_problem(
    topic_name: str, endpoints: list[TopicEndpointInfo], type_name: str, reader: QoSProfile
) -> str:
    """Why a reader of `type_name` gets nothing from these publishers; empty where it hears all.

    topic_name: as it is called in the graph.
    """
    if not endpoints:
        return f"nobody publishes {topic_name} ({type_name})"
    right = [endpoint for endpoint in endpoints if endpoint.topic_type == type_name]
    if not right:
        others = ", ".join(sorted({endpoint.topic_type for endpoint in endpoints}))
        return (
            f"{topic_name} must carry {type_name}, {names_of(endpoints)} publishes {others}; check "
            "which topic is mapped"
        )
    return "; ".join(
        f"{node_name(endpoint)} publishes {topic_name} with a QoS that its reader cannot hear "
        f"({reason}); change the reliability or durability of one of them"
        for endpoint in right
        if (reason := incompatibility(endpoint.qos_profile, reader))
    )


def incompatibility(writer: QoSProfile, reader: QoSProfile) -> str:
    """Why a reader hears nothing of a writer; empty where it does."""
    compatibility, reason = qos_check_compatible(writer, reader)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    return reason.removeprefix("ERROR: ").rstrip("; ").lower()


def loneliness(node: Node) -> str:
    """A sentence where no other node is visible; empty where one is."""
    own = (node.get_name(), node.get_namespace())
    if any(found != own for found in node.get_node_names_and_namespaces()):
        return ""
    return f"no other node is found in {domain_text()}"


def domain_text() -> str:
    """What decides which nodes find each other."""
    return (
        f"ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')} with discovery range "
        f"{os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')} and "
        f"{get_rmw_implementation_identifier()}: check ROS_DOMAIN_ID, "
        "ROS_AUTOMATIC_DISCOVERY_RANGE and RMW_IMPLEMENTATION on both sides"
    )
