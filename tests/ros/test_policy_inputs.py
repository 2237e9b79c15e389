# SPDX-License-Identifier: Apache-2.0
"""policy_node against the cameras that people have: each is a process's worth of its own, with its
own DDS participant. The graph of test_policy_node has joint states, guard and policy."""

import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from par_ros import messages, topics
from tests.ros.test_policy_node import START_NS, TIMEOUT_S, Graph, now_ns, wait_for

pytestmark = pytest.mark.ros

TOPIC = topics.IMAGE.name
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class Camera:
    """A driver in a participant of its own."""

    def __init__(
        self, name: str, message_type: type, topic: str = TOPIC, qos: QoSProfile | int = 5
    ) -> None:
        self._context = Context()
        self._context.init()
        self.node = Node(name, context=self._context)
        self.publisher = self.node.create_publisher(message_type, topic, qos)
        self._random = np.random.default_rng(0)

    def noise(self, height: int, width: int) -> np.ndarray:
        return self._random.integers(60, 200, (height, width, 3), np.uint8)

    def stop(self) -> None:
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def make_camera() -> Iterator[Callable[..., Camera]]:
    cameras = []

    def make(*arguments: object, **named: object) -> Camera:
        cameras.append(Camera(*arguments, **named))  # type: ignore[arg-type]
        return cameras[-1]

    yield make
    for camera in cameras:
        camera.stop()


@pytest.fixture
def make_graph(ros: None) -> Iterator[Callable[..., Graph]]:
    """The graph without the world's own camera, which would share policy_node's participant."""
    graphs = []

    def make(mode: str = "realtime", *, has_arm: bool = True, **parameters: object) -> Graph:
        # A busy machine is late with every picture of a compressed camera.
        parameters = {"max_camera_silence_s": 2.0, "max_image_age_s": 10.0, **parameters}
        graph = Graph(mode, has_camera=False, has_arm=has_arm, **parameters)
        graphs.append(graph)
        assert graph.node.trigger_configure().name == "SUCCESS"
        assert graph.node.trigger_activate().name == "SUCCESS"
        return graph

    yield make
    for graph in graphs:
        graph.stop()


def stamped(message: Image | CompressedImage, stamp_ns: int) -> Image | CompressedImage:
    message.header = Header(stamp=messages.ns_to_time(stamp_ns), frame_id="camera")
    return message


def yuyv(camera: Camera) -> Image:
    """A grey 640 x 480 picture as v4l2 drivers send it: every second byte is brightness."""
    picture = Image(height=480, width=640, encoding="yuv422_yuy2", step=1280)
    pixels = np.full((480, 640, 2), 128, np.uint8)
    pixels[:, :, 0] = camera.noise(480, 640)[:, :, 0]
    picture.data = pixels.tobytes()
    return picture


def small(camera: Camera) -> Image:
    return messages.array_to_image(camera.noise(150, 200), "rgb8", 0, "camera")


def jpeg(camera: Camera, form: str = "jpeg") -> CompressedImage:
    file = cv2.imencode(".jpg", camera.noise(480, 640))[1]
    return CompressedImage(format=form, data=file.tobytes())


