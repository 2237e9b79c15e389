# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros doctor`: a healthy loopback graph, and set-ups broken in one way each.

The camera is 160 x 160 at 20 Hz, the joint states come at 100 Hz; the shipped checkpoint wants
128 x 128 and a picture every 0.4 s.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from par_model.peers.lerobot_folder import read_lerobot_folder
from par_ros import messages
from par_ros.doctor import command, graph, machine
from par_ros.doctor.command import DoctorArguments, Finding, examine
from par_ros.doctor.graph import GRAPH_CHECKS, Needs
from par_ros.doctor.machine import MACHINE_CHECKS
from par_ros.parameters import read_arm_spec
from par_ros.participants import MAX_PARTICIPANTS, num_participants, require_room
from par_ros.view_reader import ViewReader
from tests.peers.folders import lerobot_folder
from tests.ros.processes import Finished, finish, run, start_module

SPEC = read_arm_spec("panda")
TIMEOUT_S = 120.0
# A busy machine may starve the drivers for longer than their stamps may be old, or for the seconds
# in which they are listened to: then what the doctor says is right, and it is asked again.
MAX_TRIES = 12
COMMANDS = ("controller_topic:=joint_trajectory", "gripper_topic:=gripper_trajectory")


def findings_of(finished: Finished) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in json.loads(finished.output)}


