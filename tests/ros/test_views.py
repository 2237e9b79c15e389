# SPDX-License-Identifier: Apache-2.0
"""A policy of two views in the graph: a topic each, matched by stamp; a missing one is named.

Pictures at 20 Hz; views may be 30 ms apart, a camera silent for 2 s. The sim graph runs a random
checkpoint of the shapes of par_small_two_views for two chunks in lockstep.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Image

from par_model.interface import PolicySpec, split_views
from par_model.load_policy import load_policy
from par_model.simulation.tasks import TASKS
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_ros import messages
from par_ros.__main__ import main
from par_ros.graph_arguments import RealArmArguments, further_cameras
from par_ros.node_graph import loopback_graph, real_arm_graph, sim_graph
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import Recorded
from par_ros.recording import read_recording
from par_ros.topics import camera_topics, view_names
from tests.ros.checkpoints import save_random_checkpoint
from tests.ros.processes import run
from tests.ros.test_policy_inputs import TIMEOUT_S, Camera, feed, stamped, told
from tests.ros.test_policy_node import Graph, RecordingPolicy, now_ns
from tests.ros.view_rig import active_graph, view_cameras

pytestmark = pytest.mark.ros

VIEWS = ("front", "right")
TOPICS = {view: image.name for view, (image, _) in camera_topics(VIEWS).items()}
INSTRUCTION = TASKS["PickCube"].instruction
LEVELS = {"front": 90, "right": 160}


class TwoViewPolicy(RecordingPolicy):
    """Refuses an observation without both views, as every policy does."""

    @property
    def spec(self) -> PolicySpec:
        return dataclasses.replace(super().spec, views=VIEWS)


@pytest.fixture
def graph(ros: None) -> Iterator[Graph]:
    with active_graph(TwoViewPolicy()) as made:
        yield made


@pytest.fixture
def cameras() -> Iterator[dict[str, Camera]]:
    with view_cameras(TOPICS) as made:
        yield made


def grey(view: str) -> Callable[[Camera], Image]:
    """A noisy picture of about the view's level, 150 x 200."""

    def make(camera: Camera) -> Image:
        noise = camera.noise(150, 200) // 16
        return messages.array_to_image(noise + np.uint8(LEVELS[view]), "rgb8", 0, "camera")

    return make


def test_both_views_are_answered_together(graph: Graph, cameras: dict[str, Camera]) -> None:
    feed(graph, lambda: graph.world.chunks, *((c, grey(view)) for view, c in cameras.items()))
    shown = graph.policy.observations[0]
    assert shown.views == VIEWS
    assert shown.image.shape == (256, 128, 3)
    for view, image in split_views(shown.image, VIEWS).items():
        assert abs(image.mean() - LEVELS[view] - 7.5) < 3


@pytest.mark.parametrize("missing", VIEWS)
def test_a_view_that_is_missing_is_named(
    graph: Graph, cameras: dict[str, Camera], missing: str
) -> None:
    """Its camera runs and sends nothing, or nobody publishes its topic."""
    (there,) = set(VIEWS) - {missing}
    feed(
        graph,
        lambda: told(graph, "no chunk is sent", f"view '{missing}'", "none has come at all"),
        (cameras[there], grey(there)),
    )
    cameras[missing].node.destroy_publisher(cameras[missing].publisher)
    feed(
        graph,
        lambda: told(graph, f"view '{missing}'", TOPICS[missing], "nobody publishes"),
        (cameras[there], grey(there)),
    )
    assert not graph.world.chunks


@pytest.mark.parametrize("grey_view", VIEWS)
def test_grey_pictures_of_one_view_are_named(
    graph: Graph, cameras: dict[str, Camera], grey_view: str
) -> None:
    """Whichever view's picture comes last."""

    def one_channel(camera: Camera) -> Image:
        picture = camera.noise(150, 200)[:, :, 0] // 16 + np.uint8(LEVELS[grey_view])
        return messages.array_to_image(picture, "mono8", 0, "camera")

    sources = [
        (camera, one_channel if view == grey_view else grey(view))
        for view, camera in cameras.items()
    ]
    for order in (sources, sources[::-1]):
        graph.world.diagnostics.clear()
        feed(
            graph,
            lambda: told(graph, f"view '{grey_view}': the camera's pictures are grey"),
            *order,
        )
    (other,) = set(VIEWS) - {grey_view}
    assert not told(graph, f"view '{other}': the camera's pictures are grey")


