# SPDX-License-Identifier: Apache-2.0
"""Which executables, parameters, remaps and lifecycle steps make up sim, real_arm and loopback.

Plain data: `python -m par_ros` maps it onto processes, launch/*.launch.py onto launch actions.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import shlex
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from par_model.json_file import read_object
from par_model.simulation.tasks import CONTROL_STEP_S, TASKS, task
from par_ros.parameters import (
    Mode,
    ParameterValue,
    Scalar,
    parameter,
    parse_text,
    read_arm_spec,
)
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
)

LOOPBACK = "loopback_arm_node"
REAL_ARM = "real_arm_node"
DEFAULT_CHECKPOINT = "checkpoints/par_small"

_DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_FASTDDS_PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
_VULKAN_DRIVERS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
_LIBRARIES = "LD_LIBRARY_PATH"
_MODES = typing.get_args(Mode)


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
    """

    executable: str
    name: str
    parameters: Mapping[str, ParameterValue]
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = False
    ends_run: bool = False
    others_go_on: bool = False


@dataclass(frozen=True)
class NodeGraph:
    """Processes that belong together, and the environment that all of them need."""

    nodes: tuple[NodeEntry, ...]
    namespace: str
    environment: Mapping[str, str]
    # Where each process's output goes; None: to the screen.
    log_folder: Path | None


@dataclass(frozen=True)
class SimArguments:
    """sim: a policy drives ManiSkill through ROS 2 for some episodes, and a report is written."""

    task: str = parameter("PushCube", "the task that the arm does", choices=tuple(TASKS))
    episodes: int = parameter(3, "episodes to run", minimum=1, maximum=100_000)
    first_seed: int = parameter(
        20_241_201, "scene of the first episode; the i-th has first_seed + i",
        minimum=0, maximum=2**31 - 1,
    )  # fmt: skip
    mode: str = parameter(
        "lockstep",
        "lockstep: physics waits for the policy; realtime: it does not",
        choices=_MODES,
    )
    checkpoint: str = parameter(
        "", f"folder of the policy; not given: the one that is shipped ({DEFAULT_CHECKPOINT})"
    )
    report: str = parameter("", "folder for the results; not given: reports/<date and time>")
    instruction: str = parameter("", "instruction for the policy; not given: the task's own")
    num_steps: int | None = parameter(
        None, "diffusion steps an action chunk; not given: the checkpoint's own",
        minimum=1, maximum=1000,
    )  # fmt: skip
    max_steps: int = parameter(
        200, "control steps after which an episode has failed", minimum=1, maximum=100_000
    )
    policy_seed: int = parameter(
        0, "seed of the policy's sampling, the same in every episode, as in par_model.evaluate",
        minimum=0,
    )  # fmt: skip
    real_time_factor: float = parameter(
        1.0, "realtime: simulated seconds a wall second", minimum=0.01, maximum=100.0
    )
    limit_checks: str = parameter(
        "warn",
        "acceleration and jerk limits in the guard: warn reports, so that the arm is given what "
        "the policy asked for; enforce tracks them as on a real arm; none",
        choices=("enforce", "warn", "none"),
    )
    splice_s: float = parameter(
        0.002, "realtime: a chunk departs from the running motion this long after it came; the "
        "arm stands between control steps", unit="s", minimum=0.002, maximum=0.1,
    )  # fmt: skip
    clock_lead_s: float = parameter(
        0.012, "realtime: /clock shows a control step this long, in wall time, before its target "
        "is sampled, so that what the guard has sent is there; at most half a step",
        unit="s", minimum=0.0, maximum=0.1,
    )  # fmt: skip
    limit_share: float = parameter(
        1.0, "share of the velocity, acceleration and jerk limits that the guard plans with",
        minimum=0.05, maximum=1.0,
    )  # fmt: skip
    image_every: int = parameter(
        1, "control steps from one picture to the next", minimum=1, maximum=8
    )
    backend: str = parameter(
        "auto",
        "runtime of the network: tensorrt, compiled, onnx or eager; auto: the fastest that works",
    )
    device: str = parameter("auto", "cpu or cuda; auto takes the GPU where there is one")
    engines: str = parameter(
        "",
        "folder of the TensorRT engines; not given: trt_engines/<the checkpoint's name> in the "
        "working directory",
    )
    predict_episodes: int = parameter(
        1,
        "in the videos of the first episodes the model's predicted next frames stand beside the "
        "camera; this slows the policy down",
        minimum=0,
    )
    video: bool = parameter(True, "write one mp4 an episode")
    namespace: str = parameter("", "ROS namespace of all nodes")
    domain_id: int | None = parameter(
        None, "ROS domain; not given: ROS_DOMAIN_ID, or 0", minimum=0, maximum=232
    )
    fastdds_profile: bool = parameter(
        True, "use config/fastdds_shm.xml, without which large pictures are lost without an error"
    )
    record: bool = parameter(
        False, "write pictures, joint states, chunks and commands to <report>/recording.mcap"
    )
    log: str = parameter(
        "files",
        "files: each process's output goes to <report>/logs, under `ros2 launch` to the folder "
        "that it names; screen: to the screen",
        choices=("files", "screen"),
    )


