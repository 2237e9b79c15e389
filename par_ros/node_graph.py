# SPDX-License-Identifier: Apache-2.0
"""Which executables, parameters, remaps and lifecycle steps make up sim, real_arm and loopback.

Plain data: `python -m par_ros` maps it onto processes, launch/*.launch.py onto launch actions.
"""

import dataclasses
import datetime
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from par_model.json_file import read_object
from par_model.peers.lerobot_folder import is_lerobot
from par_model.simulation.tasks import task
from par_ros.checkpoint_form import (
    checkpoint_chunk,
    checkpoint_depth_views,
    checkpoint_image_size,
    checkpoint_picture,
    checkpoint_recorded_views,
    checkpoint_views,
    overlapped_guard,
    require_further_views,
    require_realtime_step,
)
from par_ros.graph_arguments import (
    DEFAULT_CHECKPOINT,
    ArmArguments,
    LoopbackArguments,
    RealArmArguments,
    SimArguments,
    further_cameras,
)
from par_ros.graph_environment import graph_environment, vulkan_environment
from par_ros.parameters import (
    EpisodeNodeParameters,
    ManiSkillBridgeParameters,
    ParameterValue,
    PolicyNodeParameters,
    SafetyNodeParameters,
    ViewerNodeParameters,
    read_arm_spec,
)
from par_ros.policy_source import require_kind
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_views import RecordedViews
from par_ros.resources import resource
from par_ros.topics import (
    BRIDGE,
    CONTROLLER_PARAMETERS_NAME,
    CONTROLLER_STATE_NAME,
    EPISODES,
    GRIPPER_ADAPTER,
    GRIPPER_TRAJECTORY,
    GUARD,
    IMAGE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    POLICY,
    RECORDER,
    VIEWER,
    further_image_name,
)

LOOPBACK = "loopback_arm_node"
REAL_ARM = "real_arm_node"

_ANY_TRANSPORT = PolicyNodeParameters.image_transport


@dataclass(frozen=True)
class NodeEntry:
    """One process.

    Attributes:
        executable: name of the installed executable; its module is par_ros.<executable>.
        name: the node's name.
        parameters: only what differs from the defaults in parameters.py.
        remappings: (name in topics.py, name in this graph).
        lifecycle: whether it must be configured and activated; all are configured before the first
            is activated, and they are activated in the order of the table.
        ends_run: whether the run is over, well, when this process ends with code 0.
        others_go_on: whether the others stay where this process fails after all have come up: a
            guard outlives its policy. The run still fails, and reports it.
        is_optional: whether its end, at any time and by any code, ends and fails nothing.
    """

    executable: str
    name: str
    parameters: Mapping[str, ParameterValue]
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = False
    ends_run: bool = False
    others_go_on: bool = False
    is_optional: bool = False

    @property
    def is_looked_at(self) -> bool:
        """Whether the user needs its standard output: the episodes' table, the view's address."""
        return self.ends_run or self.is_optional


@dataclass(frozen=True)
class NodeGraph:
    """Processes that belong together, and the environment that all of them need."""

    nodes: tuple[NodeEntry, ...]
    namespace: str
    environment: Mapping[str, str]
    # Where each process's output goes; None: to the screen.
    log_folder: Path | None


