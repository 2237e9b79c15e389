# SPDX-License-Identifier: Apache-2.0
"""docker/: the Dockerfiles pass hadolint, the compose files start the nodes of node_graph.py.

No image is built here. What the compose files pass is checked against parameters.py, so that a
renamed parameter or executable cannot go unnoticed.
"""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="parameters.py needs ROS 2")

from rclpy.context import Context
from rclpy.node import Node

from par_model.simulation.tasks import TASKS
from par_ros import graph_arguments, node_graph, parameters, topics
from par_ros.control.settings import parse_text
from par_ros.episode_node import instruction_of
from par_ros.graph_environment import FASTDDS_PROFILES

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("arm.Dockerfile", "policy.Dockerfile", "sim.Dockerfile")
# Where the Dockerfiles install the package: setup.py puts its files below share/ there.
SHARE = "/opt/venv/share/par_ros/"
PARAMETERS = {
    topics.BRIDGE: parameters.ManiSkillBridgeParameters,
    topics.EPISODES: parameters.EpisodeNodeParameters,
    topics.GUARD: parameters.SafetyNodeParameters,
    topics.POLICY: parameters.PolicyNodeParameters,
    node_graph.REAL_ARM: parameters.RealArmNodeParameters,
    topics.GRIPPER_ADAPTER: parameters.GripperAdapterNodeParameters,
}
# rclpy declares it on every node.
EVERY_NODE = {"use_sim_time"}


@dataclasses.dataclass(frozen=True)
class Command:
    """What one service of a compose file starts, with its defaults filled in."""

    executable: str
    parameters: dict[str, str]
    remappings: dict[str, str]


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """${NAME:-default} -> the variable, or default; ${NAME:?reason} -> the variable, or reason."""
    return re.sub(r"\$\{(\w+):[-?]([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)


def node_commands(name: str, variables: Mapping[str, str] = {}) -> list[Command]:
    """The services of a compose file that run a node of this package."""
    services = yaml.safe_load((ROOT / "docker" / name).read_text())["services"]
    commands = []
    for service in services.values():
        executable, *words = [filled_in(word, variables) for word in service["command"]]
        if executable not in PARAMETERS:
            continue
        assert words[0] == "--ros-args"
        pairs = list(zip(words[1::2], words[2::2], strict=True))
        values = {flag: dict(w.split(":=", 1) for f, w in pairs if f == flag) for flag, _ in pairs}
        assert set(values) <= {"-p", "-r"}
        commands.append(Command(executable, values.get("-p", {}), values.get("-r", {})))
    return commands


def graph_entries(kind: str, folder: Path, **texts: str) -> dict[str, Any]:
    arguments = graph_arguments.parse_arguments(
        node_graph.GRAPHS[kind].arguments_type, kind, {"checkpoint": str(folder), **texts}
    )
    graph = node_graph.GRAPHS[kind].build(arguments, "")
    return {entry.executable: entry for entry in graph.nodes}


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, its text on one line), comments left out."""
    lines = (ROOT / "docker" / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    words = [line.split(maxsplit=1) for line in joined if line.strip()]
    return [(word, text) for word, text in words]


def final_environment(name: str) -> dict[str, str]:
    """ENV of the last stage: what a container of the image starts with."""
    environment: dict[str, str] = {}
    for instruction, text in instructions(name):
        if instruction == "FROM":
            environment = {}
        elif instruction == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(text))
    return environment


def test_dockerfiles_pass_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    files = sorted((ROOT / "docker").glob("*.Dockerfile"))
    assert tuple(path.name for path in files) == DOCKERFILES
    result = subprocess.run(
        [hadolint, "--config", ROOT / "docker/hadolint.yaml", *files],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_build_context_has_what_a_build_of_the_package_reads() -> None:
    """Without pyproject.toml an older pip runs setup.py install, a newer one picks the backend."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "package.xml", "resource", "launch"}
    needed |= {"config", "checkpoints", "par_model", "par_ros", "README.md", "LICENSE"}
    assert needed <= allowed
    assert all((ROOT / name).exists() for name in needed)