@dataclass(frozen=True)
class ArmArguments:
    """What real_arm and loopback have in common."""

    robot: str = parameter("panda", "name of a file in config/arms, or a path to one")
    instruction: str = parameter("", "instruction for the policy, one that the checkpoint knows")
    checkpoint: str = parameter(
        "", f"folder of the policy; not given: the one that is shipped ({DEFAULT_CHECKPOINT})"
    )
    num_steps: int | None = parameter(
        None, "diffusion steps an action chunk; not given: the checkpoint's own",
        minimum=1, maximum=1000,
    )  # fmt: skip
    policy_seed: int = parameter(0, "seed of the policy's sampling", minimum=0)
    backend: str = parameter(
        "auto",
        "runtime of the network: tensorrt, compiled, onnx or eager; auto: the fastest that works",
    )
    device: str = parameter("auto", "cpu or cuda; auto takes the GPU where there is one")
    engines: str = parameter(
        "",
        "folder of the TensorRT engines; not given: trt_engines/<the checkpoint's name> in the "
        "working directory",
    )
    splice_s: float = parameter(
        0.03, "a chunk takes over this long after it came; the controller may pick it up until "
        "then", unit="s", minimum=0.002, maximum=0.1,
    )  # fmt: skip
    limit_share: float = parameter(
        0.95, "share of the velocity, acceleration and jerk limits that the guard plans with; "
        "small for first runs", minimum=0.05, maximum=1.0,
    )  # fmt: skip
    record: bool = parameter(
        False,
        "write pictures, joint states, chunks and commands to recordings/<date and time>.mcap",
    )
    namespace: str = parameter("", "ROS namespace of all nodes")
    domain_id: int | None = parameter(
        None, "ROS domain; not given: ROS_DOMAIN_ID, or 0", minimum=0, maximum=232
    )


@dataclass(frozen=True)
class RealArmArguments(ArmArguments):
    """real_arm: policy and guard for an arm that runs under ros2_control; a dry run by default."""

    dry_run: bool = parameter(
        True, "publish on the shadow topics only; false sends commands to the controllers"
    )
    camera_topic: str = parameter("camera/image_raw", "sensor_msgs/Image of the camera")
    joint_states_topic: str = parameter("joint_states", "sensor_msgs/JointState of the arm")
    controller_topic: str = parameter(
        "joint_trajectory_controller/joint_trajectory", "the arm controller's command topic"
    )
    gripper_topic: str = parameter(
        "gripper_controller/joint_trajectory",
        "the gripper controller's command topic; with a gripper.driver, gripper_adapter_node's",
    )
    reference: str = parameter(
        "controller_state",
        "what shows that the controller took a trajectory; needs control_msgs; none: nothing does",
        choices=("controller_state", "none"),
    )
    controller_state_topic: str = parameter(
        "", "the arm controller's controller_state; not given: beside controller_topic"
    )
    use_sim_time: bool = parameter(False, "take the time from /clock")
    fastdds_profile: bool = parameter(
        False, "use config/fastdds_shm.xml; it reaches this machine only"
    )


@dataclass(frozen=True)
class LoopbackArguments(ArmArguments):
    """loopback: policy and guard drive a simulated arm that follows exactly, until Ctrl-C."""

    instruction: str = parameter(
        TASKS["PushCube"].instruction, "instruction for the policy, one that the checkpoint knows"
    )
    fastdds_profile: bool = parameter(
        True, "use config/fastdds_shm.xml, without which large pictures are lost without an error"
    )


