# SPDX-License-Identifier: Apache-2.0
"""The live view: what it shows, and that the graph runs on while it stands still and when it ends.

Chunks of 0.4 s from fixed_chunk_node; joint 1 of the panda moves within -2.8973 to 2.8973 rad.
"""

import importlib.util
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from select import select
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from par_ros import messages
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.graph_arguments import LoopbackArguments, RealArmArguments, SimArguments
from par_ros.node_graph import loopback_graph, real_arm_graph, sim_graph
from par_ros.parameters import read_arm_spec
from par_ros.topics import GUARD, VIEWER
from par_ros.wire_records import GuardState
from tests.ros.processes import children, finish, start_module, wait_for
from tests.ros.test_graph_runner import Listener

TIMEOUT_S = 200.0
S = 1_000_000_000
LATE_NS = 1_790_000_000 * S
INSTRUCTION = LoopbackArguments().instruction
HAS_RERUN = importlib.util.find_spec("rerun") is not None
needs_rerun = pytest.mark.skipif(not HAS_RERUN, reason="rerun-sdk is not installed")


def free_ports() -> int:
    """The first of two free ports that follow each other."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("", port + 1))
            except OSError:
                continue
            return port


@needs_rerun
@pytest.mark.parametrize(
    ("build", "arguments", "robot"),
    [
        (sim_graph, SimArguments(view=True, view_port=9190), "panda"),
        (loopback_graph, LoopbackArguments(view=True, view_port=9190, robot="fr3"), "fr3"),
        (
            real_arm_graph,
            RealArmArguments(
                view=True, view_port=9190, instruction=INSTRUCTION, camera_topic="eye/image_raw"
            ),
            "panda",
        ),
    ],
)
def test_view_adds_one_process_that_no_other_needs(build: Any, arguments: Any, robot: str) -> None:
    *_, viewer = build(arguments, "").nodes
    assert viewer.executable == viewer.name == VIEWER
    assert viewer.is_optional
    assert (viewer.parameters["arm"], viewer.parameters["port"]) == (robot, 9190)
    if build is real_arm_graph:
        assert ("camera/image_raw", "eye/image_raw") in viewer.remappings


def test_there_is_no_view_unless_asked_for() -> None:
    assert all(node.name != VIEWER for node in sim_graph(SimArguments()).nodes)


def test_a_view_without_rerun_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"loopback: view:=true needs rerun-sdk"):
        loopback_graph(LoopbackArguments(view=True))


def written(path: Path, entity: str, component: str) -> list[tuple[float, Any]]:
    """Time and value in a saved stream; of one time the last value."""
    import rerun as rr

    recording = rr.dataframe.load_recording(str(path))
    view = recording.view(index="time", contents=f"/{entity}/**")
    table = view.filter_is_not_null(f"/{entity}:{component}").select().read_all()
    values = [value[0] for value in table[f"/{entity}:{component}"].to_pylist()]
    return [(time.value / 1e9, value) for time, value in zip(table["time"], values, strict=True)]


@needs_rerun
def test_what_is_shown_of_messages(tmp_path: Path) -> None:
    """A chunk of two actions, 0.05 s apart, after the first joint state at 7 s."""
    import rerun as rr

    from par_ros.viewer_log import CAMERA, ViewerLog

    stream = rr.RecordingStream("test")
    stream.save(tmp_path / "shown.rrd")
    arm = read_arm_spec("panda")
    log = ViewerLog(stream, arm)
    names = ("left_panda_joint1", "another")
    log.show_joints(JointReading(7_000_000_000, names, np.array([0.5, 9.0]), None), "left_")
    times_s, positions = np.array([0.05, 0.1]), np.array([[0.6], [0.7]])
    log.show_actions("chunk", JointTrajectory(("panda_joint1",), times_s, positions), 7_400_000_000)
    log.show_latencies((12.0, 13.0), 7_500_000_000)
    log.show_event("ERROR", "guard disengaged, fault: jump")
    log.show_picture(CAMERA, np.full((4, 4, 3), 9, np.uint8), 7_600_000_000)
    stream.flush()
    stream.disconnect()

    shown = partial(written, tmp_path / "shown.rrd")
    joint = "joints/panda_joint1"
    assert shown(f"{joint}/measured", "Scalar") == [(0.0, 0.5)]
    due = shown(f"{joint}/chunk", "Scalar")
    assert due == [(pytest.approx(0.45), 0.6), (pytest.approx(0.5), 0.7)]
    limits = [value for _, value in shown(f"{joint}/highest", "Scalar")]
    assert limits == pytest.approx([2.8973] * 2)
    assert [value for _, value in shown("latency", "Scalar")] == [13.0]
    assert shown("events", "Text") == [(0.0, "guard disengaged, fault: jump")]
    assert shown(CAMERA, "MediaType") == [(pytest.approx(0.6), "image/jpeg")]


@needs_rerun
@pytest.mark.ros
def test_events_are_shown_while_neither_arm_nor_camera_runs(
    free_domain: str, tmp_path: Path
) -> None:
    """Of the guard, whose state has no stamp: disengaged, then its diagnostics at 1.79e9 s; the
    first joint state comes 3 s later."""
    import rclpy
    import rerun as rr

    from par_ros.viewer_log import ViewerLog
    from par_ros.viewer_node import ViewerNode

    stream = rr.RecordingStream("test")
    stream.save(tmp_path / "shown.rrd")
    rclpy.init(args=["--ros-args", "-p", f"port:={free_ports()}"])
    try:
        node = ViewerNode()
        node._log = log = ViewerLog(stream, read_arm_spec("panda"))
        texts = GuardState(False, False, "", "").to_values()
        status = messages.Status(GUARD, messages.OK, "", texts)
        node._on_guard_state(messages.status_message(status))
        node._on_diagnostics(messages.diagnostics_message((), LATE_NS))
        node._on_diagnostics(messages.diagnostics_message((status,), LATE_NS))
        reading = JointReading(LATE_NS + 3 * S, ("panda_joint1",), np.array([0.5]), None)
        log.show_joints(reading, "")
        log.show_event("INFO", "guard engaged")
        node.destroy_node()
    finally:
        rclpy.shutdown()
    stream.flush()
    stream.disconnect()
    events = written(tmp_path / "shown.rrd", "events", "Text")
    assert events == [(0.0, f"{GUARD}: "), (3.0, "guard engaged")]


@needs_rerun
@pytest.mark.ros
def test_a_taken_port_is_one_sentence(free_domain: str) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_module("par_ros.viewer_node", "--ros-args", "-p", f"port:={port}")
        ended = finish(process, TIMEOUT_S)
    assert ended.code == 1
    (sentence,) = ended.sentences
    assert f"port {port} cannot be had" in sentence
    assert "view_port:=N" in sentence


@pytest.fixture
def viewed(free_domain: str) -> Iterator[SimpleNamespace]:
    """A light graph with a live view that is served."""
    port = free_ports()
    words = (free_domain, "", "", "needed", "", str(port))
    process = start_module("tests.ros.light_graph", *words)
    listener = Listener(free_domain)
    try:
        assert process.stdout is not None
        wait_for(lambda: select([process.stdout], [], [], 0.0)[0], TIMEOUT_S, "the address")
        address = process.stdout.readline()
        assert address.startswith("live view: ")
        wait_for(lambda: listener.hears_commands() or process.poll() is not None, TIMEOUT_S, "it")
        yield SimpleNamespace(process=process, listener=listener, address=address.split()[-1])
    finally:
        listener.close()
        process.kill()


@needs_rerun
@pytest.mark.ros
def test_the_graph_runs_on_without_its_view(viewed: SimpleNamespace) -> None:
    """The page is served; then the viewer stands still for some chunks, then it is killed."""
    process, listener = viewed.process, viewed.listener
    assert re.match(r"http://localhost:\d+/\?url=rerun%2Bhttp://", viewed.address)
    with urllib.request.urlopen(viewed.address, timeout=TIMEOUT_S) as page:
        assert b"rerun" in page.read().lower()
    viewer = children(process.pid)["viewer_node"]
    os.kill(viewer, signal.SIGSTOP)
    for _ in range(4):
        wait_for(listener.hears_more_commands, TIMEOUT_S, "a trajectory")
    os.kill(viewer, signal.SIGKILL)
    assert process.stderr is not None
    reported = next(line for line in process.stderr if line.startswith("error: "))
    assert "viewer_node has ended, the other processes continue" in reported
    for _ in range(2):
        wait_for(listener.hears_more_commands, TIMEOUT_S, "a trajectory")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert finish(process, TIMEOUT_S).code == 130
