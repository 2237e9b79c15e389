# SPDX-License-Identifier: Apache-2.0
"""`--engine ray` on two real nodes of one CPU each: the bytes of the local engine, also when a node
is killed (-9) in the middle; and one sentence when all are.

Demonstrations of PushCube with pictures of 64 x 64 pixels; a policy with random weights.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluation.test_evaluate import checkpoint  # noqa: F401
from tests.simulation.ray_nodes import ROOT, RayNodes
from tests.simulation.test_collect import contents

pytest.importorskip("ray", reason="needs the extra `scale`: pip install 'par_ros[scale]'")
pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(900)]

# No command takes so long on two shared cores; none may hang.
PATIENCE_S = 200.0


@pytest.fixture
def nodes():
    with RayNodes() as started:
        yield started


def command(module: str, *words: object) -> list[str]:
    return [sys.executable, "-m", f"par_model.{module}", *map(str, words)]


def collect_command(out: Path, num_demos: int, *engine: object) -> list[str]:
    demos = ("--task", "PushCube", "--num-demos", num_demos, "--image-size", 64)
    return command("collect", *demos, "--out", out, *engine)


def on(nodes: RayNodes) -> tuple[str, ...]:
    return ("--engine", "ray", "--ray-address", nodes.address)


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def wait_for_episodes(out: Path, count: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE_S
    while len(list(out.glob(".staging/seed_??????"))) < count:
        assert process.poll() is None, "collect ended before it was disturbed"
        assert time.monotonic() < end
        time.sleep(0.02)


def measured(file: Path) -> list[dict]:
    """Episodes without what a clock told of them."""
    episodes = json.loads(file.read_text())["episodes"]
    return [episode | {"chunk_latencies_ms": None} for episode in episodes]


def test_ray_keeps_the_contract_and_runs_lost_jobs_again(nodes, tmp_path):
    program = (
        "from par_model.worker_options import WorkerOptions\n"
        "from tests.simulation.worker_jobs import check_contract, check_lost_workers\n"
        f"on = WorkerOptions(num_workers=2, engine='ray', ray_address='{nodes.address}')\n"
        "check_contract(on)\n"
        f"check_lost_workers('{tmp_path}', on)\n"
    )
    run([sys.executable, "-c", program])


@pytest.mark.sim
def test_two_nodes_give_the_bytes_of_one_process(nodes, checkpoint, tmp_path):  # noqa: F811
    """An on-policy round of 2, 2 shards of scenes, 3 episodes of a policy."""
    scenes = ("--tasks", "PushCube", "--num-scenes", 4, "--scenes-per-shard", 2)
    policy = ("--checkpoint", checkpoint, "--task", "PushCube", "--episodes", 3, "--max-steps", 16)
    round_1 = ("--task", "PushCube", "--on-policy", checkpoint, "--num-demos", 2, "--max-steps", 16)
    round_1 += ("--disturbed-starts", 1, "--image-size", 32)
    for name, engine in (("here", ("--num-workers", 1)), ("ray", on(nodes))):
        out = tmp_path / name
        run(command("collect", *round_1, "--out", out / "round", *engine))
        run(command("perception", "scenes", *scenes, "--out", out / "scenes", *engine))
        words = (*policy, "--backend", "eager", "--record-targets", "--json", out / "result.json")
        run(command("evaluate", *words, *engine))
    here, there = tmp_path / "here", tmp_path / "ray"
    for folder in ("round", "scenes"):
        assert len(contents(here / folder)) > 2
        assert contents(here / folder) == contents(there / folder), folder
    assert measured(here / "result.json") == measured(there / "result.json")


@pytest.mark.sim
def test_a_lost_nodes_episodes_are_done_again(nodes, tmp_path):
    """8 demonstrations; the second node is killed after the second of them."""
    here, there = tmp_path / "here", tmp_path / "ray"
    with subprocess.Popen(collect_command(there, 8, *on(nodes)), cwd=ROOT) as process:
        try:
            wait_for_episodes(there, 2, process)
            nodes.kill(1)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    run(collect_command(here, 8, "--num-workers", 1))
    assert contents(here) == contents(there)


@pytest.mark.sim
def test_without_nodes_the_command_ends_and_is_continued_here(nodes, tmp_path):
    """40 demonstrations, both nodes killed after the second; then 3, on this machine."""
    here, there = tmp_path / "here", tmp_path / "ray"
    process = subprocess.Popen(
        collect_command(there, 40, *on(nodes)), stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        wait_for_episodes(there, 2, process)
        nodes.kill(1)
        nodes.kill(0)
        _, error = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1
    sentence = error.splitlines()[-1]
    assert sentence.startswith("error: the Ray cluster ")
    assert sentence.endswith("run the same command again to go on from what is finished.")
    for out in (there, here):
        run(collect_command(out, 3, "--num-workers", 1))
    assert contents(here) == contents(there)