@pytest.mark.ros
def test_a_healthy_loopback_graph(free_domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS", raising=False)
    process = start_module("tests.ros.light_graph", free_domain)
    words = ("doctor", "--json", "dry_run:=false", "fastdds_profile:=true", *COMMANDS)
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            told = findings_of(finished := run(*words, "listen_s:=2"))
            said = str(told["statuses"]["text"])
            # Until guard and policy run, and the guard has led the arm to where it begins.
            came_up = finished.code == 0 and "policy_node" in said and "settling" not in said
            if came_up or time.monotonic() > deadline_s:
                break
            assert process.poll() is None, finish(process, 5.0).error
    finally:
        process.send_signal(signal.SIGINT)
        finish(process, TIMEOUT_S)
    assert [one for one in told.values() if not one["ok"]] == []
    assert finished.code == 0
    assert list(told) == [*MACHINE_CHECKS, *GRAPH_CHECKS]
    assert told["camera"]["text"] == (
        "/camera/image_raw, sensor_msgs/msg/Image, reliable, from /loopback_arm_node"
    )
    assert told["camera_picture"]["text"] == "rgb8 of 128 x 128, fitted to 128 x 128"
    # A busy machine refuses an observation now and then.
    assert re.search(r"policy_node: (answering|\d+ observations refused)", said), said


class World:
    """A driver of a camera and an arm in a participant of its own; what is broken is set."""

    def __init__(self) -> None:
        self._context = Context()
        self._context.init()
        self.node = Node("drivers", context=self._context)
        self.names: tuple[str, ...] = SPEC.joint_names
        self.positions = np.append(SPEC.home, 0.04)
        self.joint_hz, self.camera_hz = 100.0, 20.0
        self.joint_offset_s = self.camera_offset_s = 0.0
        self.is_stamped = True
        self.make_picture: Callable[[], Image | CompressedImage] = self.picture
        self._random = np.random.default_rng(0)
        self._joints = self.node.create_publisher(JointState, "joint_states", 10)
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []

    def picture(self, size: int = 160, encoding: str = "rgb8") -> Image:
        pixels = self._random.integers(60, 200, (size, size, 3), np.uint8)
        return messages.array_to_image(pixels, encoding, 0, "camera")

    def start(self, message_type: type = Image, name: str = "camera/image_raw") -> None:
        self._camera = self.node.create_publisher(message_type, name, 10)
        for work, period_s in (
            (self._publish_joints, 1.0 / self.joint_hz),
            (self._publish_picture, 1.0 / self.camera_hz),
        ):
            thread = threading.Thread(target=self._repeat, args=(work, period_s))
            thread.start()
            self._threads.append(thread)

    def _repeat(self, work: Callable[[], None], period_s: float) -> None:
        while not self._is_over.wait(period_s):
            work()

    def _publish_joints(self) -> None:
        stamp_ns = time.time_ns() + round(self.joint_offset_s * messages.NANOSECONDS)
        velocities = np.zeros(len(self.names))
        self._joints.publish(
            messages.joint_state_message(self.names, self.positions, velocities, stamp_ns)
        )

    def _publish_picture(self) -> None:
        message = self.make_picture()
        stamp_ns = time.time_ns() + round(self.camera_offset_s * messages.NANOSECONDS)
        message.header.stamp = messages.ns_to_time(stamp_ns if self.is_stamped else 0)
        self._camera.publish(message)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def graph_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's drawing is tried where the whole command runs, not once a set-up."""
    checks = {name: check for name, check in MACHINE_CHECKS.items() if name != "vulkan"}
    monkeypatch.setattr(command, "MACHINE_CHECKS", checks)


@pytest.fixture
def brief_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing never comes; what is there may come while the graph is listened to, too."""
    monkeypatch.setattr(graph, "_DISCOVERY_S", 1.0)


@pytest.fixture
def world(free_domain: str, graph_only: None) -> Iterator[World]:
    made = World()
    yield made
    made.stop()


def bad(**arguments: object) -> dict[str, str]:
    """Name -> sentence of what is not ok."""
    findings: list[Finding] = examine(DoctorArguments(listen_s=2.0, **arguments))  # type: ignore[arg-type]
    return {one.name: one.text for one in findings if not one.ok}


def bad_in_the_end(
    is_expected: Callable[[dict[str, str]], bool], **arguments: object
) -> dict[str, str]:
    """The last of at most MAX_TRIES answers, of which one is as expected."""
    for _ in range(MAX_TRIES):
        told = bad(**arguments)
        if is_expected(told):
            break
    return told


@pytest.mark.ros
def test_nothing_is_bad_before_the_graph_is_started(world: World) -> None:
    """Camera and arm are there, for a dry run."""
    world.start()
    assert bad_in_the_end(lambda told: not told) == {}


def _depth(world: World) -> Image:
    return messages.array_to_image(np.full((160, 160), 700, np.uint16), "16UC1", 0, "")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("changes", "arguments", "sentences"),
    [
        (
            {"names": SPEC.joint_names[:7]},
            {"camera_topic": "other"},
            {
                "camera": "nobody publishes /other (sensor_msgs/msg/Image",
                "joint_states": "lack ['panda_finger_joint1']",
            },
        ),
        (
            {"make_picture": _depth, "joint_hz": 8.0},
            {},
            {
                "camera_picture": "must be a colour encoding",
                "joint_states": "Hz, 20 Hz are needed",
            },
        ),
        (
            {"make_picture": lambda world: world.picture(64), "joint_offset_s": -2.0},
            {},
            {
                "camera_picture": "at least 128 x 128 is needed. Choose another camera mode",
                "joint_stamps": "check the driver's clock and use_sim_time",
            },
        ),
        (
            {
                "make_picture": lambda world: world.picture(encoding="bgra8"),
                "positions": np.append(SPEC.home + np.eye(7)[3] * 3, 0.04),
            },
            {},
            {
                "camera_picture": (
                    "needs a step of at least 640 bytes, got 480; check the camera driver"
                ),
                "joint_limits": "panda_joint4 is outside the position limits; move the arm by hand",
            },
        ),
        (
            {"camera_hz": 1.5, "names": tuple(f"left_{name}" for name in SPEC.joint_names)},
            {},
            {
                "camera_rate": "at least 2.5 Hz are needed",
                "joint_states": "set joint_prefix:=left_",
            },
        ),
        (
            {"is_stamped": False},
            {"dry_run": False, "reference": "none"},
            {
                "camera_stamps": "this one's stamp is 0; check the camera's",
                "controllers": (
                    "no controller listens on /joint_trajectory_controller/joint_trajectory"
                ),
            },
        ),
        (
            {"camera_offset_s": -60.0},
            {},
            {"camera_stamps": "check which clock the camera's driver stamps with"},
        ),
        (
            {},
            {"use_sim_time": True},
            {"simulated_clock": "nothing has come on /clock: start what"},
        ),
    ],
)
def test_a_broken_set_up_is_named(
    world: World,
    brief_discovery: None,
    changes: dict[str, object],
    arguments: dict[str, object],
    sentences: dict[str, str],
) -> None:
    """Camera and arm are broken in one way each: neither hides the other."""
    for field, value in changes.items():
        if field == "make_picture":
            value = lambda make=value: make(world)  # noqa: E731
        if field == "names":
            world.positions = world.positions[: len(value)]  # type: ignore[arg-type]
        setattr(world, field, value)
    world.start()
    # Nothing else is named, but what follows from it.
    related = {
        "camera": {"camera_picture", "camera_rate", "camera_stamps"},
        "joint_states": {"joint_stamps", "joint_limits"},
        "joint_stamps": {"joint_limits"},
        "simulated_clock": {"camera_stamps", "joint_stamps", "joint_limits"},
    }
    follows = set().union(*(related.get(name, set()) for name in sentences))

    def is_expected(told: dict[str, str]) -> bool:
        is_named = all(sentence in told.get(name, "") for name, sentence in sentences.items())
        return is_named and set(told) <= set(sentences) | follows

    told = bad_in_the_end(is_expected, **arguments)
    for name, sentence in sentences.items():
        assert sentence in told.get(name, ""), told
    assert set(told) <= set(sentences) | follows, told


@pytest.mark.ros
def test_a_camera_of_another_type_is_named(world: World, brief_discovery: None) -> None:
    def jpeg() -> CompressedImage:
        return CompressedImage(format="jpeg", data=b"\xff\xd8")

    world.make_picture = jpeg
    world.start(CompressedImage)
    sentence = "must carry sensor_msgs/msg/Image, /drivers publishes sensor_msgs/msg/Comp"
    told = bad_in_the_end(lambda told: sentence in told.get("camera", ""), image_transport="raw")
    assert sentence in told["camera"]


@pytest.mark.ros
def test_two_cameras_and_a_second_commander_are_named(world: World) -> None:
    context = Context()
    context.init()
    other = Node("stranger", context=context)
    camera = other.create_publisher(Image, "camera/image_raw", 10)
    commands = other.create_publisher(
        JointTrajectory, "joint_trajectory_controller/joint_trajectory", 10
    )
    over = threading.Event()

    def publish() -> None:
        while not over.wait(0.05):
            message = world.picture()
            message.header.stamp = messages.ns_to_time(time.time_ns())
            camera.publish(message)

    thread = threading.Thread(target=publish)
    thread.start()
    sentences = {
        "camera_stamps": "they come from /drivers and /stranger on one topic",
        "controllers": (
            "stranger publishes on /joint_trajectory_controller/joint_trajectory, only"
        ),
    }
    try:
        world.start()
        told = bad_in_the_end(
            lambda told: all(part in told.get(name, "") for name, part in sentences.items())
        )
    finally:
        over.set()
        thread.join()
        other.destroy_publisher(commands)
        other.destroy_node()
        context.try_shutdown()
    for name, sentence in sentences.items():
        assert sentence in told.get(name, ""), told


@pytest.mark.ros
def test_an_empty_domain_is_named(
    free_domain: str, graph_only: None, brief_discovery: None
) -> None:
    told = bad()
    assert "no other node is found in ROS domain" in told["other_nodes"]
    assert "nobody publishes /camera/image_raw" in told["camera"]
    assert "nobody publishes /joint_states" in told["joint_states"]


# The machine


@pytest.mark.parametrize(
    ("variables", "check", "sentence"),
    [
        ({"ROS_DOMAIN_ID": "abc"}, machine.middleware, "must be a number from 0 to 232, got 'abc'"),
        (
            {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCAL"},
            machine.middleware,
            "ROS_AUTOMATIC_DISCOVERY_RANGE must be SUBNET, LOCALHOST",
        ),
        (
            {"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"},
            machine.middleware,
            "RMW_IMPLEMENTATION is rmw_zenoh_cpp, but rmw_fastrtps_cpp is loaded",
        ),
        ({"ROS_DISTRO": "jazzy"}, machine.ros, "two ROS installations do not mix"),
        (
            {"FASTDDS_DEFAULT_PROFILES_FILE": "/nowhere.xml"},
            machine.dds_profile,
            "FASTDDS_DEFAULT_PROFILES_FILE names /nowhere.xml, which Fast DDS cannot read",
        ),
        (
            {"VK_DRIVER_FILES": "/nowhere.json"},
            machine.vulkan,
            "VK_DRIVER_FILES names /nowhere.json, which is not there",
        ),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    check: Callable[[], str],
    sentence: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as caught:
        check()
    assert sentence in str(caught.value)


def test_a_driver_that_draws_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = tmp_path / "icd.json"
    driver.write_text("{}")
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, str(driver))
    with pytest.raises(ValueError) as caught:
        machine.vulkan()
    assert f"the simulator cannot draw with VK_DRIVER_FILES={driver}" in str(caught.value)
    assert "run ./par setup" in str(caught.value)


def test_a_gpu_without_its_driver_is_named(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "couldn\'t communicate with the NVIDIA driver"\nexit 9\n')
    smi.chmod(0o755)
    with pytest.raises(ValueError, match=r"finds no GPU .couldn't communicate .*--gpus all"):
        machine.gpu(str(smi))


def test_shared_memory_that_is_full_or_missing_is_named(tmp_path: Path) -> None:
    assert "MB free in" in machine.shared_memory(Path("/dev/shm"))
    with pytest.raises(ValueError, match="cannot be written"):
        machine.shared_memory(tmp_path / "missing")
    full = Path("/sys/fs")
    with pytest.raises(ValueError, match=r"cannot be written|0 MB free"):
        machine.shared_memory(full)


def test_a_clock_that_follows_nobody_matters_beyond_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "is_unsynchronised", lambda: True)
    assert "need not be" in machine.clock_synchronisation(
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    )
    with pytest.raises(ValueError, match="start chrony or systemd-timesyncd"):
        machine.clock_synchronisation({})


def test_a_domain_that_is_full_is_named_by_doctor_and_by_a_run(free_domain: str) -> None:
    """33 idle participants; those beyond the 32nd find nobody."""
    idle = subprocess.Popen(
        [
            "python3", "-c",
            "import socket, sys, time\n"
            "base = 7400 + 250 * int(sys.argv[1]) + 10\n"
            "sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(33)]\n"
            "[one.bind(('127.0.0.1', base + 2 * i)) for i, one in enumerate(sockets)]\n"
            "print('bound', flush=True); time.sleep(600)",
            free_domain,
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert idle.stdout is not None and idle.stdout.readline() == "bound\n"
        assert num_participants(int(free_domain), Path("/proc/net/udp")) == MAX_PARTICIPANTS + 1
        with pytest.raises(ValueError, match="has 33 DDS participants on this machine and 1 more"):
            require_room(1)
        ended = run("loopback")
    finally:
        idle.kill()
        idle.wait()
    assert ended.code == 1
    (sentence,) = ended.sentences
    assert "only 32 find each other. End some, choose another domain (domain_id:=N)" in sentence


def test_bad_lines_end_with_code_1_and_are_readable(free_domain: str) -> None:
    finished = run("doctor", "listen_s:=1", ROS_DOMAIN_ID=os.environ["ROS_DOMAIN_ID"])
    assert finished.code == 1
    lines = finished.output.splitlines()
    assert [line.split()[1] for line in lines] == [*MACHINE_CHECKS, *GRAPH_CHECKS]
    assert {line[:3] for line in lines} == {"ok ", "BAD"}
    assert "Traceback" not in finished.error


def test_a_lerobot_checkpoint_says_what_it_needs(tmp_path: Path) -> None:
    folder = lerobot_folder(tmp_path)
    policy = read_lerobot_folder(folder)[1]
    needs = Needs.of(folder, SPEC, "")
    assert needs.reader == ViewReader.of(policy)
    assert needs.views == policy.views
    assert needs.chunk_s == pytest.approx(policy.num_actions * policy.step_s)