def sim_graph(arguments: SimArguments, command: str = "") -> NodeGraph:
    """ManiSkill, policy, guard and the episodes. Raises ValueError for what cannot be run."""
    report = Path(arguments.report or _dated_report_folder()).absolute()
    checkpoint = str(checkpoint_folder(arguments.checkpoint))
    instruction = arguments.instruction or task(arguments.task).instruction
    robot = task(arguments.task).robot.name
    require_kind("sim", arguments.policy, Path(checkpoint))
    _require_instruction("sim", instruction, Path(checkpoint))
    chunk, views = checkpoint_chunk(Path(checkpoint)), checkpoint_views(Path(checkpoint))
    overlap = overlapped_guard("sim", arguments.inference, Path(checkpoint))
    if overlap and arguments.mode != "realtime":
        raise ValueError(
            "sim: inference:=overlapped needs mode:=realtime; in lockstep physics waits for the "
            "policy, so nothing overlaps."
        )
    if overlap or is_lerobot(Path(checkpoint)):
        # Drawing a prediction would keep the policy from its next answer; LeRobot's draw none.
        arguments = dataclasses.replace(arguments, predict_episodes=0)
    sim_time = {"use_sim_time": True}
    step_s = chunk.get("step_s", ManiSkillBridgeParameters.step_s)
    if arguments.mode == "realtime":
        require_realtime_step(Path(checkpoint), step_s)
    clock_lead_s = min(arguments.clock_lead_s, step_s / arguments.real_time_factor / 2)
    nodes = (
        NodeEntry(
            BRIDGE,
            BRIDGE,
            {
                **_passed(arguments, ManiSkillBridgeParameters),
                **chunk,
                **views,
                **checkpoint_image_size(Path(checkpoint)),
                "seed": arguments.first_seed,
                "clock_lead_s": clock_lead_s,
            },
        ),
        NodeEntry(
            GUARD,
            GUARD,
            {
                **_passed(arguments, SafetyNodeParameters),
                **chunk,
                "arm": robot,
                "reference": "topic",
                # The arm stands between control steps: a chunk loses no step by waiting for one.
                "chunk_start": "control_step",
                **overlap,
                "clock_lead_s": clock_lead_s,
                **sim_time,
            },
            lifecycle=True,
        ),
        NodeEntry(
            POLICY,
            POLICY,
            {
                **_passed(arguments, PolicyNodeParameters),
                **chunk,
                "checkpoint": checkpoint,
                "instruction": instruction,
                "engines": _absolute(arguments.engines),
                "predict_images": arguments.predict_episodes > 0,
                **sim_time,
            },
            lifecycle=True,
        ),
        NodeEntry(
            EPISODES,
            EPISODES,
            {
                **_passed(arguments, EpisodeNodeParameters),
                **views,
                "step_s": step_s,
                "checkpoint": checkpoint,
                "instruction": instruction,
                "report": str(report),
                "command": command,
            },
            ends_run=True,
        ),
    )
    if arguments.record:
        nodes = (recorder_entry(nodes, report / "recording.mcap", arguments.mode), *nodes)
    nodes += _viewer("sim", arguments, robot)
    log_folder = report / "logs" if arguments.log == "files" else None
    environment = graph_environment(arguments.fastdds_profile, arguments.domain_id)
    return NodeGraph(nodes, arguments.namespace, environment | vulkan_environment(), log_folder)


def real_arm_names(arguments: RealArmArguments) -> dict[str, str]:
    """Name in topics.py -> name in the graph of a real arm."""
    return {
        IMAGE.name: arguments.camera_topic,
        **{
            further_image_name(view): topic
            for view, topic in further_cameras(arguments.further_cameras).items()
        },
        JOINT_STATES.name: arguments.joint_states_topic,
        JOINT_TRAJECTORY.name: arguments.controller_topic,
        GRIPPER_TRAJECTORY.name: arguments.gripper_topic,
        CONTROLLER_STATE_NAME: arguments.controller_state_topic
        or _beside(arguments.controller_topic, "controller_state"),
        CONTROLLER_PARAMETERS_NAME: _beside(arguments.controller_topic, "get_parameters"),
    }


def _remapped(arguments: RealArmArguments, *names: str) -> tuple[tuple[str, str], ...]:
    every = real_arm_names(arguments)
    return tuple((name, every[name]) for name in names)


def real_arm_graph(arguments: RealArmArguments, command: str = "") -> NodeGraph:
    """Policy and guard; the arm's driver and controllers are brought up by its own launch file."""
    sim_time = {"use_sim_time": arguments.use_sim_time}
    policy_parameters = _policy_parameters("real_arm", arguments)
    views = further_cameras(arguments.further_cameras)
    require_further_views(Path(str(policy_parameters["checkpoint"])), views)
    commands = (JOINT_STATES.name, JOINT_TRAJECTORY.name, GRIPPER_TRAJECTORY.name)
    chunk = _guard_chunk("real_arm", arguments, policy_parameters)
    nodes = (
        NodeEntry(
            GUARD,
            GUARD,
            {
                **_passed(arguments, SafetyNodeParameters),
                **chunk,
                "arm": arguments.robot,
                **sim_time,
            },
            _remapped(arguments, *commands, CONTROLLER_STATE_NAME),
            lifecycle=True,
        ),
        NodeEntry(
            REAL_ARM,
            REAL_ARM,
            {
                "arm": arguments.robot,
                "joint_prefix": arguments.joint_prefix,
                "dry_run": arguments.dry_run,
                **sim_time,
            },
            _remapped(arguments, *commands, CONTROLLER_PARAMETERS_NAME),
            lifecycle=True,
        ),
        *_gripper_adapter(arguments),
        NodeEntry(
            POLICY,
            POLICY,
            policy_parameters | sim_time,
            _remapped(arguments, IMAGE.name, *map(further_image_name, views), JOINT_STATES.name),
            lifecycle=True,
            others_go_on=True,
        ),
    )
    if arguments.record:
        nodes = (recorder_entry(nodes, _dated_recording()), *nodes)
    nodes += _viewer("real_arm", arguments, arguments.robot)
    environment = graph_environment(arguments.fastdds_profile, arguments.domain_id)
    return NodeGraph(nodes, arguments.namespace, environment, None)