def sim_graph(arguments: SimArguments, command: str = "") -> NodeGraph:
    """ManiSkill, policy, guard and the episodes. Raises ValueError for what cannot be run."""
    report = Path(arguments.report or _dated_report_folder()).absolute()
    checkpoint = str(checkpoint_folder(arguments.checkpoint))
    instruction = arguments.instruction or task(arguments.task).instruction
    _require_instruction("sim", instruction, Path(checkpoint))
    sim_time = {"use_sim_time": True}
    step_s = CONTROL_STEP_S / arguments.real_time_factor
    clock_lead_s = min(arguments.clock_lead_s, step_s / 2)
    nodes = (
        NodeEntry(
            BRIDGE,
            BRIDGE,
            {
                "task": arguments.task,
                "seed": arguments.first_seed,
                "mode": arguments.mode,
                "max_steps": arguments.max_steps,
                "image_every": arguments.image_every,
                "real_time_factor": arguments.real_time_factor,
                "clock_lead_s": clock_lead_s,
            },
        ),
        NodeEntry(
            GUARD,
            GUARD,
            {
                "arm": "panda",
                "mode": arguments.mode,
                "limit_checks": arguments.limit_checks,
                "reference": "topic",
                # The arm stands between control steps: a chunk loses no step by waiting for one.
                "chunk_start": "control_step",
                "splice_s": arguments.splice_s,
                "clock_lead_s": clock_lead_s,
                "limit_share": arguments.limit_share,
                **sim_time,
            },
            lifecycle=True,
        ),
        NodeEntry(
            POLICY,
            POLICY,
            {
                "checkpoint": checkpoint,
                "instruction": instruction,
                "policy_seed": arguments.policy_seed,
                "mode": arguments.mode,
                "predict_images": arguments.predict_episodes > 0,
                "backend": arguments.backend,
                "device": arguments.device,
                "engines": _absolute(arguments.engines),
                **_given("num_steps", arguments.num_steps),
                **sim_time,
            },
            lifecycle=True,
        ),
        NodeEntry(
            EPISODES,
            EPISODES,
            {
                "task": arguments.task,
                "instruction": instruction,
                "episodes": arguments.episodes,
                "first_seed": arguments.first_seed,
                "policy_seed": arguments.policy_seed,
                "mode": arguments.mode,
                "checkpoint": checkpoint,
                "report": str(report),
                "command": command,
                "max_steps": arguments.max_steps,
                "predict_episodes": arguments.predict_episodes,
                "video": arguments.video,
            },
            ends_run=True,
        ),
    )
    if arguments.record:
        nodes = (recorder_entry(nodes, report / "recording.mcap", arguments.mode), *nodes)
    log_folder = report / "logs" if arguments.log == "files" else None
    environment = graph_environment(arguments.fastdds_profile, arguments.domain_id)
    return NodeGraph(nodes, arguments.namespace, environment | vulkan_environment(), log_folder)


def real_arm_graph(arguments: RealArmArguments, command: str = "") -> NodeGraph:
    """Policy and guard; the arm's driver and controllers are brought up by its own launch file."""
    sim_time = {"use_sim_time": arguments.use_sim_time}
    policy_parameters = _policy_parameters("real_arm", arguments)
    nodes = (
        NodeEntry(
            GUARD,
            GUARD,
            {
                "arm": arguments.robot,
                "dry_run": arguments.dry_run,
                "reference": arguments.reference,
                **_guard_parameters(arguments),
                **sim_time,
            },
            (
                (JOINT_STATES.name, arguments.joint_states_topic),
                (JOINT_TRAJECTORY.name, arguments.controller_topic),
                (GRIPPER_TRAJECTORY.name, arguments.gripper_topic),
                (
                    CONTROLLER_STATE_NAME,
                    arguments.controller_state_topic
                    or _beside(arguments.controller_topic, "controller_state"),
                ),
            ),
            lifecycle=True,
        ),
        NodeEntry(
            REAL_ARM,
            REAL_ARM,
            {"arm": arguments.robot, "dry_run": arguments.dry_run, **sim_time},
            (
                (JOINT_STATES.name, arguments.joint_states_topic),
                (JOINT_TRAJECTORY.name, arguments.controller_topic),
                (GRIPPER_TRAJECTORY.name, arguments.gripper_topic),
                (
                    CONTROLLER_PARAMETERS_NAME,
                    _beside(arguments.controller_topic, "get_parameters"),
                ),
            ),
            lifecycle=True,
        ),
        *_gripper_adapter(arguments),
        NodeEntry(
            POLICY,
            POLICY,
            policy_parameters | sim_time,
            (
                (IMAGE.name, arguments.camera_topic),
                (JOINT_STATES.name, arguments.joint_states_topic),
            ),
            lifecycle=True,
            others_go_on=True,
        ),
    )
    if arguments.record:
        nodes = (recorder_entry(nodes, _dated_recording()), *nodes)
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
            {"arm": arguments.robot, "use_sim_time": arguments.use_sim_time},
            (
                (GRIPPER_TRAJECTORY.name, arguments.gripper_topic),
                (JOINT_STATES.name, arguments.joint_states_topic),
            ),
            lifecycle=True,
        ),
    )


