# SPDX-License-Identifier: Apache-2.0
"""The simulated cameras publish pictures of the checkpoint's size: 256 x 256 through the sim graph
(random weights; the direct loop has to command the same targets), a LeRobot policy's 96 x 160
through sim and loopback."""

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from par_model.config import to_json
from par_model.presets import preset
from par_ros.graph_arguments import LoopbackArguments, SimArguments
from par_ros.node_graph import NodeGraph, loopback_graph, sim_graph
from tests.peers.folders import lerobot_folder, stand_in_python
from tests.ros.checkpoints import save_random_checkpoint
from tests.ros.processes import finish, run, start, wait_for
from tests.ros.test_graph_runner import Listener

TIMEOUT_S = 120.0
NUM_STEPS = 16
FIRST_SEED = 20_241_201


def size_of(graph: NodeGraph) -> dict[str, object]:
    """The parameters of its camera that are sizes."""
    camera = graph.nodes[0]
    return {name: value for name, value in camera.parameters.items() if name.startswith("image_")}


@pytest.mark.parametrize(
    ("height", "width", "side"), [(32, 32, 32), (128, 128, 128), (480, 768, 768)]
)
def test_the_size_of_a_checkpoint_reaches_the_cameras(
    tmp_path: Path, height: int, width: int, side: int
) -> None:
    """The simulator's pictures are square: the camera's rule cuts the others out of them."""
    config = dataclasses.replace(preset("par_small"), image_height=height, image_width=width)
    (tmp_path / "config.json").write_text(to_json(config))
    assert size_of(sim_graph(SimArguments(checkpoint=str(tmp_path))))["image_size"] == side
    loopback = loopback_graph(LoopbackArguments(checkpoint=str(tmp_path)))
    assert size_of(loopback) == {"image_height": height, "image_width": width}


def test_the_size_of_a_lerobot_policy_reaches_the_cameras(tmp_path: Path) -> None:
    folder = str(lerobot_folder(tmp_path, height=240, width=320))
    assert size_of(sim_graph(SimArguments(checkpoint=folder)))["image_size"] == 320
    loopback = loopback_graph(LoopbackArguments(checkpoint=folder))
    assert size_of(loopback) == {"image_height": 240, "image_width": 320}


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_size_that_cannot_be_read_is_left_to_the_policy(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert "image_size" not in size_of(sim_graph(SimArguments(checkpoint=str(tmp_path))))
    assert size_of(loopback_graph(LoopbackArguments(checkpoint=str(tmp_path)))) == {}


@pytest.mark.ros
@pytest.mark.sim
def test_larger_pictures_run_through_the_sim_graph(free_domain: str, tmp_path: Path) -> None:
    from par_model.evaluation.direct_loop import arm_for, run_episode
    from par_model.load_policy import load_policy

    checkpoint, report = tmp_path / "random", tmp_path / "report"
    save_random_checkpoint(checkpoint, image_height=256, image_width=256)
    finished = run(
        "sim", "episodes:=1", f"max_steps:={NUM_STEPS}", f"checkpoint:={checkpoint}",
        f"report:={report}", "backend:=eager",
    )  # fmt: skip
    assert finished.code == 0, finished.error
    (episode,) = json.loads((report / "results.json").read_text())["episodes"]
    policy = load_policy(checkpoint, backend="eager", device="cpu")
    with arm_for("PushCube", policy.spec) as arm:
        direct = run_episode(arm, policy, FIRST_SEED, NUM_STEPS)
    np.testing.assert_allclose(episode["joint_targets"], direct.joint_targets, rtol=0, atol=1e-6)


@pytest.mark.ros
@pytest.mark.sim
@pytest.mark.long
def test_a_lerobot_policy_s_pictures_run_through_the_sim_graph(
    free_domain: str, tmp_path: Path
) -> None:
    finished = run(
        "sim", "policy:=lerobot", "episodes:=1", f"max_steps:={NUM_STEPS}",
        f"checkpoint:={lerobot_folder(tmp_path, height=96, width=160)}",
        f"report:={tmp_path / 'report'}",
        PAR_LEROBOT_PYTHON=stand_in_python(tmp_path, "well"),
    )  # fmt: skip
    assert finished.code == 0, finished.error
    (episode,) = json.loads((tmp_path / "report" / "results.json").read_text())["episodes"]
    assert episode["steps"] == NUM_STEPS


@pytest.mark.ros
def test_a_lerobot_policy_s_pictures_run_through_loopback(free_domain: str, tmp_path: Path) -> None:
    """Taller than loopback's default, narrower than that in its other direction."""
    listener = Listener(free_domain)
    process = start(
        "loopback", "policy:=lerobot", f"domain_id:={free_domain}",
        f"checkpoint:={lerobot_folder(tmp_path, height=160, width=96)}",
        PAR_LEROBOT_PYTHON=stand_in_python(tmp_path, "well"),
    )  # fmt: skip
    try:
        wait_for(
            lambda: listener.hears_commands() or process.poll() is not None, TIMEOUT_S, "commands"
        )
        process.send_signal(signal.SIGINT)
        finished = finish(process, TIMEOUT_S)
    finally:
        process.kill()
        listener.close()
    assert finished.code == 130, finished.error