def _gripper_adapter(arguments: RealArmArguments) -> tuple[NodeEntry, ...]:
    """The adapter, where the arm file's gripper.driver names an action."""
    if read_arm_spec(arguments.robot).gripper.driver is None:
        return ()
    return (
        NodeEntry(
            GRIPPER_ADAPTER,
            GRIPPER_ADAPTER,
            {
                "arm": arguments.robot,
                "joint_prefix": arguments.joint_prefix,
                "use_sim_time": arguments.use_sim_time,
            },
            _remapped(arguments, GRIPPER_TRAJECTORY.name, JOINT_STATES.name),
            lifecycle=True,
        ),
    )


def loopback_graph(arguments: LoopbackArguments, command: str = "") -> NodeGraph:
    """The real arm's graph with a simulated arm in place of the controllers."""
    policy_parameters = _policy_parameters("loopback", arguments)
    chunk = _guard_chunk("loopback", arguments, policy_parameters)
    checkpoint = Path(str(policy_parameters["checkpoint"]))
    nodes = (
        NodeEntry(
            LOOPBACK,
            LOOPBACK,
            {
                "arm": arguments.robot,
                **checkpoint_picture(checkpoint),
                **checkpoint_views(checkpoint),
                **checkpoint_depth_views(checkpoint),
            },
        ),
        NodeEntry(
            GUARD,
            GUARD,
            {
                **_passed(arguments, SafetyNodeParameters),
                **chunk,
                "arm": arguments.robot,
                "auto_engage": True,
                "reference": "topic",
            },
            lifecycle=True,
        ),
        NodeEntry(POLICY, POLICY, policy_parameters, lifecycle=True),
    )
    if arguments.record:
        nodes = (recorder_entry(nodes, _dated_recording()), *nodes)
    nodes += _viewer("loopback", arguments, arguments.robot)
    environment = graph_environment(arguments.fastdds_profile, arguments.domain_id)
    return NodeGraph(nodes, arguments.namespace, environment, None)


def _viewer(
    owner: str, arguments: SimArguments | ArmArguments, robot: str
) -> tuple[NodeEntry, ...]:
    """The live view, where it was asked for. Raises ValueError without rerun-sdk."""
    if not arguments.view:
        return ()
    if importlib.util.find_spec("rerun") is None:
        raise ValueError(
            f"{owner}: view:=true needs rerun-sdk, which is not installed; "
            "docs/how_to/watch_a_run.md has the command, or leave view out."
        )
    parameters = {**_passed(arguments, ViewerNodeParameters), "arm": robot}
    remapped: tuple[tuple[str, str], ...] = ()
    if isinstance(arguments, RealArmArguments):
        remapped = _remapped(arguments, IMAGE.name, JOINT_STATES.name)
    port = {"port": arguments.view_port}
    return (NodeEntry(VIEWER, VIEWER, parameters | port, remapped, is_optional=True),)


@dataclass(frozen=True)
class GraphKind:
    """A graph that can be asked for by name: its arguments and how to build it."""

    arguments_type: type[Any]
    build: Callable[[Any, str], NodeGraph]


GRAPHS: dict[str, GraphKind] = {
    "sim": GraphKind(SimArguments, sim_graph),
    "real_arm": GraphKind(RealArmArguments, real_arm_graph),
    "loopback": GraphKind(LoopbackArguments, loopback_graph),
}


def checkpoint_folder(path: str) -> Path:
    """The folder of a policy, absolute; the shipped one for an empty path."""
    if not path:
        return resource(DEFAULT_CHECKPOINT)
    folder = Path(_absolute(path))
    if not os.path.isdir(folder):
        raise ValueError(
            f"checkpoint {path!r} is not a folder; check checkpoint:=, or leave it out to use the "
            "shipped policy."
        )
    return folder


