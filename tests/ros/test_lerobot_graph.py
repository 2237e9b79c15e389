# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros loopback policy:=lerobot` with a stand-in for LeRobot's program: a real child
process of policy_node, which answers two chunks of warm-up before the arm's first picture.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.folders import lerobot_folder, stand_in_python
from tests.ros.processes import finish, run, start, wait_for
from tests.ros.test_graph_runner import Listener

pytestmark = pytest.mark.ros

TIMEOUT_S = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lerobot_folder(tmp_path)


@pytest.fixture
def listener(free_domain: str) -> Iterator[Listener]:
    listener = Listener(free_domain)
    yield listener
    listener.close()


def words(folder: Path, domain: str, **changes: str) -> list[str]:
    arguments = {"policy": "lerobot", "checkpoint": str(folder), "domain_id": domain} | changes
    return ["loopback", *(f"{name}:={value}" for name, value in arguments.items())]


def programs(folder: Path) -> list[int]:
    """Process ids of the programs that answer for this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(folder) in command and any(word.endswith("stand_in.py") for word in command):
            found.append(int(process.name))
    return found


def test_its_chunks_reach_the_arm_through_the_guard(
    folder: Path, tmp_path: Path, free_domain: str, listener: Listener
) -> None:
    python = stand_in_python(tmp_path, "well")
    process = start(*words(folder, free_domain), PAR_LEROBOT_PYTHON=python)
    try:
        wait_for(listener.hears_commands, TIMEOUT_S, "a trajectory of the guard")
        wait_for(listener.comes_to_hear_more_commands, TIMEOUT_S, "another trajectory")
        assert len(programs(folder)) == 1
        process.send_signal(signal.SIGINT)
        finished = finish(process, TIMEOUT_S)
    finally:
        process.kill()
    assert finished.code == 130, finished.error
    wait_for(lambda: not programs(folder), 10.0, "the end of LeRobot's program")


def test_a_program_that_dies_ends_the_policy_with_one_sentence(
    folder: Path, tmp_path: Path, free_domain: str, listener: Listener
) -> None:
    finished = run(
        *words(folder, free_domain),
        timeout_s=TIMEOUT_S,
        PAR_LEROBOT_PYTHON=stand_in_python(tmp_path, "die@20"),
    )
    wait_for(listener.hears_chunks, 10.0, "a chunk from before its end")
    assert finished.code == 1
    assert finished.sentences == [
        "error: the LeRobot process ended with exit code 7; its last line: 'Segmentation fault "
        "(made up)'. Start again; what was finished before is kept."
    ]
    assert "Traceback" not in finished.error


def test_what_cannot_run_is_refused_before_anything_is_started(
    folder: Path, free_domain: str
) -> None:
    for changes, sentence in (
        ({"policy": "par"}, "policy is par and checkpoint"),
        ({"inference": "overlapped"}, "needs a checkpoint that was trained to go on"),
        ({"instruction": "Fly."}, "instruction 'Fly.' is unknown to this policy"),
    ):
        finished = run(*words(folder, free_domain, **changes), timeout_s=TIMEOUT_S)
        assert finished.code != 0
        assert len(finished.sentences) == 1
        assert sentence in finished.sentences[0]
