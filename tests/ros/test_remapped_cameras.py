# SPDX-License-Identifier: Apache-2.0
"""Cameras whose real names are other inputs' names in the code: each view gets its own camera.

rclpy remaps every name that it is given, also one that is the result of a remap. The rules are
those of `real_arm`; the cameras are participants of their own.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from trajectory_msgs.msg import JointTrajectory

from par_model.interface import split_views
from par_ros import messages
from par_ros.controllers import command_topics
from par_ros.fitted_subscription import camera_candidates
from par_ros.graph_arguments import RealArmArguments
from par_ros.node_graph import real_arm_graph
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import Recorded, decoded_picture
from par_ros.recording import read_recording
from par_ros.topics import IMAGE, camera_topics
from tests.ros.checkpoints import save_random_checkpoint
from tests.ros.processes import finish, run, start_module, wait_for
from tests.ros.test_doctor import MAX_TRIES
from tests.ros.test_policy_inputs import TIMEOUT_S, Camera, feed
from tests.ros.test_views import INSTRUCTION, LEVELS, TOPICS, VIEWS, TwoViewPolicy, grey
from tests.ros.view_rig import active_graph, view_cameras

pytestmark = pytest.mark.ros

# By view, the name of its camera's topic in the graph.
CHAINED = {"front": "/front_camera/image_raw", "right": f"/{TOPICS['front']}"}
CHAINED_BACK = {"front": f"/{TOPICS['right']}", "right": "/right_camera/image_raw"}
SWAPPED = {"front": f"/{TOPICS['right']}", "right": f"/{TOPICS['front']}"}
ARRANGEMENTS = pytest.mark.parametrize(
    "names", [CHAINED, CHAINED_BACK, SWAPPED], ids=["chained", "chained_back", "swapped"]
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "two_views"
    save_random_checkpoint(folder, views=VIEWS, num_slots=4)
    return folder


def words(names: dict[str, str]) -> dict[str, str]:
    """The arguments that name these cameras."""
    return {"camera_topic": names["front"], "further_cameras": f"right={names['right']}"}


def remappings(checkpoint: Path, names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """policy_node's in the graph of real_arm."""
    arguments = RealArmArguments(
        checkpoint=str(checkpoint), instruction=INSTRUCTION, **words(names)
    )
    graph = real_arm_graph(arguments)
    return next(node.remappings for node in graph.nodes if node.name == "policy_node")


@ARRANGEMENTS
def test_each_view_gets_its_camera(ros: None, checkpoint: Path, names: dict[str, str]) -> None:
    policy = TwoViewPolicy()
    with (
        active_graph(policy, remappings(checkpoint, names)) as graph,
        view_cameras(names) as cameras,
    ):
        feed(graph, lambda: graph.world.chunks, *((c, grey(view)) for view, c in cameras.items()))
    for view, image in split_views(policy.observations[0].image, VIEWS).items():
        assert abs(image.mean() - LEVELS[view] - 7.5) < 3, view


def grey_jpeg(view: str) -> Callable[[Camera], CompressedImage]:
    """The same as a JPEG file."""

    def make(camera: Camera) -> CompressedImage:
        pixels = messages.image_to_rgb(grey(view)(camera))
        return CompressedImage(format="jpeg", data=cv2.imencode(".jpg", pixels)[1].tobytes())

    return make


def test_each_view_gets_its_compressed_pictures(ros: None, checkpoint: Path) -> None:
    """Below the cameras' topics, where image_transport publishes them."""
    policy = TwoViewPolicy()
    below = {view: f"{name}/compressed" for view, name in CHAINED.items()}
    with (
        active_graph(policy, remappings(checkpoint, CHAINED)) as graph,
        view_cameras(below, CompressedImage) as cameras,
    ):
        feed(
            graph,
            lambda: graph.world.chunks,
            *((camera, grey_jpeg(view)) for view, camera in cameras.items()),
        )
    for view, image in split_views(policy.observations[0].image, VIEWS).items():
        assert abs(image.mean() - LEVELS[view] - 7.5) < 3, view


@contextmanager
def publishing(domain: str, names: dict[str, str]) -> Iterator[None]:
    """A camera for each view in that domain, 20 pictures a second."""
    context = Context()
    context.init(domain_id=int(domain))
    nodes = {view: Node(f"{view}_camera", context=context) for view in names}
    publishers = {view: nodes[view].create_publisher(Image, names[view], 5) for view in names}
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.wait(0.05):
            for view, publisher in publishers.items():
                pixels = np.full((150, 200, 3), LEVELS[view], np.uint8)
                publisher.publish(messages.array_to_image(pixels, "rgb8", time.time_ns(), view))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for node in nodes.values():
            node.destroy_node()
        context.try_shutdown()


