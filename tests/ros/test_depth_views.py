# SPDX-License-Identifier: Apache-2.0
"""A policy of two views in the graph, the front camera's colours and its depth, over DDS.

Pictures at 20 Hz. 0.7 m is level 187 of 0.3 to 1.8 m. The sim graph runs a random checkpoint of
par_small's shapes for two chunks in lockstep; a real depth camera is 16UC1 of any size.
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Image

from par_model.depth_view import DepthView
from par_model.interface import PolicySpec, split_views
from par_model.load_policy import load_policy
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_ros import messages
from par_ros.__main__ import main
from par_ros.doctor.command import DoctorArguments, examine
from par_ros.graph_arguments import LoopbackArguments, SimArguments
from par_ros.node_graph import loopback_graph, sim_graph
from par_ros.topics import camera_topics
from tests.ros.checkpoints import save_random_checkpoint
from tests.ros.processes import run
from tests.ros.test_doctor import MAX_TRIES
from tests.ros.test_policy_inputs import Camera, feed, told
from tests.ros.test_policy_node import Graph, RecordingPolicy
from tests.ros.test_views import INSTRUCTION
from tests.ros.view_rig import active_graph, view_cameras

pytestmark = pytest.mark.ros

VIEWS = ("front", "front_depth")
DEPTH = (DepthView("front_depth", 0.3, 1.8),)
TOPICS = {view: image.name for view, (image, _) in camera_topics(VIEWS).items()}


class DepthPolicy(RecordingPolicy):
    @property
    def spec(self) -> PolicySpec:
        return dataclasses.replace(super().spec, views=VIEWS, depth_views=DEPTH)


@pytest.fixture
def graph(ros: None) -> Iterator[Graph]:
    with active_graph(DepthPolicy()) as made:
        yield made


@pytest.fixture
def cameras() -> Iterator[dict[str, Camera]]:
    with view_cameras(TOPICS) as made:
        yield made


def colour(camera: Camera) -> Image:
    return messages.array_to_image(camera.noise(150, 200), "rgb8", 0, "camera")


def at_0_7_m(camera: Camera) -> Image:
    """Millimetres, 480 x 640, with a millimetre of noise and a third that was not measured."""
    millimetres = 700 + camera.noise(480, 640)[:, :, 0] % 2
    millimetres = millimetres.astype(np.uint16)
    millimetres[:160] = 0
    return messages.array_to_image(millimetres, "16UC1", 0, "camera")


def nothing(camera: Camera) -> Image:
    return messages.array_to_image(np.zeros((128, 128), np.uint16), "16UC1", 0, "camera")


def test_the_policy_sees_levels_of_depth_beside_the_colours(
    graph: Graph, cameras: dict[str, Camera]
) -> None:
    sources = (cameras["front"], colour), (cameras["front_depth"], at_0_7_m)
    feed(graph, lambda: graph.world.chunks, *sources)
    shown = split_views(graph.policy.observations[0].image, VIEWS)
    depth = shown["front_depth"]
    assert depth.shape == (128, 128, 3)
    assert (depth[:42] == 0).all()
    assert (np.abs(depth[43:].astype(int) - 187) <= 1).all()
    assert 110 < shown["front"].mean() < 150


@pytest.mark.parametrize(
    ("front", "front_depth", "parts"),
    [
        (colour, colour, ("view 'front_depth'", "must be depth (16UC1 in mm", "got 'rgb8'")),
        (at_0_7_m, at_0_7_m, ("view 'front'", "must be a colour encoding (rgb8", "got '16UC1'")),
        (colour, nothing, ("view 'front_depth'", "must have measured 3.1% of its pixels", "0.0%")),
    ],
)
def test_what_is_not_the_view_s_kind_is_refused_by_name_and_encoding(
    graph: Graph,
    cameras: dict[str, Camera],
    front: Callable[[Camera], Image],
    front_depth: Callable[[Camera], Image],
    parts: tuple[str, ...],
) -> None:
    sources = (cameras["front"], front), (cameras["front_depth"], front_depth)
    feed(graph, lambda: told(graph, *parts), *sources)
    assert not graph.world.chunks


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "depth"
    save_random_checkpoint(folder, views=VIEWS, depth_views=DEPTH, num_slots=4)
    return folder


def test_the_simulated_arm_of_loopback_learns_which_views_are_depth(checkpoint: Path) -> None:
    graph = loopback_graph(LoopbackArguments(checkpoint=str(checkpoint), instruction=INSTRUCTION))
    (loopback,) = (node for node in graph.nodes if node.name == "loopback_arm_node")
    assert loopback.parameters["views"] == "front,front_depth"
    assert loopback.parameters["depth_views"] == "front_depth"
    # The simulator's cameras know.
    sim = sim_graph(SimArguments(task="PickCube", checkpoint=str(checkpoint)))
    assert all("depth_views" not in node.parameters for node in sim.nodes)


@pytest.mark.long
@pytest.mark.sim
@pytest.mark.usefixtures("own_domain")
def test_depth_runs_through_the_graph_as_without_it_and_is_replayed(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Two chunks in lockstep: the commands are the direct loop's, whose distances never were a
    message, and a replay of the recording is the same to the bit."""
    from par_model.evaluation.direct_loop import arm_for, run_episode

    report = tmp_path / "report"
    finished = run(
        "sim", "task:=PickCube", "episodes:=1", "max_steps:=16", f"checkpoint:={checkpoint}",
        f"report:={report}", "backend:=eager", "record:=true", "first_seed:=20241201",
    )  # fmt: skip
    assert finished.code == 0, finished.error
    episode = json.loads((report / "results.json").read_text())["episodes"][0]
    policy = load_policy(checkpoint, backend="eager")
    with arm_for("PickCube", policy.spec) as arm:
        direct = run_episode(arm, policy, 20_241_201, 16)
    np.testing.assert_allclose(episode["joint_targets"], direct.joint_targets, atol=1e-6)
    replayed = run("replay", str(report / "recording.mcap"))
    assert replayed.code == 0, replayed.output + replayed.error
    assert "the same to the bit" in replayed.output
    out = tmp_path / "set"
    assert main(["to_dataset", str(report / "recording.mcap"), "--out", str(out)]) == 0
    read = DemonstrationSet(out)
    assert read.views == VIEWS
    assert read.depth_of(VIEWS) == DEPTH
    assert read.read_frames(0, VIEWS).shape == (16, 256, 128, 3)
    sent = read.read_steps(0).executed_actions
    np.testing.assert_allclose(sent, episode["joint_targets"], atol=1e-5)


def test_the_doctor_compares_each_view_s_encoding(checkpoint: Path, free_domain: str) -> None:
    """The front camera is right; its depth topic has colours."""
    context = Context()
    context.init(domain_id=int(free_domain))
    node = Node("front_camera", context=context)
    picture = messages.array_to_image(np.full((128, 128, 3), 90, np.uint8), "rgb8", 0, "camera")
    publishers = [node.create_publisher(Image, name, 1) for name in TOPICS.values()]
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.wait(0.05):
            for publisher in publishers:
                publisher.publish(picture)

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        # A picture that a busy machine does not deliver in time is named, and the doctor is asked
        # again.
        for _ in range(MAX_TRIES):
            findings = examine(DoctorArguments(listen_s=3.0, checkpoint=str(checkpoint)))
            text = next(one.text for one in findings if one.name == "camera_picture")
            if "no picture has come" not in text:
                break
    finally:
        is_over.set()
        publishing.join()
        node.destroy_node()
        context.try_shutdown()
    assert text.startswith("view 'front_depth': image encoding must be depth (16UC1"), text
    assert "got 'rgb8'" in text
