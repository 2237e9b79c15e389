# SPDX-License-Identifier: Apache-2.0
"""The sim graph as a user runs it: real ManiSkill, the real model (random weights), real DDS.

Episodes of 24 control steps (3 chunks) that the random policy cannot solve, seeds 20241201 and on;
the direct loop has to command the same joint targets to 1e-6 rad.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from par_ros.topics import RESET_EPISODE
from tests.ros.processes import ROOT, Finished, children, finish, run, start, wait_for

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.usefixtures("own_domain")]

FIRST_SEED = 20_241_201
NUM_STEPS = 24
RUN_TIMEOUT_S = 280.0
# On an idle machine 2 s: END_GRACE_S, then SIGKILL.
CTRL_C_TIMEOUT_S = 15.0
SAME_TARGET_RAD = 1e-6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.ros.checkpoints import save_random_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    save_random_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "report"


@pytest.fixture(scope="module")
def finished(checkpoint: Path, report: Path) -> Finished:
    """Two episodes, the first with predicted pictures."""
    return run(
        "sim",
        "task:=PushCube",
        "episodes:=2",
        f"max_steps:={NUM_STEPS}",
        f"checkpoint:={checkpoint}",
        f"report:={report}",
        "backend:=eager",
        timeout_s=RUN_TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def results(finished: Finished, report: Path) -> dict[str, Any]:
    assert finished.code == 0, finished.error
    content: dict[str, Any] = json.loads((report / "results.json").read_text())
    return content


def test_run_ends_well_with_the_table(finished: Finished, results: dict[str, Any]) -> None:
    assert "Traceback" not in finished.error
    for text in ("episode 2/2", "success", "policy latency", "camera stamp to trajectory", "holds"):
        assert text in finished.output
    assert results["num_episodes"] == 2


def test_direct_loop_commands_the_same_targets(results: dict[str, Any], checkpoint: Path) -> None:
    from par_model.evaluation.direct_loop import run_episode
    from par_model.load_policy import load_policy
    from par_model.simulation.maniskill_env import ManiSkillArm

    policy = load_policy(checkpoint, backend="eager", device="cpu")
    with ManiSkillArm("PushCube") as arm:
        for index, episode in enumerate(results["episodes"]):
            assert episode["guard_changes"] == []
            assert episode["holds"] == 0
            direct = run_episode(arm, policy, FIRST_SEED + index, NUM_STEPS)
            targets = np.array(episode["joint_targets"])
            assert targets.shape == (NUM_STEPS, 8)
            # A policy that stood still would prove nothing.
            assert np.ptp(targets, axis=0).max() > 1e-3
            np.testing.assert_allclose(targets, direct.joint_targets, rtol=0, atol=SAME_TARGET_RAD)


def test_numbers_of_each_episode_fit_together(results: dict[str, Any]) -> None:
    for index, episode in enumerate(results["episodes"]):
        assert episode["seed"] == FIRST_SEED + index
        assert episode["steps"] == NUM_STEPS
        assert episode["chunks"] == NUM_STEPS // 8
        assert len(episode["camera_to_trajectory_ms"]) == episode["chunks"]
        assert min(episode["camera_to_trajectory_ms"]) > 0
        assert len(episode["policy_latency_ms"]) >= episode["chunks"]
        assert episode["step_rate_hz"] > 0
    assert results["policy_latency_ms"]["p50"] < results["camera_to_trajectory_ms"]["worst"]


def test_report_has_every_video_and_a_prediction(results: dict[str, Any], report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    widths = []
    for episode in results["episodes"]:
        assert episode["video"] in page
        with av.open(str(report / episode["video"])) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == NUM_STEPS + 1
        assert np.ptp(frames[0]) > 100
        widths.append(frames[0].shape[1])
    assert [episode["predicted"] for episode in results["episodes"]] == [True, False]
    assert widths[0] == 2 * widths[1]


def test_ctrl_c_keeps_the_finished_episodes(checkpoint: Path, tmp_path: Path) -> None:
    process = start(
        "sim", "episodes:=1000", "max_steps:=8", f"checkpoint:={checkpoint}",
        f"report:={tmp_path}", "predict_episodes:=0", "backend:=eager",
    )  # fmt: skip
    try:
        path = tmp_path / "results.json"
        wait_for(lambda: path.exists() or process.poll() is not None, RUN_TIMEOUT_S, "an episode")
        assert process.poll() is None, process.communicate()[1]
        started_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        ended = finish(process, RUN_TIMEOUT_S)
        assert time.monotonic() - started_s < CTRL_C_TIMEOUT_S
    finally:
        process.kill()
    assert ended.code == 130
    assert not children(process.pid)
    results = json.loads(path.read_text())
    assert results["num_episodes"] >= 1
    for episode in results["episodes"]:
        assert len(episode["joint_targets"]) == episode["steps"] == 8
        assert (tmp_path / episode["video"]).exists()
    last_seed = results["episodes"][-1]["seed"]
    assert f"<td>{last_seed}</td>" in (tmp_path / "report.html").read_text()


def test_no_vulkan_driver_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    finished = run(
        "sim", f"checkpoint:={checkpoint}", f"report:={tmp_path}", timeout_s=RUN_TIMEOUT_S,
        VK_DRIVER_FILES="/nonexistent.json", VK_ICD_FILENAMES="/nonexistent.json",
    )  # fmt: skip
    assert finished.code == 1
    assert len(finished.sentences) == 1
    assert "Vulkan driver" in finished.sentences[0]
    assert "./par setup" in finished.sentences[0]
    assert "Traceback" not in finished.error + finished.output


def test_bridge_gives_up_when_nobody_answers(free_domain: str) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "par_ros.maniskill_bridge_node",
            "--ros-args", "-p", "answer_timeout_s:=1.0",
        ],
        cwd=ROOT, env={**os.environ, "ROS_DOMAIN_ID": free_domain},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    context = Context()
    rclpy.init(args=[], context=context, domain_id=int(free_domain))
    node = Node("asks", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        client = node.create_client(Trigger, RESET_EPISODE.client_name)
        assert client.wait_for_service(RUN_TIMEOUT_S)
        answer = client.call_async(Trigger.Request())
        deadline_s = time.monotonic() + RUN_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline_s:
            executor.spin_once(timeout_sec=0.1)
        # On a busy machine the bridge may end before the answer has come.
        assert not answer.done() or answer.result().success
        ended = finish(process, RUN_TIMEOUT_S)
    finally:
        process.kill()
        node.destroy_node()
        context.try_shutdown()
    assert ended.code == 1
    assert ended.sentences == [
        "error: no trajectory answered the picture of step 0 within 1 s; check that policy_node "
        "is active and safety_node engaged, and their logs."
    ]
    assert "Traceback" not in ended.error


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ("task:=OpenDoor", "error: task 'OpenDoor' is unknown; the tasks are PushCube"),
        ("image_every:=3", "error: image_every must divide the 8 actions of a chunk"),
        ("mode:=soon", "error: maniskill_bridge_node: mode must be one of lockstep, realtime"),
    ],
)
def test_wrong_bridge_parameters_are_one_sentence(
    free_domain: str, parameter: str, sentence: str
) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "par_ros.maniskill_bridge_node", "--ros-args", "-p", parameter],
        cwd=ROOT, env={**os.environ, "ROS_DOMAIN_ID": free_domain}, capture_output=True,
        text=True, timeout=RUN_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stderr.startswith(sentence)
    assert "Traceback" not in finished.stderr
