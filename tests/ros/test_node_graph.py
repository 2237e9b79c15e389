# SPDX-License-Identifier: Apache-2.0
"""The graphs: what runs for which arguments, and that all names in them exist."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from par_model.config import to_json
from par_model.presets import preset
from par_model.simulation.tasks import TASKS
from par_ros import parameters, topics
from par_ros.benchmark import BenchArguments, bench_graph
from par_ros.checkpoint_form import checkpoint_chunk
from par_ros.control.settings import constraint_of, parse_text, validate
from par_ros.graph_arguments import (
    LoopbackArguments,
    RealArmArguments,
    SimArguments,
    parse_arguments,
)
from par_ros.graph_environment import FASTDDS_PROFILES
from par_ros.graph_runner import command_line
from par_ros.node_graph import (
    GRAPHS,
    NodeGraph,
    loopback_graph,
    real_arm_graph,
    recorder_entry,
    sim_graph,
)
from tests.peers.folders import lerobot_folder

PARAMETER_CLASSES = {
    "policy_node": parameters.PolicyNodeParameters,
    "safety_node": parameters.SafetyNodeParameters,
    "maniskill_bridge_node": parameters.ManiSkillBridgeParameters,
    "loopback_arm_node": parameters.LoopbackArmParameters,
    "real_arm_node": parameters.RealArmNodeParameters,
    "gripper_adapter_node": parameters.GripperAdapterNodeParameters,
    "episode_node": parameters.EpisodeNodeParameters,
    "recorder_node": parameters.RecorderNodeParameters,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return str(folder)


@pytest.fixture
def graphs(checkpoint: str) -> dict[str, NodeGraph]:
    return {
        "sim": sim_graph(SimArguments(checkpoint=checkpoint)),
        "real_arm": real_arm_graph(RealArmArguments(checkpoint=checkpoint, instruction="Push.")),
        "real_arm fr3": real_arm_graph(
            RealArmArguments(checkpoint=checkpoint, instruction="Push.", robot="fr3")
        ),
        "loopback": loopback_graph(LoopbackArguments(checkpoint=checkpoint)),
    }


def nodes_of(graph: NodeGraph) -> dict[str, Any]:
    return {entry.name: entry for entry in graph.nodes}


def test_every_executable_parameter_and_remapped_topic_exists(graphs: dict[str, NodeGraph]) -> None:
    assert {name.split()[0] for name in graphs} == set(GRAPHS)
    known_topics = {topic.name for topic in topics.TOPICS} | {
        topics.CONTROLLER_STATE_NAME,
        topics.CONTROLLER_PARAMETERS_NAME,
    }
    for graph in graphs.values():
        for entry in graph.nodes:
            assert importlib.util.find_spec(f"par_ros.{entry.executable}"), entry.executable
            kind: type[Any] = PARAMETER_CLASSES[entry.name]
            fields = {field.name: field for field in dataclasses.fields(kind)}
            own = {k: v for k, v in entry.parameters.items() if k != "use_sim_time"}
            assert set(own) <= set(fields), entry.name
            validate(kind(**own), entry.name)
            assert {name for name, _ in entry.remappings} <= known_topics


def test_guard_and_policy_are_lifecycle_nodes_and_the_guard_comes_first(
    graphs: dict[str, NodeGraph],
) -> None:
    for name, graph in graphs.items():
        managed = [entry.name for entry in graph.nodes if entry.lifecycle]
        supervisor = ["real_arm_node"] if name.startswith("real_arm") else []
        adapter = ["gripper_adapter_node"] if name == "real_arm fr3" else []
        assert managed == ["safety_node", *supervisor, *adapter, "policy_node"]


def test_only_the_episodes_end_a_run(graphs: dict[str, NodeGraph]) -> None:
    ends = {
        name: [entry.name for entry in graph.nodes if entry.ends_run]
        for name, graph in graphs.items()
    }
    assert ends == {"sim": ["episode_node"], "real_arm": [], "real_arm fr3": [], "loopback": []}


def test_sim_arguments_reach_the_nodes(checkpoint: str) -> None:
    texts = {
        "task": "StackCube", "episodes": "5", "first_seed": "77", "mode": "realtime",
        "checkpoint": checkpoint, "max_steps": "50", "num_steps": "4", "policy_seed": "9",
        "real_time_factor": "0.5", "image_every": "8", "report": "somewhere",
    }  # fmt: skip
    nodes = nodes_of(sim_graph(parse_arguments(SimArguments, "sim", texts)))
    bridge = nodes["maniskill_bridge_node"].parameters
    assert (bridge["task"], bridge["seed"], bridge["mode"]) == ("StackCube", 77, "realtime")
    assert (bridge["max_steps"], bridge["image_every"]) == (50, 8)
    assert bridge["real_time_factor"] == 0.5
    policy = nodes["policy_node"].parameters
    assert policy["checkpoint"] == checkpoint
    assert policy["instruction"] == TASKS["StackCube"].instruction
    assert (policy["num_steps"], policy["policy_seed"], policy["mode"]) == (4, 9, "realtime")
    episodes = nodes["episode_node"].parameters
    assert (episodes["episodes"], episodes["first_seed"], episodes["task"]) == (5, 77, "StackCube")
    assert episodes["report"] == str(Path("somewhere").absolute())
    guard = nodes["safety_node"].parameters
    assert (guard["mode"], guard["chunk_start"]) == ("realtime", "control_step")
    assert guard["splice_s"] == 0.002
    assert (policy["inference"], policy["policy_delay"]) == ("sequential", 0.0)
    # Both must agree on which control steps are still open.
    assert guard["clock_lead_s"] == bridge["clock_lead_s"] == 0.012


@pytest.mark.parametrize("graph", ["sim", "real_arm", "loopback"])
def test_the_checkpoint_s_chunk_reaches_every_node_that_needs_it(
    checkpoint: str, graph: str
) -> None:
    config = dataclasses.replace(preset("par_small"), num_actions=16, step_s=0.1)
    (Path(checkpoint) / "config.json").write_text(to_json(config))
    kind = GRAPHS[graph]
    arguments = kind.arguments_type(checkpoint=checkpoint, instruction="Push.")
    reached = set()
    for entry in kind.build(arguments, "").nodes:
        for field in dataclasses.fields(PARAMETER_CLASSES[entry.name]):
            if field.name in ("num_actions", "step_s"):
                expected = {"num_actions": 16, "step_s": 0.1}[field.name]
                assert entry.parameters[field.name] == expected, (entry.name, field.name)
                reached.add(entry.name)
    assert reached >= {"policy_node", "safety_node"}


@pytest.mark.parametrize("graph", ["sim", "real_arm", "loopback"])
def test_overlapped_inference_sets_the_guard_to_the_checkpoint_s_horizon(
    checkpoint: str, graph: str
) -> None:
    """Slots of 8 and 10 more steps; the policy's own chunk, and the bridge's, stay 8."""
    config = dataclasses.replace(preset("par_small"), max_delay_steps=10)
    (Path(checkpoint) / "config.json").write_text(to_json(config))
    kind = GRAPHS[graph]
    texts = {"checkpoint": checkpoint, "instruction": "Push.", "inference": "overlapped"}
    texts |= {"mode": "realtime"} if graph == "sim" else {}
    nodes = nodes_of(kind.build(parse_arguments(kind.arguments_type, graph, texts), ""))
    guard = nodes["safety_node"].parameters
    assert (guard["num_actions"], guard["chunk_start"]) == (18, "observation")
    assert guard["max_observation_age_s"] == pytest.approx(0.8)
    policy = nodes["policy_node"].parameters
    assert (policy["num_actions"], policy["inference"]) == (8, "overlapped")
    texts |= {"inference": "sequential"}
    nodes = nodes_of(kind.build(parse_arguments(kind.arguments_type, graph, texts), ""))
    guard = nodes["safety_node"].parameters
    assert guard["num_actions"] == 8
    assert guard.get("chunk_start") != "observation"


@pytest.mark.parametrize("graph", ["sim", "real_arm", "loopback"])
def test_overlapped_inference_is_refused_where_it_cannot_be(checkpoint: str, graph: str) -> None:
    kind = GRAPHS[graph]
    texts = {"checkpoint": checkpoint, "instruction": "Push.", "inference": "overlapped"}
    texts |= {"mode": "realtime"} if graph == "sim" else {}
    (Path(checkpoint) / "config.json").write_text(to_json(preset("par_small")))
    with pytest.raises(ValueError, match=f"^{graph}: inference:=overlapped needs a checkpoint"):
        kind.build(parse_arguments(kind.arguments_type, graph, texts), "")
    config = dataclasses.replace(preset("par_small"), max_delay_steps=10)
    (Path(checkpoint) / "config.json").write_text(to_json(config))
    if graph == "sim":
        texts["mode"] = "lockstep"
        with pytest.raises(ValueError, match=r"^sim: inference:=overlapped needs mode:=realtime"):
            kind.build(parse_arguments(kind.arguments_type, graph, texts), "")


def test_a_damaged_checkpoint_is_reported_as_damaged(checkpoint: str) -> None:
    """Not as one that was not trained for overlapped inference."""
    (Path(checkpoint) / "config.json").write_text('{"name": "par_small", ')
    texts = {"checkpoint": checkpoint, "instruction": "Push.", "inference": "overlapped"}
    kind = GRAPHS["loopback"]
    with pytest.raises(ValueError, match=r"config\.json.*copy it anew"):
        kind.build(parse_arguments(kind.arguments_type, "loopback", texts), "")


@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_an_argument_has_the_range_of_the_parameter_that_it_sets(graph: str) -> None:
    """Its choices may be fewer; where they have the same name, it is passed as it is."""
    own = {field.name: field for field in dataclasses.fields(GRAPHS[graph].arguments_type)}
    for kind in PARAMETER_CLASSES.values():
        for field in dataclasses.fields(kind):
            if field.name in own:
                of_node, of_graph = constraint_of(field), constraint_of(own[field.name])
                where = (kind.__name__, field.name)
                assert (of_graph.minimum, of_graph.maximum) == (
                    of_node.minimum, of_node.maximum,
                ), where  # fmt: skip
                assert of_graph.unit == of_node.unit, where
                if of_node.choices:
                    assert set(of_graph.choices) <= set(of_node.choices), where


def test_a_checkpoint_without_a_control_step_means_20_hz(checkpoint: str) -> None:
    values = json.loads(to_json(preset("par_small")))
    del values["step_s"]
    (Path(checkpoint) / "config.json").write_text(json.dumps(values))
    assert checkpoint_chunk(Path(checkpoint)) == {"num_actions": 8, "step_s": 0.05}


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_configuration_that_cannot_be_read_is_left_to_the_policy(
    checkpoint: str, content: str | None
) -> None:
    if content is not None:
        (Path(checkpoint) / "config.json").write_text(content)
    assert checkpoint_chunk(Path(checkpoint)) == {}


def test_the_clock_s_lead_is_at_most_half_of_the_checkpoint_s_step(checkpoint: str) -> None:
    config = dataclasses.replace(preset("par_small"), step_s=0.02)
    (Path(checkpoint) / "config.json").write_text(to_json(config))
    nodes = nodes_of(sim_graph(SimArguments(checkpoint=checkpoint, clock_lead_s=0.1)))
    assert nodes["maniskill_bridge_node"].parameters["clock_lead_s"] == 0.01


def test_what_is_not_given_is_not_set(checkpoint: str) -> None:
    nodes = nodes_of(sim_graph(SimArguments(checkpoint=checkpoint)))
    assert "num_steps" not in nodes["policy_node"].parameters


def test_real_arm_is_a_dry_run_unless_told_otherwise(checkpoint: str) -> None:
    for dry_run in (True, False):
        arguments = RealArmArguments(checkpoint=checkpoint, instruction="Push.", dry_run=dry_run)
        guard = nodes_of(real_arm_graph(arguments))["safety_node"]
        assert guard.parameters["dry_run"] is dry_run
    assert RealArmArguments().dry_run is True


def test_real_arm_topics_are_remapped(checkpoint: str) -> None:
    arguments = RealArmArguments(
        checkpoint=checkpoint,
        instruction="Push.",
        camera_topic="wrist/image",
        joint_states_topic="fr3/joint_states",
        controller_topic="jtc/joint_trajectory",
        gripper_topic="gripper/joint_trajectory",
    )
    nodes = nodes_of(real_arm_graph(arguments))
    assert dict(nodes["safety_node"].remappings) == {
        "joint_states": "fr3/joint_states",
        "joint_trajectory": "jtc/joint_trajectory",
        "gripper_trajectory": "gripper/joint_trajectory",
        "arm_controller/controller_state": "jtc/controller_state",
    }
    assert (
        dict(nodes["real_arm_node"].remappings)["arm_controller/get_parameters"]
        == "jtc/get_parameters"
    )
    assert dict(nodes["policy_node"].remappings) == {
        "camera/image_raw": "wrist/image",
        "joint_states": "fr3/joint_states",
    }


def test_the_gripper_adapter_runs_where_the_arm_s_gripper_has_an_action(checkpoint: str) -> None:
    for robot, is_there in (("panda", False), ("fr3", True), ("ur5e", True)):
        arguments = RealArmArguments(
            checkpoint=checkpoint, instruction="Push.", robot=robot, gripper_topic="fingers"
        )
        nodes = nodes_of(real_arm_graph(arguments))
        assert ("gripper_adapter_node" in nodes) is is_there
        if is_there:
            adapter = nodes["gripper_adapter_node"]
            assert adapter.parameters["arm"] == robot
            assert dict(adapter.remappings)["gripper_trajectory"] == "fingers"
            guard = dict(nodes["safety_node"].remappings)
            assert guard["gripper_trajectory"] == "fingers"


def test_an_unknown_arm_is_one_sentence_before_anything_starts(checkpoint: str) -> None:
    with pytest.raises(ValueError, match=r"arm 'pandda' is unknown, config/arms holds fr3, panda"):
        real_arm_graph(RealArmArguments(checkpoint=checkpoint, instruction="Push.", robot="pandda"))


def test_environment_stays_on_this_machine_and_respects_the_users(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ROS_AUTOMATIC_DISCOVERY_RANGE", *FASTDDS_PROFILES):
        monkeypatch.delenv(variable, raising=False)
    arguments = SimArguments(checkpoint=checkpoint, domain_id=42)
    environment = sim_graph(arguments).environment
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    for variable in FASTDDS_PROFILES:
        assert Path(environment[variable]).is_file()
    assert environment["ROS_DOMAIN_ID"] == "42"
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.setenv("VK_DRIVER_FILES", "mine.json")
    users, other = FASTDDS_PROFILES
    monkeypatch.setenv(users, "mine.xml")
    environment = sim_graph(arguments).environment
    assert environment == {"ROS_DOMAIN_ID": "42", other: "mine.xml"}
    off = dataclasses.replace(arguments, fastdds_profile=False)
    monkeypatch.delenv(users)
    assert not set(FASTDDS_PROFILES) & set(sim_graph(off).environment)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"task": "OpenDoor"}, f"sim: task must be one of {', '.join(TASKS)}, got"),
        ({"tsak": "PushCube"}, "sim: 'tsak' is not an argument; the arguments are task, episodes"),
        ({"episodes": "0"}, "sim: episodes must be a whole number from 1 to 100000, got 0"),
        ({"episodes": "three"}, "sim: episodes must be a whole number, got 'three'"),
        ({"mode": "fast"}, "sim: mode must be one of lockstep, realtime, got 'fast'"),
    ],
)
def test_wrong_arguments_are_one_sentence(texts: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        parse_arguments(SimArguments, "sim", texts)


def test_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    arguments = SimArguments(checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"^checkpoint '.*nowhere' is not a folder; check"):
        sim_graph(arguments)


@pytest.mark.parametrize("kind", [kind.arguments_type for kind in GRAPHS.values()])
def test_defaults_survive_a_round_trip_through_text(kind: type[Any]) -> None:
    """As launch passes them: every default is a text, and an unset one is empty."""
    for field in dataclasses.fields(kind):
        if field.default is not None:
            text = str(field.default)
            assert parse_text("x", field, text) == field.default


def test_command_line_keeps_types_and_odd_texts(checkpoint: str) -> None:
    arguments = SimArguments(checkpoint=checkpoint, namespace="left")
    graph = sim_graph(arguments)
    policy = nodes_of(graph)["policy_node"]
    words = command_line(policy, graph.namespace)
    assert words[1:4] == ["-m", "par_ros.policy_node", "--ros-args"]
    assert "__node:=policy_node" in words
    assert "__ns:=/left" in words
    assert "use_sim_time:=true" in words
    assert f'checkpoint:="{checkpoint}"' in words
    assert "policy_seed:=0" in words


@pytest.mark.parametrize("content", ['{"texts": ["Push.", "Pick."]}', "null", '{"texts": 7}', None])
def test_an_instruction_is_asked_for_before_anything_starts(
    checkpoint: str, content: str | None
) -> None:
    if content is not None:
        (Path(checkpoint) / "instructions.json").write_text(content)
    with pytest.raises(ValueError, match=r"^real_arm: instruction is missing; the checkpoint"):
        real_arm_graph(RealArmArguments(checkpoint=checkpoint))
    real_arm_graph(RealArmArguments(checkpoint=checkpoint, instruction="Push."))


def test_an_unknown_instruction_is_refused_before_anything_starts(checkpoint: str) -> None:
    (Path(checkpoint) / "instructions.json").write_text('{"texts": ["Push.", "Pick."]}')
    sentence = "instruction 'Open.' is unknown to this policy; it knows: 'Push.'; 'Pick.'."
    arguments = {"checkpoint": checkpoint, "instruction": "Open."}
    for name, kind in GRAPHS.items():
        with pytest.raises(ValueError, match=f"^{name}: ") as caught:
            kind.build(kind.arguments_type(**arguments), "")
        assert str(caught.value).endswith(sentence)


def test_only_a_real_arm_s_policy_and_a_recorder_may_be_lost(graphs: dict[str, NodeGraph]) -> None:
    may_be_lost = {
        (name.split()[0], entry.name)
        for name, graph in graphs.items()
        for entry in graph.nodes
        if entry.others_go_on
    }
    assert {name for name in may_be_lost if name[1] != "recorder_node"} == {
        ("real_arm", "policy_node")
    }
    recorder = recorder_entry(graphs["real_arm"].nodes, Path("a.mcap"))
    assert recorder.others_go_on


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `./par` leaves behind where it unpacked a Vulkan driver; the caller names none."""
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PAR_CACHE", str(tmp_path))
    path = tmp_path / "vulkan" / "env"
    path.parent.mkdir()
    path.write_text(
        "export VK_DRIVER_FILES=/a\\ b/lvp.json\nexport VK_ICD_FILENAMES=/a\\ b/lvp.json\n"
        "export LD_LIBRARY_PATH=/a\\ b/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n"
    )
    return path


