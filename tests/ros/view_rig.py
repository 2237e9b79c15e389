# SPDX-License-Identifier: Apache-2.0
"""A policy's graph without a camera of its own, and a camera for each view."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sensor_msgs.msg import Image

from tests.ros.test_policy_inputs import Camera
from tests.ros.test_policy_node import Graph, RecordingPolicy


@contextmanager
def active_graph(
    policy: RecordingPolicy, remappings: Sequence[tuple[str, str]] = ()
) -> Iterator[Graph]:
    """Configured and active, in real time."""
    made = Graph(
        "realtime", policy, has_camera=False, remappings=remappings,
        max_camera_silence_s=2.0, max_image_age_s=10.0,
    )  # fmt: skip
    assert made.node.trigger_configure().name == "SUCCESS"
    assert made.node.trigger_activate().name == "SUCCESS"
    yield made
    made.stop()


@contextmanager
def view_cameras(
    topics: Mapping[str, str], message_type: type = Image
) -> Iterator[dict[str, Camera]]:
    """By view; `topics`: their names by view."""
    made = {view: Camera(f"{view}_camera", message_type, topic) for view, topic in topics.items()}
    yield made
    for camera in made.values():
        camera.stop()