def test_the_doctor_listens_to_each_view_s_camera(checkpoint: Path, free_domain: str) -> None:
    arguments = [f"{name}:={text}" for name, text in words(CHAINED).items()]
    names = ("camera", "camera_picture", "camera_rate", "camera_stamps")
    with publishing(free_domain, CHAINED):
        # A picture that a busy machine delivers late is named, and the doctor is asked again.
        for _ in range(MAX_TRIES):
            finished = run(
                "doctor", "--json", "listen_s:=2", f"checkpoint:={checkpoint}", *arguments
            )
            lines = {one["name"]: one for one in json.loads(finished.output)}
            if all(lines[name]["ok"] for name in names):
                break
    for view, name in CHAINED.items():
        assert f"view '{view}': {name}, sensor_msgs/msg/Image" in lines["camera"]["text"]
        assert f"from /{view}_camera" in lines["camera"]["text"]
    for name in names:
        assert lines[name]["ok"], lines[name]


def test_each_view_s_camera_is_recorded(checkpoint: Path, free_domain: str, tmp_path: Path) -> None:
    path = tmp_path / "cameras.mcap"
    rules = [word for one in remappings(checkpoint, CHAINED) for word in ("-r", ":=".join(one))]
    process = start_module(
        "par_ros.recorder_node", "--ros-args", "-p", f"file:={path}", "-p", "views:=front,right",
        *rules,
    )  # fmt: skip
    try:
        with publishing(free_domain, CHAINED):
            wait_for(lambda: path.is_file() and path.stat().st_size > 4_000_000, TIMEOUT_S, "data")
    finally:
        process.send_signal(signal.SIGINT)
        ended = finish(process, TIMEOUT_S)
    assert ended.code == 0, ended.error
    recording = read_recording(path)
    topics = recording.settings["topics"]
    recorded = Recorded(recording, RecordedGraph({}, {}, "", "", "", topics))
    for view, (image, _) in camera_topics(VIEWS).items():
        assert topics[image.name] == CHAINED[view]
        pictures = recorded.pictures(image)
        assert len(pictures) > 10
        for message in pictures.values():
            picture = messages.image_to_rgb(decoded_picture(message))
            assert int(picture[0, 0, 0]) == LEVELS[view]


@pytest.fixture
def remapped_node() -> Iterator[Callable[..., Node]]:
    """Makes a node with these remaps."""
    contexts, nodes = [], []

    def make(**targets: str) -> Node:
        context = Context()
        context.init()
        contexts.append(context)
        rules = [word for name, to in targets.items() for word in ("-r", f"{name}:={to}")]
        nodes.append(Node("listens", context=context, cli_args=["--ros-args", *rules]))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    for context in contexts:
        context.try_shutdown()


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ({}, ["/camera/image_raw", "/camera/image_raw", "/camera/image_raw/compressed"]),
        ({IMAGE.name: "/a"}, ["/a", "/a", "/a/compressed"]),
        # As image_transport's users name compressed pictures.
        (
            {IMAGE.name: "/a", f"{IMAGE.name}/compressed": "/b"},
            ["/a", "/a", "/b"],
        ),
        # The name below belongs to another input.
        ({IMAGE.name: "/a", "/a/compressed": "/b"}, ["/a", "/a"]),
    ],
)
def test_where_pictures_are_looked_for(
    remapped_node: Callable[..., Node], rules: dict[str, str], names: list[str]
) -> None:
    node = remapped_node(**rules)
    candidates = camera_candidates(node, "auto")
    assert [one.topic_name for one in candidates] == names
    for one in candidates:
        subscription = node.create_subscription(one.message_type, one.asked_name, print, 1)
        assert subscription.topic_name == one.topic_name
        node.destroy_subscription(subscription)


def test_command_topics_with_chained_names(remapped_node: Callable[..., Node]) -> None:
    """The gripper's real topic has the name that the code has for the arm's."""
    node = remapped_node(joint_trajectory="/arm", gripper_trajectory="/joint_trajectory")
    other = remapped_node()
    for name in ("arm", "joint_trajectory"):
        other.create_publisher(JointTrajectory, name, 1)
    other.create_subscription(JointTrajectory, "joint_trajectory", print, 1)

    expected = {"/arm": 0, "/joint_trajectory": 1}

    def found() -> tuple[object, list[object]]:
        view = command_topics(node, ())
        return view.listeners, [view.publishers[name] for name in expected]

    both = expected, [("listens",), ("listens",)]
    wait_for(lambda: found() == both, TIMEOUT_S, "finding the other node")
    assert found() == both
