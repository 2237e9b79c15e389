# SPDX-License-Identifier: Apache-2.0
"""ROS 2's launch runs the graph: exit codes, and a guard that outlives its policy.

The light graph: loopback arm, guard, fixed chunks in the policy's place.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ros.processes import finish, start_module, wait_for
from tests.ros.test_graph_runner import START_TIMEOUT_S, Listener, await_chunks

pytestmark = [pytest.mark.ros, pytest.mark.launch]

NODES = {"loopback_arm_node", "safety_node", "fixed_chunk_node"}


def require_launch() -> None:
    # The folder launch/ of this repository is no module; the real one has actions.
    pytest.importorskip("launch.actions", reason="ROS 2's launch is not installed")
    pytest.importorskip("launch_ros.actions", reason="ROS 2's launch_ros is not installed")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        folder = Path(get_package_prefix("par_ros"), "lib", "par_ros")
    except PackageNotFoundError:
        folder = Path("nowhere")
    if not (folder / "fixed_chunk_node").is_file():
        pytest.skip("par_ros is not installed where ros2 finds packages")


def nodes_of(launch_id: int) -> dict[str, int]:
    """Executable -> process id of what the launch process started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        names = {Path(word).name for word in words} & NODES
        if int(status[1]) == launch_id and names:
            found[names.pop()] = int(folder.name)
    return found


@pytest.fixture
def listener(free_domain: str) -> Iterator[Listener]:
    listener = Listener(free_domain)
    yield listener
    listener.close()


@pytest.fixture
def launched(
    request: pytest.FixtureRequest, free_domain: str, listener: Listener, tmp_path: Path
) -> Iterator["subprocess.Popen[str]"]:
    """Up and answering; the parameter says whether the policy is needed."""
    require_launch()
    words = (free_domain, "", "", request.param)
    process = start_module("tests.ros.launched_graph", *words, ROS_LOG_DIR=str(tmp_path))
    try:
        await_chunks(process, listener)
        yield process
    finally:
        for node in nodes_of(process.pid).values():
            os.kill(node, signal.SIGKILL)
        process.kill()
        process.communicate()


@pytest.mark.parametrize("launched", ["needed"], indirect=True)
@pytest.mark.parametrize("name", sorted(NODES))
def test_a_killed_node_fails_the_launch(launched: "subprocess.Popen[str]", name: str) -> None:
    os.kill(nodes_of(launched.pid)[name], signal.SIGKILL)
    finished = finish(launched, START_TIMEOUT_S)
    assert finished.code == 1
    assert "ended unexpectedly (signal SIGKILL), so the launch is ended." in finished.error
    assert not nodes_of(launched.pid)


@pytest.mark.parametrize("launched", ["may be lost"], indirect=True)
def test_the_guard_outlives_its_policy(
    launched: "subprocess.Popen[str]", listener: Listener
) -> None:
    """Refused steps first, then its death: the guard is active after each; Ctrl-C ends it."""
    from lifecycle_msgs.msg import State, Transition
    from lifecycle_msgs.srv import ChangeState

    change = listener.node.create_client(ChangeState, "policy_node/change_state")
    assert change.wait_for_service(30.0)
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert listener.wait_for(change.call_async(request)).success
    assert listener.state_of("policy_node") == State.PRIMARY_STATE_INACTIVE
    assert listener.state_of("safety_node") == State.PRIMARY_STATE_ACTIVE
    os.kill(nodes_of(launched.pid)["fixed_chunk_node"], signal.SIGKILL)
    assert launched.stderr is not None
    reported = next(line for line in launched.stderr if line.startswith("error: "))
    assert reported == (
        "error: policy_node ended unexpectedly (signal SIGKILL); the other processes continue.\n"
    )
    assert listener.state_of("safety_node") == State.PRIMARY_STATE_ACTIVE
    assert launched.poll() is None
    launched.send_signal(signal.SIGINT)
    finished = finish(launched, START_TIMEOUT_S)
    assert finished.code == 1
    wait_for(lambda: not nodes_of(launched.pid), START_TIMEOUT_S, "the end of all nodes")


@pytest.mark.parametrize("launched", ["needed"], indirect=True)
def test_ctrl_c_is_a_good_end(launched: "subprocess.Popen[str]") -> None:
    launched.send_signal(signal.SIGINT)
    assert finish(launched, START_TIMEOUT_S).code == 0
    assert not nodes_of(launched.pid)