def _absolute(path: str) -> str:
    """The absolute path, as nodes may run in other folders; an empty path stays empty."""
    return str(Path(os.path.expanduser(path)).absolute()) if path else ""


def _require_instruction(owner: str, instruction: str, checkpoint: Path) -> None:
    """Raise ValueError, before anything is started, for an instruction unknown to the policy.

    A checkpoint that does not say what it knows is left to the policy, which says why.
    """
    known = _known_instructions(checkpoint)
    knows = f"it knows: {'; '.join(map(repr, known))}"
    if not instruction:
        which = f"; {knows}" if known else ""
        raise ValueError(
            f"{owner}: instruction is missing; the checkpoint must know it word for word: "
            f'add instruction:="..."{which}.'
        )
    if known and instruction not in known:
        raise ValueError(
            f"{owner}: instruction {instruction!r} is unknown to this policy; {knows}."
        )


def _known_instructions(checkpoint: Path) -> tuple[str, ...]:
    """The instructions in the checkpoint's file; empty if it cannot be read."""
    try:
        texts = read_object(checkpoint / "instructions.json", "copy it anew").get("texts")
    except ValueError:
        return ()
    return tuple(text for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()


def _guard_chunk(
    owner: str, arguments: ArmArguments, policy_parameters: Mapping[str, ParameterValue]
) -> dict[str, ParameterValue]:
    checkpoint = Path(str(policy_parameters["checkpoint"]))
    overlap = overlapped_guard(owner, arguments.inference, checkpoint)
    return {**checkpoint_chunk(checkpoint), **overlap}


def _policy_parameters(owner: str, arguments: ArmArguments) -> dict[str, ParameterValue]:
    checkpoint = checkpoint_folder(arguments.checkpoint)
    require_kind(owner, arguments.policy, checkpoint)
    _require_instruction(owner, arguments.instruction, checkpoint)
    return {
        **_passed(arguments, PolicyNodeParameters),
        **checkpoint_chunk(checkpoint),
        "checkpoint": str(checkpoint),
        "engines": _absolute(arguments.engines),
    }


def _passed(arguments: Any, node_parameters: type[Any]) -> dict[str, ParameterValue]:
    """The arguments that the node has as parameters of the same name; None means not set."""
    names = {field.name for field in dataclasses.fields(node_parameters)}
    every = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    return {name: value for name, value in every.items() if name in names and value is not None}


def _beside(topic: str, name: str) -> str:
    """The name beside a controller's command topic."""
    return str(PurePosixPath(topic).with_name(name))


def recorder_entry(nodes: tuple[NodeEntry, ...], file: Path, mode: str = "realtime") -> NodeEntry:
    """A recorder of these nodes' topics, with their settings for a replay."""
    guard, policy = (next(node for node in nodes if node.name == name) for name in (GUARD, POLICY))
    checkpoint = policy.parameters.get("checkpoint")
    graph = RecordedGraph(
        guard=dict(guard.parameters),
        policy=dict(policy.parameters),
        policy_executable=policy.executable,
        checkpoint_sha256=manifest_sha256(Path(str(checkpoint))) if checkpoint else "",
        omp_num_threads=os.environ.get("OMP_NUM_THREADS", ""),
        views=checkpoint_recorded_views(Path(str(checkpoint))) if checkpoint else RecordedViews(),
    )
    remappings = {name: target for node in (guard, policy) for name, target in node.remappings}
    return NodeEntry(
        RECORDER,
        RECORDER,
        {
            "file": str(file.absolute()),
            "mode": mode,
            "image_transport": policy.parameters.get("image_transport", _ANY_TRANSPORT),
            **(checkpoint_views(Path(str(checkpoint))) if checkpoint else {}),
            "settings": json.dumps(graph.to_json()),
            # Of its episodes' marks.
            "use_sim_time": bool(guard.parameters.get("use_sim_time", False)),
        },
        tuple(remappings.items()),
        lifecycle=True,
        # A full disk stops no arm.
        others_go_on=True,
    )


def manifest_sha256(checkpoint: Path) -> str:
    """Of a checkpoint's manifest, which names every other file by its own; empty without one."""
    path = checkpoint / "manifest.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _dated_report_folder() -> Path:
    return Path("reports") / _date_and_time()


def _dated_recording() -> Path:
    return Path("recordings") / f"{_date_and_time()}.mcap"


def _date_and_time() -> str:
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H%M%S")