def test_the_simulator_gets_the_driver_that_par_unpacked(
    checkpoint: str, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        "VK_DRIVER_FILES": "/a b/lvp.json",
        "VK_ICD_FILENAMES": "/a b/lvp.json",
        "LD_LIBRARY_PATH": "/a b/lib",
    }
    graph = sim_graph(SimArguments(checkpoint=checkpoint))
    assert expected.items() <= graph.environment.items()
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    graph = sim_graph(SimArguments(checkpoint=checkpoint))
    assert graph.environment["LD_LIBRARY_PATH"] == "/a b/lib:/own"
    others = loopback_graph(LoopbackArguments(checkpoint=checkpoint)).environment
    assert not set(expected) & set(others)


def test_a_driver_that_the_caller_names_stays(
    checkpoint: str, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/own.json")
    assert "VK_DRIVER_FILES" not in sim_graph(SimArguments(checkpoint=checkpoint)).environment
    monkeypatch.delenv("VK_ICD_FILENAMES")
    unpacked.unlink()
    assert "VK_DRIVER_FILES" not in sim_graph(SimArguments(checkpoint=checkpoint)).environment


def test_the_guard_of_the_benchmark_reads_the_bridges_reference(tmp_path: Path) -> None:
    """The default is the controller's topic, for which control_msgs must be installed."""
    graph = bench_graph(BenchArguments(), tmp_path)
    (guard,) = (node for node in graph.nodes if node.executable == "safety_node")
    assert guard.parameters["reference"] == "topic"


def test_a_lerobot_folder_s_chunk_reaches_the_nodes_and_no_frame_is_predicted(
    tmp_path: Path,
) -> None:
    folder = str(lerobot_folder(tmp_path, num_actions=16))
    arguments = SimArguments(checkpoint=folder, policy="lerobot", predict_episodes=1)
    nodes = nodes_of(sim_graph(arguments))
    assert nodes["policy_node"].parameters["policy"] == "lerobot"
    assert nodes["policy_node"].parameters["predict_images"] is False
    for name in ("policy_node", "safety_node", "maniskill_bridge_node"):
        assert nodes[name].parameters["step_s"] == 0.05
    assert nodes["safety_node"].parameters["num_actions"] == 16
    with pytest.raises(ValueError, match=r"policy is lerobot and checkpoint .* is of kind par"):
        sim_graph(SimArguments(policy="lerobot"))
    with pytest.raises(ValueError, match=r"policy is par and checkpoint .* is of kind lerobot"):
        loopback_graph(LoopbackArguments(checkpoint=folder, policy="par"))