def test_views_that_do_not_match_are_named_with_how_far_they_are(
    graph: Graph, cameras: dict[str, Camera]
) -> None:
    """The right camera's clock is 0.2 s behind."""
    parts = ("view 'right'", "within 0.03 s of view 'front'", "s away")
    deadline_s = time.monotonic() + TIMEOUT_S
    while (status := told(graph, *parts)) is None:
        assert not graph.spinning.done(), graph.spinning.exception()
        assert time.monotonic() < deadline_s, [s.message for s in graph.world.diagnostics][-3:]
        stamp_ns = now_ns(graph)
        graph.world.show_joints(stamp_ns)
        for view, camera in cameras.items():
            late_ns = 200_000_000 if view == "right" else 0
            camera.publisher.publish(stamped(grey(view)(camera), stamp_ns - late_ns))
        # No multiple of 0.2 s, so that no older picture has the same stamp.
        time.sleep(0.15)
    assert status.values["camera_fault"] == "views"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "two_views"
    save_random_checkpoint(folder, views=VIEWS, num_slots=4)
    return folder


def test_every_node_learns_the_views_of_the_checkpoint(checkpoint: Path) -> None:
    from par_ros.graph_arguments import LoopbackArguments, SimArguments

    def views(graph: object) -> dict[str, str]:
        found = {node.name: node.parameters.get("views") for node in graph.nodes}
        return {name: text for name, text in found.items() if text}

    one = {"task": "PickCube", "checkpoint": str(checkpoint), "record": True}
    assert views(sim_graph(SimArguments(**one))) == dict.fromkeys(
        ("maniskill_bridge_node", "episode_node", "recorder_node"), "front,right"
    )
    (recorder,) = (n for n in sim_graph(SimArguments(**one)).nodes if n.name == "recorder_node")
    named = json.loads(str(recorder.parameters["settings"]))["views"]
    assert named == [{"name": "front"}, {"name": "right"}]
    arm = {"checkpoint": str(checkpoint), "instruction": INSTRUCTION, "record": True}
    assert set(views(loopback_graph(LoopbackArguments(**arm)))) == {
        "loopback_arm_node", "recorder_node",
    }  # fmt: skip
    real = real_arm_graph(
        RealArmArguments(**arm, further_cameras="right=/side/image_raw", robot="panda")
    )
    remaps = {node.name: dict(node.remappings) for node in real.nodes}
    for name in ("policy_node", "recorder_node"):
        assert remaps[name]["camera/right/image_raw"] == "/side/image_raw"
    with pytest.raises(ValueError, match=r"names rihgt; the further views of .* are right"):
        real_arm_graph(RealArmArguments(**arm, further_cameras="rihgt=/side", robot="panda"))
    # The shipped policy's graph is as before.
    assert views(sim_graph(SimArguments(task="PickCube", record=True))) == {}


def test_further_cameras_that_cannot_be_read_are_refused() -> None:
    assert further_cameras("right=/a, wrist=/b") == {
        "right": "/a", "wrist": "/b",
    }  # fmt: skip
    with pytest.raises(ValueError, match="must be VIEW=TOPIC"):
        further_cameras("/side/image_raw")
    assert view_names("front, right") == VIEWS


@pytest.mark.long
@pytest.mark.sim
@pytest.mark.usefixtures("own_domain")
def test_two_views_run_through_the_graph_are_recorded_and_replayed(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Two episodes' worth of lockstep: the commands are the direct loop's, the recording holds both
    cameras, and a replay of it is the same to the bit."""
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

    recording = read_recording(report / "recording.mcap")
    recorded = Recorded(recording, RecordedGraph.from_json(recording.settings))
    stamps = [set(recorded.pictures(image)) for image, _ in camera_topics(VIEWS).values()]
    assert stamps[0] == stamps[1]
    assert len(stamps[0]) >= 16
    replayed = run("replay", str(report / "recording.mcap"))
    assert replayed.code == 0, replayed.output + replayed.error
    assert "the same to the bit" in replayed.output
    out = tmp_path / "set"
    assert main(["to_dataset", str(report / "recording.mcap"), "--out", str(out)]) == 0
    read = DemonstrationSet(out)
    assert read.views == VIEWS
    assert read.read_frames(0, VIEWS).shape == (16, 256, 128, 3)
    sent = read.read_steps(0).executed_actions
    np.testing.assert_allclose(sent, episode["joint_targets"], atol=1e-5)


def test_the_doctor_names_the_view_that_is_missing(checkpoint: Path, free_domain: str) -> None:
    context = Context()
    context.init(domain_id=int(free_domain))
    node = Node("front_camera", context=context)
    try:
        node.create_publisher(Image, TOPICS["front"], 5)
        finished = run("doctor", "--json", "listen_s:=2", f"checkpoint:={checkpoint}")
    finally:
        node.destroy_node()
        context.try_shutdown()
    lines = {one["name"]: one for one in json.loads(finished.output)}
    assert not lines["camera"]["ok"]
    assert lines["camera"]["text"].startswith("view 'right': ")
    assert TOPICS["right"] in lines["camera"]["text"]
    assert "view 'front': no picture has come" in lines["camera_picture"]["text"]