def test_the_simulator_s_image_has_the_folder_that_its_command_writes() -> None:
    """The command runs as user 1000, who may make no folder below /."""
    texts = dict(instructions("sim.Dockerfile"))
    assert "report:=/reports/run" in texts["CMD"]
    assert "mkdir -m 1777 /reports" in texts["RUN"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_names_the_profile_to_both_versions_of_fast_dds(name: str) -> None:
    """Fast DDS reads nothing, and says nothing, where the variable or the file is another one."""
    environment = final_environment(name)
    profiles = {environment.get(variable) for variable in FASTDDS_PROFILES}
    (profile,) = profiles
    assert profile is not None
    assert profile.startswith(SHARE)
    assert (ROOT / profile.removeprefix(SHARE)).is_file()


@pytest.mark.parametrize("name", ["compose.sim.yaml", "compose.real_arm.yaml"])
def test_every_parameter_exists_and_its_default_is_valid(name: str) -> None:
    for command in node_commands(name):
        fields = {field.name: field for field in dataclasses.fields(PARAMETERS[command.executable])}
        for parameter, text in command.parameters.items():
            if parameter in EVERY_NODE:
                assert text in ("true", "false")
                continue
            assert parameter in fields, f"{command.executable} has no parameter {parameter}"
            parse_text(command.executable, fields[parameter], text)


def assert_nothing_is_left_out(command: Command, given: dict[str, Any]) -> None:
    """What the graph sets and the compose file does not is the node's default anyway."""
    fields = {field.name: field for field in dataclasses.fields(PARAMETERS[command.executable])}
    for parameter in given.keys() - command.parameters.keys():
        default = False if parameter in EVERY_NODE else fields[parameter].default
        assert given[parameter] == default, f"{command.executable} lacks {parameter}"


def test_sim_starts_the_nodes_of_the_sim_graph(tmp_path: Path) -> None:
    """The same executables, remappings and values."""
    entries = graph_entries("sim", tmp_path, report=str(tmp_path))
    commands = {command.executable: command for command in node_commands("compose.sim.yaml")}
    assert set(commands) == set(entries)
    for executable, command in commands.items():
        given = entries[executable].parameters
        for parameter, text in command.parameters.items():
            if (executable, parameter) == (topics.EPISODES, "instruction"):
                continue  # Empty, for the task's own: the next test.
            if parameter not in {"checkpoint", "report", "engines"}:
                assert parameter in given, f"{executable}: {parameter} is not in the graph"
                assert text.lower() == str(given[parameter]).lower(), f"{executable}: {parameter}"
        assert_nothing_is_left_out(command, given)
        assert command.remappings == dict(entries[executable].remappings)


@pytest.mark.parametrize(
    ("variables", "instruction"),
    [
        ({}, TASKS["PushCube"].instruction),
        ({"PAR_TASK": "PickCube"}, TASKS["PickCube"].instruction),
        ({"PAR_TASK": "PickCube", "PAR_INSTRUCTION": "Don't push."}, "Don't push."),
    ],
)
def test_a_task_brings_its_own_instruction(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], instruction: str
) -> None:
    """As ROS reads the words. episode_node tells the policy in each episode."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    commands = {one.executable: one for one in node_commands("compose.sim.yaml", variables)}
    words = ["--ros-args"]
    for name, text in commands[topics.EPISODES].parameters.items():
        words += ["-p", f"{name}:={text}"]
    context = Context()
    context.init()
    node = Node("reads", context=context, cli_args=words)
    try:
        read = parameters.declare(node, parameters.EpisodeNodeParameters)
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert read.task == commands[topics.BRIDGE].parameters["task"]
    assert instruction_of(read) == instruction


def test_real_arm_starts_dry_with_the_graph_s_remappings(tmp_path: Path) -> None:
    # fr3 has every node; the panda's graph has no adapter, nor does compose without its profile.
    entries = graph_entries("real_arm", tmp_path, instruction="lift the cube", robot="fr3")
    commands = {command.executable: command for command in node_commands("compose.real_arm.yaml")}
    assert set(commands) == set(entries)
    assert commands[topics.GUARD].parameters["dry_run"] == "true"
    assert commands[node_graph.REAL_ARM].parameters["dry_run"] == "true"
    for executable, command in commands.items():
        assert command.remappings == dict(entries[executable].remappings)
        assert_nothing_is_left_out(command, entries[executable].parameters)


def test_the_arm_side_installs_no_torch() -> None:
    text = (ROOT / "docker/arm.Dockerfile").read_text()
    instructions = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "--no-deps ." in instructions
    assert not re.search(r"\b(torch|cuda|nvidia|tensorrt)\b", instructions, re.IGNORECASE)


def test_the_gripper_adapter_is_started_by_its_profile_only() -> None:
    text = (ROOT / "docker/compose.real_arm.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    with_profile = {name for name, service in services.items() if "profiles" in service}
    assert with_profile == {"gripper"}
    assert services["gripper"]["profiles"] == ["gripper"]
    # It is a lifecycle node: who starts it has it brought up, too.
    assert "${PAR_GRIPPER_ADAPTER:-}" in services["bringup"]["command"][-1]
    assert "PAR_GRIPPER_ADAPTER=/gripper_adapter_node" in text