def loopback_graph(arguments: LoopbackArguments, command: str = "") -> NodeGraph:
    """The real arm's graph with a simulated arm in place of the controllers."""
    nodes = (
        NodeEntry(LOOPBACK, LOOPBACK, {"arm": arguments.robot}),
        NodeEntry(
            GUARD,
            GUARD,
            {
                "arm": arguments.robot,
                "auto_engage": True,
                "reference": "topic",
                **_guard_parameters(arguments),
            },
            lifecycle=True,
        ),
        NodeEntry(POLICY, POLICY, _policy_parameters("loopback", arguments), lifecycle=True),
    )
    if arguments.record:
        nodes = (recorder_entry(nodes, _dated_recording()), *nodes)
    environment = graph_environment(arguments.fastdds_profile, arguments.domain_id)
    return NodeGraph(nodes, arguments.namespace, environment, None)


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


def parse_arguments(arguments_type: type[Any], owner: str, texts: Mapping[str, str]) -> Any:
    """Values for `arguments_type` from name -> text. Raises ValueError naming the argument."""
    fields = {field.name: field for field in dataclasses.fields(arguments_type)}
    values: dict[str, Scalar] = {}
    for name, text in texts.items():
        if name not in fields:
            raise ValueError(
                f"{owner}: {name!r} is not an argument; the arguments are {', '.join(fields)}."
            )
        if not (text == "" and fields[name].default is None):
            values[name] = parse_text(owner, fields[name], text)
    return arguments_type(**values)


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


def _policy_parameters(owner: str, arguments: ArmArguments) -> dict[str, ParameterValue]:
    checkpoint = checkpoint_folder(arguments.checkpoint)
    _require_instruction(owner, arguments.instruction, checkpoint)
    return {
        "checkpoint": str(checkpoint),
        "instruction": arguments.instruction,
        "policy_seed": arguments.policy_seed,
        "backend": arguments.backend,
        "device": arguments.device,
        "engines": _absolute(arguments.engines),
        **_given("num_steps", arguments.num_steps),
    }


def _guard_parameters(arguments: ArmArguments) -> dict[str, ParameterValue]:
    return {"splice_s": arguments.splice_s, "limit_share": arguments.limit_share}


def _beside(topic: str, name: str) -> str:
    """The name beside a controller's command topic."""
    return str(PurePosixPath(topic).with_name(name))


def recorder_entry(nodes: tuple[NodeEntry, ...], file: Path, mode: str = "realtime") -> NodeEntry:
    """A recorder of these nodes' topics, with their settings for a replay."""
    guard, policy = (next(node for node in nodes if node.name == name) for name in (GUARD, POLICY))
    checkpoint = policy.parameters.get("checkpoint")
    settings = {
        "guard": dict(guard.parameters),
        "policy": dict(policy.parameters),
        "policy_executable": policy.executable,
        "checkpoint_sha256": manifest_sha256(Path(str(checkpoint))) if checkpoint else "",
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    remappings = {name: target for node in (guard, policy) for name, target in node.remappings}
    return NodeEntry(
        RECORDER,
        RECORDER,
        {"file": str(file.absolute()), "mode": mode, "settings": json.dumps(settings)},
        tuple(remappings.items()),
        lifecycle=True,
    )


def manifest_sha256(checkpoint: Path) -> str:
    """Of a checkpoint's manifest, which names every other file by its own; empty without one."""
    path = checkpoint / "manifest.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _given(name: str, value: Scalar | None) -> dict[str, Scalar]:
    return {} if value is None else {name: value}


def graph_environment(fastdds_profile: bool, domain_id: int | None) -> dict[str, str]:
    """What to set for every process; a user's own discovery range or Fast DDS profile stays."""
    environment = {}
    if _DISCOVERY_RANGE not in os.environ:
        environment[_DISCOVERY_RANGE] = "LOCALHOST"
    if fastdds_profile and _FASTDDS_PROFILE not in os.environ:
        environment[_FASTDDS_PROFILE] = str(resource("config/fastdds_shm.xml"))
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(domain_id)
    return environment


def vulkan_environment() -> dict[str, str]:
    """The Vulkan driver that `./par` unpacked, where the caller names no other and it is there.

    `./par` itself has set it already; `ros2 launch` and `python -m par_ros` have not.
    """
    if any(os.environ.get(name) for name in _VULKAN_DRIVERS):
        return {}
    cache = os.environ.get("PAR_CACHE") or os.path.expanduser("~/.cache/par")
    try:
        words = shlex.split(Path(cache, "vulkan", "env").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = dict(word.split("=", 1) for word in words if "=" in word)
    if libraries := found.get(_LIBRARIES):
        # As a shell reads it: ours:${LD_LIBRARY_PATH}.
        ours = libraries.partition("${")[0]
        found[_LIBRARIES] = ":".join(filter(None, (ours, os.environ.get(_LIBRARIES))))
    return found


def _dated_report_folder() -> Path:
    return Path("reports") / _date_and_time()


def _dated_recording() -> Path:
    return Path("recordings") / f"{_date_and_time()}.mcap"


def _date_and_time() -> str:
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H%M%S")
