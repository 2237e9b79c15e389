# SPDX-License-Identifier: Apache-2.0
"""A soak of some seconds with losses: the arm moves, messages are lost, and both are counted; and
one that is interrupted keeps what it has measured."""

import json
import signal
from pathlib import Path

import pytest

from tests.ros.processes import children, finish, run, start

pytestmark = [pytest.mark.ros, pytest.mark.long]


@pytest.mark.parametrize("inference", ["sequential", "overlapped"])
def test_the_arm_moves_while_messages_are_lost(
    own_domain: None, tmp_path: Path, inference: str
) -> None:
    path = tmp_path / "soak.json"
    words = ("--inference", inference, "--loss", "0.02", "--delay", "0.02", "0.1")
    finished = run("soak", *words, "--duration", "15", "--json", str(path))
    # On a busy machine a stop may have no loss behind it: then the command ends with 1.
    assert finished.code in (0, 1), finished.error
    result = json.loads(path.read_text())
    what = {name: value for name, value in result.items() if name != "memory_mib"}
    assert result["num_chunks"] >= 10, what
    # How many are refused on a busy machine is not known; the arm moves by those that are not.
    followed = result["guard_counters"]["chunks"] - result["guard_counters"].get("refused", 0)
    assert followed >= 5, what
    assert sum(result["losses"].values()) > 0, what
    assert result["orphans"] == [], what


def test_an_interrupted_soak_keeps_what_it_measured(own_domain: None, tmp_path: Path) -> None:
    """Ctrl-C after its first line of progress, of which each is a line of its own in a file."""
    path = tmp_path / "soak.json"
    process = start("soak", "--duration", "600", "--json", str(path))
    try:
        assert process.stderr is not None
        progress = next(line for line in process.stderr if " chunks, " in line)
        process.send_signal(signal.SIGINT)
        finished = finish(process, 60.0)
    finally:
        process.kill()
    assert finished.code == 130, finished.error
    assert "\r" not in progress
    assert "Traceback" not in finished.error
    result = json.loads(path.read_text())
    assert result["interrupted"]
    assert not result["passed"]
    assert 0.0 < result["duration_s"] < 60.0
    assert result["guard_counters"]["chunks"] > 0
    assert set(result["memory_mib"]) >= {"safety_node", "policy_node"}
    assert '"interrupted": true' in finished.output
    assert not children(process.pid)
