# SPDX-License-Identifier: Apache-2.0
"""config/sros2: each process may do what the table of topics says, and only that."""

import ast
from pathlib import Path
from xml.etree import ElementTree

import pytest

from par_ros import topics as table
from par_ros.graph_arguments import RealArmArguments
from par_ros.node_graph import real_arm_graph
from par_ros.topics import GRIPPER_ADAPTER, GUARD, POLICY, RECORDER, SERVICES, TOPICS, VIEWER

FOLDER = Path(__file__).resolve().parents[2] / "config/sros2"
NODES = {
    "guard": GUARD,
    "policy": POLICY,
    "real_arm": "real_arm_node",
    "gripper_adapter": GRIPPER_ADAPTER,
    "recorder": RECORDER,
    "viewer": VIEWER,
    "operator": "operator",
    "teleop": "teleop",
}
# The names that the commands have in the graph real_arm unless told otherwise.
COMMANDS = {
    "joint_trajectory": RealArmArguments().controller_topic,
    "gripper_trajectory": RealArmArguments().gripper_topic,
}
EVERY_NODE = {
    "publish": {"/rosout", "/parameter_events"},
    "subscribe": {"/clock", "/parameter_events"},
}


def allowed(name: str, kind: str, action: str) -> set[str]:
    """`kind` topics or services for which `action` is ALLOW."""
    root = ElementTree.parse(FOLDER / f"{name}.policy.xml").getroot()
    (enclave,) = root.findall("enclaves/enclave")
    assert enclave.get("path") == f"/par_ros/{name}"
    (profile,) = enclave.findall("profiles/profile")
    assert profile.get("node") == NODES[name]
    assert all(set(entry.attrib.values()) == {"ALLOW"} for entry in profile)
    return {
        str(item.text)
        for entry in profile.findall(kind)
        if entry.get(action) == "ALLOW"
        for item in entry
    }


def topics(name: str, action: str) -> set[str]:
    return allowed(name, "topics", action) - EVERY_NODE[action] - {"~/transition_event"}


def named(names: set[str]) -> set[str]:
    return {COMMANDS.get(name, name) for name in names}


def test_there_is_one_file_a_process() -> None:
    assert {path.name for path in FOLDER.glob("*.xml")} == {f"{n}.policy.xml" for n in NODES}


@pytest.mark.parametrize("name", ["guard", "policy"])
def test_guard_and_policy_have_the_tables_topics(name: str) -> None:
    node = NODES[name]
    assert topics(name, "publish") == named({t.name for t in TOPICS if node in t.writers})
    controller = {"joint_trajectory_controller/controller_state"} if node == GUARD else set()
    readers = {t.name for t in TOPICS if node in t.readers}
    assert topics(name, "subscribe") == named(readers) | controller
    served = {service.private_name for service in SERVICES if service.server == node}
    assert served <= allowed(name, "services", "reply")
    requested = {"safety_node/disengage"} if node == POLICY else set()
    assert allowed(name, "services", "request") == requested


def test_the_operator_may_bring_up_every_lifecycle_node(tmp_path: Path) -> None:
    arguments = RealArmArguments(
        checkpoint=str(tmp_path), instruction="Push.", record=True, robot="fr3"
    )
    graph = real_arm_graph(arguments)
    managed = {entry.name for entry in graph.nodes if entry.lifecycle}
    assert managed == {GUARD, POLICY, "real_arm_node", GRIPPER_ADAPTER, RECORDER}
    requests = allowed("operator", "services", "request")
    for name, node in NODES.items():
        if node in managed:
            # `ros2 lifecycle set` asks for all three.
            wanted = ("change_state", "get_state", "get_available_transitions")
            assert {f"{node}/{service}" for service in wanted} <= requests
            assert {"~/change_state", "~/get_state"} <= allowed(name, "services", "reply")
            assert "~/transition_event" in allowed(name, "topics", "publish")


@pytest.mark.parametrize("command", COMMANDS.values())
def test_only_the_guard_may_command_the_arm(command: str) -> None:
    assert [name for name in NODES if command in topics(name, "publish")] == ["guard"]


def test_only_the_policy_may_send_chunks_and_only_the_operator_may_engage() -> None:
    assert [name for name in NODES if "action_chunk" in topics(name, "publish")] == ["policy"]
    for service in ("engage", "reset_stop"):
        requesters = [
            name
            for name in NODES
            if f"safety_node/{service}" in allowed(name, "services", "request")
        ]
        assert requesters == ["operator"]


def test_the_recorder_hears_everything_and_publishes_only_its_marks() -> None:
    assert topics("recorder", "publish") == {"episode_marks"}
    heard = {t.name for t in TOPICS} - {"/clock", "episode_marks"}
    assert topics("recorder", "subscribe") == named(heard)
    served = {service.private_name for service in SERVICES if service.server == RECORDER}
    assert served <= allowed("recorder", "services", "reply")
    calls = {f"recorder_node/{name.removeprefix('~/')}" for name in served}
    assert calls <= allowed("operator", "services", "request")


def test_only_the_teleoperation_program_may_send_its_chunks_and_the_switch() -> None:
    for topic in ("teleop_chunk", "teleop_deadman"):
        assert [name for name in NODES if topic in topics(name, "publish")] == ["teleop"]
    assert topics("teleop", "publish") == {"teleop_chunk", "teleop_deadman"}
    assert not allowed("teleop", "services", "request")


def test_the_viewer_hears_what_it_shows_and_says_nothing() -> None:
    """The topics that viewer_node.py imports, and the camera's."""
    source = FOLDER.parents[1] / "par_ros/viewer_node.py"
    imported = {
        getattr(table, alias.name)
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == table.__name__
        for alias in node.names
    }
    shown = {one.name for one in imported if isinstance(one, table.Topic)}
    assert topics("viewer", "publish") == set()
    assert topics("viewer", "subscribe") == shown | {table.IMAGE.name}
    assert not allowed("viewer", "services", "request")


def test_the_supervisor_may_only_disengage() -> None:
    assert topics("real_arm", "publish") == {"/diagnostics"}
    assert allowed("real_arm", "services", "request") == {
        "safety_node/disengage",
        "controller_manager/list_controllers",
        "joint_trajectory_controller/get_parameters",
    }


def test_the_gripper_adapter_hears_one_trajectory_and_calls_one_action() -> None:
    assert topics("gripper_adapter", "publish") == {"/diagnostics", "joint_states"}
    assert topics("gripper_adapter", "subscribe") == {
        COMMANDS["gripper_trajectory"],
        "joint_states",
    }
    assert allowed("gripper_adapter", "services", "request") == set()
    assert allowed("gripper_adapter", "actions", "call") == {"gripper_controller/gripper_cmd"}