def feed(
    graph: Graph, until: Callable[[], object], *sources: tuple[Camera, Callable[[Camera], object]]
) -> None:
    """Joint states and pictures at 20 Hz, stamped now, until it holds."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not until():
        assert not graph.spinning.done(), graph.spinning.exception()
        assert time.monotonic() < deadline_s, [s.message for s in graph.world.diagnostics][-3:]
        # Before the stamps: a busy machine compresses a picture for longer than it may lie behind
        # its joint states.
        pictures = [(camera, make(camera)) for camera, make in sources]
        graph.world.show_joints(now_ns(graph))
        for camera, picture in pictures:
            camera.publisher.publish(stamped(picture, now_ns(graph)))
        time.sleep(0.05)


def told(graph: Graph, *parts: str) -> messages.Status | None:
    """The last status with all these parts in its sentence."""
    for status in reversed(list(graph.world.diagnostics)):
        if all(part in status.message for part in parts):
            return status
    return None


def test_a_usb_camera_s_yuyv(make_graph: Callable, make_camera: Callable) -> None:
    camera = make_camera("usb_cam", Image)
    graph = make_graph()
    feed(graph, lambda: graph.world.chunks, (camera, yuyv))
    assert graph.policy.observations[0].image.shape == (128, 128, 3)


@pytest.mark.parametrize("topic", [TOPIC, f"{TOPIC}/compressed"])
@pytest.mark.parametrize("transport", ["auto", "compressed"])
def test_compressed_pictures_are_found(
    make_graph: Callable, make_camera: Callable, topic: str, transport: str
) -> None:
    camera = make_camera("usb_cam", CompressedImage, topic)
    graph = make_graph(image_transport=transport)
    feed(graph, lambda: graph.world.chunks, (camera, jpeg))
    assert graph.policy.observations[0].image.shape == (128, 128, 3)


def test_compressed_pictures_where_raw_ones_are_asked_for_are_named(
    make_graph: Callable, make_camera: Callable
) -> None:
    camera = make_camera("usb_cam", CompressedImage)
    graph = make_graph(image_transport="raw")
    sentence = (
        f"/{TOPIC} must carry sensor_msgs/msg/Image, /usb_cam publishes "
        "sensor_msgs/msg/CompressedImage; check which topic is mapped"
    )
    feed(graph, lambda: told(graph, sentence), (camera, jpeg))
    assert told(graph, sentence).level == messages.ERROR
    assert not graph.world.chunks


def test_a_best_effort_camera_in_lockstep_is_heard_and_named(
    make_graph: Callable, make_camera: Callable
) -> None:
    camera = make_camera("quick_cam", Image, qos=BEST_EFFORT)
    graph = make_graph("lockstep")
    stamp_ns = START_NS
    deadline_s = time.monotonic() + TIMEOUT_S
    while not graph.world.chunks:
        assert time.monotonic() < deadline_s
        graph.world.show_joints(stamp_ns)
        camera.publisher.publish(stamped(small(camera), stamp_ns))
        time.sleep(0.05)
    sentence = f"/{TOPIC} is published best effort, so a message that is lost is not sent again"
    wait_for(lambda: told(graph, sentence))
    assert told(graph, sentence).level == messages.WARN


def test_a_qos_of_the_user_s_own_that_hears_nothing_is_named(
    make_graph: Callable, make_camera: Callable
) -> None:
    camera = make_camera("quick_cam", Image, qos=BEST_EFFORT)
    graph = make_graph(**{f"qos_overrides./{TOPIC}.subscription.reliability": "reliable"})
    sentence = (
        f"/quick_cam publishes /{TOPIC} with a QoS that its reader cannot hear (best effort "
        "publisher and reliable subscription)"
    )
    feed(graph, lambda: told(graph, sentence), (camera, small))
    assert told(graph, sentence).level == messages.ERROR
    assert not graph.world.chunks


def test_an_empty_graph_names_all_that_is_missing(make_graph: Callable) -> None:
    graph = make_graph(has_arm=False)
    parts = (
        f"nobody publishes /{TOPIC} (sensor_msgs/msg/Image)",
        "nobody publishes /joint_states (sensor_msgs/msg/JointState)",
        "nobody publishes /executed_actions (trajectory_msgs/msg/JointTrajectory): the guard is",
    )
    wait_for(lambda: told(graph, *parts))
    status = told(graph, *parts)
    assert status.level == messages.ERROR
    wait_for(lambda: graph.world.diagnostics[-1].values["camera_fault"] == "silent")
    assert "none has come at all" not in graph.world.diagnostics[-1].message


def test_two_cameras_on_one_topic_are_named(make_graph: Callable, make_camera: Callable) -> None:
    left, right = make_camera("left_cam", Image), make_camera("right_cam", Image)
    graph = make_graph()
    sentence = "they come from /left_cam and /right_cam on one topic"
    feed(graph, lambda: told(graph, sentence), (left, small), (right, small))
    assert told(graph, sentence).values["camera_fault"] == "two_cameras"
    num_chunks = len(graph.world.chunks)
    # One alone for 3 s, and the policy goes on.
    feed(graph, lambda: len(graph.world.chunks) > num_chunks, (left, small))


def broken(camera: Camera, **fields: object) -> Image:
    picture = small(camera)
    for name, value in fields.items():
        setattr(picture, name, value)
    return picture


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"height": 0, "width": 0, "step": 0, "data": b""}, "rgb8 of 0 x 0 is empty"),
        ({"height": 0, "data": b""}, "rgb8 of 200 x 0 is empty"),
        ({"step": 300}, "rgb8 of 200 x 150 needs a step of at least 600 bytes, got 300"),
        ({"data": b"\0" * 600}, "needs 90000 bytes of data, got 600"),
        ({"encoding": "8UC3"}, "8UC3 does not name the order of its colours"),
    ],
)
def test_a_damaged_picture_is_named_and_a_good_one_is_answered(
    make_graph: Callable, make_camera: Callable, fields: dict[str, object], sentence: str
) -> None:
    camera = make_camera("camera", Image)
    graph = make_graph()
    feed(graph, lambda: told(graph, sentence), (camera, lambda c: broken(c, **fields)))
    assert not graph.world.chunks
    feed(graph, lambda: graph.world.chunks, (camera, small))
    assert not graph.spinning.done()


def test_grey_pictures_are_answered_with_a_warning(
    make_graph: Callable, make_camera: Callable
) -> None:
    camera = make_camera("camera", Image)

    def grey(camera: Camera) -> Image:
        return messages.array_to_image(camera.noise(150, 200)[:, :, 0], "mono8", 0, "camera")

    graph = make_graph()
    feed(
        graph,
        lambda: graph.world.chunks and told(graph, "the camera's pictures are grey"),
        (camera, grey),
    )
    assert told(graph, "are grey").level == messages.WARN


def test_simulated_time_without_a_clock_is_named(
    make_graph: Callable, make_camera: Callable
) -> None:
    camera = make_camera("camera", Image)
    graph = make_graph(use_sim_time=True)
    sentence = "use_sim_time is true and nothing has come on /clock"
    deadline_s = time.monotonic() + TIMEOUT_S
    while not told(graph, sentence):
        assert time.monotonic() < deadline_s
        stamp_ns = time.time_ns()
        graph.world.show_joints(stamp_ns)
        camera.publisher.publish(stamped(small(camera), stamp_ns))
        time.sleep(0.05)
    assert told(graph, sentence).level == messages.ERROR


@pytest.mark.parametrize("step_s", [-3600, -60, 3600])
def test_a_clock_that_is_set_is_followed_without_a_reset(
    make_graph: Callable, make_camera: Callable, step_s: int
) -> None:
    """/clock at 1 day, 20 Hz; it is set while a chunk runs."""
    camera = make_camera("camera", Image)
    graph = make_graph(use_sim_time=True)
    clock = camera.node.create_publisher(
        topics.CLOCK.message_type, "/clock", topics.CLOCK.writer_qos.profile()
    )
    clock_ns = [86_400 * messages.NANOSECONDS]

    def feed_clock(until: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not until():
            assert time.monotonic() < deadline_s, [s.message for s in graph.world.diagnostics][-3:]
            clock_ns[0] += 50_000_000
            clock.publish(messages.clock_message(clock_ns[0]))
            graph.world.show_joints(clock_ns[0])
            camera.publisher.publish(stamped(small(camera), clock_ns[0]))
            time.sleep(0.05)

    feed_clock(lambda: graph.world.chunks)
    graph.world.execute(0)
    before_ns = graph.world.chunks[0][0]
    clock_ns[0] += step_s * messages.NANOSECONDS
    feed_clock(lambda: len(graph.world.chunks) > 1)
    moved_s = (graph.world.chunks[1][0] - before_ns) / messages.NANOSECONDS
    assert abs(moved_s - step_s) < 30.0
    assert graph.policy.observations[-1].executed_actions is None
    if step_s < 0:
        wait_for(lambda: any(s.values.get("refused_clock") for s in graph.world.diagnostics))
