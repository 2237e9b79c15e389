# SPDX-License-Identifier: Apache-2.0
"""Every node's parameters, each declared once: type, default, range, unit, description, read-only.

A node calls `declare(self, PolicyNodeParameters)` once and gets the frozen dataclass back, checked;
`read(self, ...)` gives it again with what was set since. The runner turns its `name:=value`
arguments into values with `parse_text`. YAML is read here and nowhere else.
"""

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from par_ros.control.action_schedule import ChunkStart
from par_ros.control.arm_spec import CHECKS, ArmSpec, Check
from par_ros.resources import resource

if typing.TYPE_CHECKING:
    from par_ros.control.guard_settings import GuardSettings

Mode = Literal["lockstep", "realtime"]
Scalar = bool | int | float | str
ParameterValue = Scalar | tuple[str, ...]


@dataclass(frozen=True)
class Constraint:
    """What a parameter is, beyond its type. Ranges include their ends."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    # Fixed when the node starts. False for what a service reads again (`task`, `seed`, ...).
    read_only: bool = True


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = True,
) -> Any:
    """A dataclass field that is a node parameter. None as the default means "not set"."""
    constraint = Constraint(description, unit, minimum, maximum, choices, read_only)
    return dataclasses.field(default=default, metadata={"constraint": constraint})


@dataclass(frozen=True)
class PolicyNodeParameters:
    """policy_node."""

    checkpoint: str = parameter("", "folder of the checkpoint to load")
    instruction: str = parameter(
        "", "instruction for the policy, known to the checkpoint; read at ~/reset", read_only=False
    )
    policy_seed: int = parameter(
        0, "seed of all sampling in an episode; read at ~/reset", minimum=0, read_only=False
    )
    num_steps: int | None = parameter(
        None,
        "diffusion steps an action chunk; not set: the checkpoint's own",
        minimum=1,
        maximum=1000,
    )
    backend: str = parameter(
        "auto",
        "runtime of the network: tensorrt, compiled, onnx or eager; auto: the fastest that works",
    )
    device: str = parameter("auto", "cpu or cuda; auto takes the GPU where there is one")
    engines: str = parameter(
        "",
        "folder of the TensorRT engines; not set: trt_engines/<the checkpoint's name> in the "
        "working directory",
    )
    mode: str = parameter(
        "realtime",
        "lockstep: physics waits, images are read reliably; realtime: physics does not wait",
        choices=typing.get_args(Mode),
    )
    predict_images: bool = parameter(
        False,
        "publish the model's picture of the next observation after each chunk; read at ~/reset",
        read_only=False,
    )
    num_warm_up: int = parameter(
        2, "chunks computed and thrown away while configuring", minimum=0, maximum=100
    )
    max_skew_s: float = parameter(
        0.05, "most time between an image and the joint states used with it", unit="s",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    max_future_s: float = parameter(
        0.01, "how far ahead of the clock a picture's stamp may lie", unit="s",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    max_image_age_s: float = parameter(
        0.4, "realtime: an older picture is not answered", unit="s", minimum=0.01, maximum=10.0
    )
    max_camera_silence_s: float = parameter(
        1.0, "realtime: longest time without a picture before the camera counts as silent",
        unit="s", minimum=0.05, maximum=60.0,
    )  # fmt: skip
    max_stamp_stall_s: float = parameter(
        0.3, "realtime: longest time in which pictures come whose stamps do not go on",
        unit="s", minimum=0.02, maximum=60.0,
    )  # fmt: skip
    frozen_motion_rad: float = parameter(
        0.1, "pictures may be equal byte by byte while no joint of the arm moves further than this",
        unit="rad", minimum=0.001, maximum=10.0,
    )  # fmt: skip
    min_brightness: float = parameter(
        8.0, "mean brightness below which a picture is black; 0 takes any", unit="of 255",
        minimum=0.0, maximum=255.0,
    )  # fmt: skip


@dataclass(frozen=True)
class SafetyNodeParameters:
    """safety_node."""

    arm: str = parameter("panda", "name of a file in config/arms, or a path to one")
    mode: str = parameter(
        "realtime",
        "lockstep: answers every chunk at the chunk's own time; realtime: the clock decides",
        choices=typing.get_args(Mode),
    )
    dry_run: bool = parameter(False, "publish on the shadow topics instead of to the controllers")
    step_s: float = parameter(
        0.05, "time between two actions of a chunk", unit="s", minimum=0.001, maximum=1.0
    )
    num_actions: int = parameter(8, "actions in a chunk", minimum=1, maximum=64)
    max_observation_age_s: float = parameter(
        0.4, "an older observation's chunk is refused", unit="s", minimum=0.0, maximum=10.0
    )
    max_joint_state_age_s: float = parameter(
        0.2, "older joint states stop the arm", unit="s", minimum=0.01, maximum=10.0
    )
    auto_engage: bool = parameter(
        False, "engage once, at the first joint state; for simulated arms only"
    )
    limit_checks: str = parameter(
        "arm",
        "acceleration and jerk limits: as the arm file says, or for both enforce (track or hold), "
        "warn (report) or none",
        choices=("arm", *CHECKS),
    )
    chunk_start: str = parameter(
        "arrival",
        "arrival: a chunk starts when it comes and runs all its actions; observation: it is timed "
        "from its observation and loses what is already due; control_step: with a simulator's "
        "clock, at the control step at which it comes, with all its actions",
        choices=typing.get_args(ChunkStart),
    )
    reference: str = parameter(
        "controller_state",
        "what shows that the controller took a trajectory: controller_state of "
        "joint_trajectory_controller (control_msgs); topic: controller_reference, as the simulated "
        "arms publish it; none: nothing does, and engaging leads the arm to where it is measured "
        "first. A dry run needs none",
        choices=("controller_state", "topic", "none"),
    )
    late_after_s: float = parameter(
        0.1, "a chunk is late this long after the end of the one before", unit="s",
        minimum=0.0, maximum=10.0,
    )  # fmt: skip
    policy_timeout_s: float = parameter(
        1.0, "the policy is dead this long after the end of its last chunk", unit="s",
        minimum=0.05, maximum=60.0,
    )  # fmt: skip
    first_chunk_timeout_s: float = parameter(
        10.0, "time from engage to the first chunk", unit="s", minimum=0.1, maximum=600.0
    )
    tail_s: float = parameter(
        0.3, "least duration of the braking tail behind a chunk", unit="s",
        minimum=0.0, maximum=0.5,
    )  # fmt: skip
    splice_s: float = parameter(
        0.03, "a new motion follows the running one for this long, so that a controller may take "
        "it at any time until then; two thirds of it are the guard's own", unit="s",
        minimum=0.002, maximum=0.1,
    )  # fmt: skip
    clock_lead_s: float = parameter(
        0.012, "with a simulator's clock, realtime: it shows a control step this long, in wall "
        "time, before the arm makes it; half of it is the guard's own", unit="s",
        minimum=0.0, maximum=0.1,
    )  # fmt: skip
    limit_share: float = parameter(
        0.95, "share of the velocity, acceleration and jerk limits to plan with; small for first "
        "runs", minimum=0.05, maximum=1.0,
    )  # fmt: skip
    max_engage_speed_rad_s: float = parameter(
        0.1, "a faster arm is not engaged", unit="rad/s", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True)
class ManiSkillBridgeParameters:
    """maniskill_bridge_node."""

    task: str = parameter(
        "PushCube", "ManiSkill task of the next episode; read at ~/reset_episode", read_only=False
    )
    seed: int = parameter(
        20_241_201, "scene of the next episode; read at ~/reset_episode",
        minimum=0, maximum=2**31 - 1, read_only=False,
    )  # fmt: skip
    mode: str = parameter(
        "lockstep",
        "lockstep: physics waits for each chunk; realtime: it does not",
        choices=typing.get_args(Mode),
    )
    max_steps: int = parameter(
        200, "control steps after which an episode has failed", minimum=1, maximum=100_000
    )
    image_size: int = parameter(
        128, "width and height of the picture", unit="px", minimum=16, maximum=1024
    )
    image_every: int = parameter(
        1, "control steps from one picture to the next", minimum=1, maximum=8
    )
    num_actions: int = parameter(
        8, "lockstep: control steps run for each answer", minimum=1, maximum=64
    )
    real_time_factor: float = parameter(
        1.0, "realtime: simulated seconds a wall second", minimum=0.01, maximum=100.0
    )
    clock_lead_s: float = parameter(
        0.012, "realtime: /clock shows a control step this long, in wall time, before its target "
        "is sampled, so that what was sent before is in time for it", unit="s",
        minimum=0.0, maximum=0.1,
    )  # fmt: skip
    answer_timeout_s: float = parameter(
        60.0, "lockstep: wall time to wait for an answer before giving up", unit="s",
        minimum=0.1, maximum=3600.0,
    )  # fmt: skip
    light_meshes: bool = parameter(True, "draw the robot with simplified meshes (10 times faster)")
    camera_frame_id: str = parameter("front_camera_optical_frame", "frame of the pictures")


@dataclass(frozen=True)
class LoopbackArmParameters:
    """loopback_arm_node."""

    arm: str = parameter("panda", "name of a file in config/arms, or a path to one")
    rate_hz: float = parameter(
        100.0, "control cycles and joint states a second", unit="Hz", minimum=1.0, maximum=1000.0
    )
    publish_images: bool = parameter(True, "publish a synthetic camera picture, for a policy")
    image_rate_hz: float = parameter(20.0, "pictures a second", unit="Hz", minimum=0.1, maximum=200)
    image_width: int = parameter(128, "width of the picture", unit="px", minimum=1, maximum=4096)
    image_height: int = parameter(128, "height of the picture", unit="px", minimum=1, maximum=4096)


@dataclass(frozen=True)
class RealArmNodeParameters:
    """real_arm_node."""

    arm: str = parameter("panda", "name of a file in config/arms, or a path to one")
    dry_run: bool = parameter(True, "nothing goes to the controllers, so none need listen")
    min_joint_state_rate_hz: float = parameter(
        20.0, "fewer complete joint states a second are a problem", unit="Hz",
        minimum=1.0, maximum=1000.0,
    )  # fmt: skip
    max_guard_silence_s: float = parameter(
        3.0, "the guard reports once a second; longer silence is a problem", unit="s",
        minimum=0.5, maximum=60.0,
    )  # fmt: skip


@dataclass(frozen=True)
class GripperAdapterNodeParameters:
    """gripper_adapter_node."""

    arm: str = parameter("panda", "name of a file in config/arms, or a path to one")
    look_ahead_s: float = parameter(
        0.02, "a target is sent this long before it is due, for the action's latency; at most the "
        "time between two targets", unit="s", minimum=0.0, maximum=0.05,
    )  # fmt: skip
    max_target_age_s: float = parameter(
        0.5, "a target that has been due for longer is not sent any more: the guard is silent",
        unit="s", minimum=0.05, maximum=5.0,
    )  # fmt: skip
    answer_timeout_s: float = parameter(
        0.5, "an action server that takes longer to accept or cancel a goal is a problem",
        unit="s", minimum=0.05, maximum=1.0,
    )  # fmt: skip
    retry_period_s: float = parameter(
        1.0, "pause before a goal that was rejected, or lost with its server, is sent again",
        unit="s", minimum=0.1, maximum=60.0,
    )  # fmt: skip


@dataclass(frozen=True)
class EpisodeNodeParameters:
    """episode_node."""

    task: str = parameter("PushCube", "ManiSkill task")
    instruction: str = parameter("", "instruction for the policy; empty: the task's own")
    episodes: int = parameter(3, "episodes to run", minimum=1, maximum=100_000)
    first_seed: int = parameter(
        20_241_201, "seed of the first episode; the i-th has first_seed + i",
        minimum=0, maximum=2**31 - 1,
    )  # fmt: skip
    policy_seed: int = parameter(
        0, "seed of the policy's sampling, the same in every episode", minimum=0
    )
    report: str = parameter("report", "folder for results.json, report.html and the videos")
    command: str = parameter("", "the command that started the run, for the report")
    mode: str = parameter("lockstep", "as the bridge's", choices=typing.get_args(Mode))
    checkpoint: str = parameter("", "the policy's checkpoint, for the report")
    max_steps: int = parameter(200, "as the bridge's; for the progress bar", minimum=1)
    predict_episodes: int = parameter(
        1, "the first episodes for which the model's predicted pictures are recorded", minimum=0
    )
    start_timeout_s: float = parameter(
        900.0, "wall time to wait for the other nodes to be ready", unit="s",
        minimum=1.0, maximum=86_400.0,
    )  # fmt: skip
    stall_timeout_s: float = parameter(
        90.0, "wall time without a control step after which an episode is given up", unit="s",
        minimum=1.0, maximum=86_400.0,
    )  # fmt: skip
    video: bool = parameter(True, "write one mp4 an episode")


@dataclass(frozen=True)
class RecorderNodeParameters:
    """recorder_node."""

    file: str = parameter("recording.mcap", "the file to write; it must not exist")
    mode: str = parameter(
        "realtime",
        "lockstep: sensor data is read reliably; realtime: best effort",
        choices=typing.get_args(Mode),
    )
    settings: str = parameter("{}", "JSON of what a replay must know of the graph")


NodeParameters = TypeVar(
    "NodeParameters",
    PolicyNodeParameters,
    SafetyNodeParameters,
    ManiSkillBridgeParameters,
    LoopbackArmParameters,
    RealArmNodeParameters,
    GripperAdapterNodeParameters,
    EpisodeNodeParameters,
    RecorderNodeParameters,
)

_ROS_TYPES: dict[type, Parameter.Type] = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}


def declare(node: Node, parameters_type: type[NodeParameters]) -> NodeParameters:
    """Declare all parameters of `parameters_type` on `node`; give their values.

    Later sets outside the range or the choices are refused with a sentence. Raises ValueError for
    a start-up override (command line, YAML) that has the wrong type or lies outside.
    """
    for field in dataclasses.fields(parameters_type):
        _declare_one(node, field)
    node.add_on_set_parameters_callback(
        lambda changes: _check_changes(node.get_name(), parameters_type, changes)
    )
    return read(node, parameters_type)


def read(node: Node, parameters_type: type[NodeParameters]) -> NodeParameters:
    """The values that the parameters have now."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(parameters_type):
        try:
            values[field.name] = node.get_parameter(field.name).value
        except ParameterUninitializedException:
            values[field.name] = None
    parameters = parameters_type(**values)
    validate(parameters, node.get_name())
    return parameters


def validate(parameters: Any, owner: str) -> None:
    """Raise ValueError for the first value outside its range or choices. `owner`: for the text."""
    for field in dataclasses.fields(parameters):
        _require(owner, field, getattr(parameters, field.name))


def parse_text(owner: str, field: "dataclasses.Field[Any]", text: str) -> Scalar:
    """The value of `name:=text`, typed and checked. Raises ValueError naming the parameter."""
    kind = value_type(field)
    value: Scalar
    try:
        if kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        else:
            value = kind(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(
            f"{owner}: {field.name} must be {expected}, got {text!r}; "
            f"{constraint_of(field).description}."
        ) from None
    _require(owner, field, value)
    return value


def constraint_of(field: "dataclasses.Field[Any]") -> Constraint:
    """The Constraint that `parameter(...)` stored in a field."""
    constraint = field.metadata["constraint"]
    assert isinstance(constraint, Constraint)
    return constraint


def value_type(field: "dataclasses.Field[Any]") -> type:
    """bool, int, float or str; of `int | None`, int."""
    kind: Any = field.type
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    assert kind in _ROS_TYPES, f"{field.name}: {kind}"
    return typing.cast(type, kind)


def read_yaml(path: Path) -> Mapping[str, object]:
    """The mapping in a YAML file. Raises ValueError if the file has none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML: {detail}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"{path} must hold one mapping with names as keys, got {type(content).__name__}; "
            "compare it with the files in config/."
        )
    return content


def read_arm_spec(arm: str) -> ArmSpec:
    """The arm called `arm` in config/arms, or of the file at that path. Raises ValueError."""
    if arm.endswith((".yaml", ".yml")) or "/" in arm:
        path = Path(os.path.expanduser(arm))
        return ArmSpec.from_mapping(path.stem, read_yaml(path))
    folder = resource("config/arms")
    known = sorted(file.stem for file in folder.glob("*.yaml") if file.stem != "template")
    if arm not in known:
        raise ValueError(
            f"arm {arm!r} is unknown, config/arms holds {', '.join(known)}; give one of them, or "
            "the path of your own file (config/arms/template.yaml)."
        )
    return ArmSpec.from_mapping(arm, read_yaml(folder / f"{arm}.yaml"))


def read_guarded_arm(parameters: SafetyNodeParameters) -> ArmSpec:
    """The guard's arm, with `limit_checks` in place of the file's own where it is set."""
    spec = read_arm_spec(parameters.arm)
    if parameters.limit_checks == "arm":
        return spec
    check = typing.cast(Check, parameters.limit_checks)
    return dataclasses.replace(spec, acceleration_check=check, jerk_check=check)


def expects_reference(parameters: SafetyNodeParameters) -> bool:
    """Whether the guard must receive the controller's reference."""
    return parameters.reference != "none" and not parameters.dry_run


def guard_settings(parameters: SafetyNodeParameters, *, use_sim_time: bool) -> "GuardSettings":
    """The guard's settings of these parameters."""
    from par_ros.control.guard_settings import GuardSettings

    return GuardSettings(
        lockstep=parameters.mode == "lockstep",
        sim_clock=use_sim_time,
        chunk_start=typing.cast(ChunkStart, parameters.chunk_start),
        num_actions=parameters.num_actions,
        step_s=parameters.step_s,
        max_observation_age_s=parameters.max_observation_age_s,
        max_joint_state_age_s=parameters.max_joint_state_age_s,
        late_after_s=parameters.late_after_s,
        policy_timeout_s=parameters.policy_timeout_s,
        first_chunk_timeout_s=parameters.first_chunk_timeout_s,
        tail_s=parameters.tail_s,
        splice_s=parameters.splice_s,
        limit_share=parameters.limit_share,
        expects_reference=expects_reference(parameters),
        max_engage_speed_rad_s=parameters.max_engage_speed_rad_s,
    )


def _declare_one(node: Node, field: "dataclasses.Field[Any]") -> None:
    default = _ROS_TYPES[value_type(field)] if field.default is None else field.default
    try:
        node.declare_parameter(field.name, default, _descriptor(field))
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ValueError(
            f"{node.get_name()}: {field.name} must be {range_text(field)}; "
            f"{constraint_of(field).description} ({' '.join(str(error).split())})."
        ) from error


def _descriptor(field: "dataclasses.Field[Any]") -> ParameterDescriptor:
    constraint = constraint_of(field)
    unit = f" [{constraint.unit}]" if constraint.unit else ""
    descriptor = ParameterDescriptor(
        description=constraint.description + unit,
        read_only=constraint.read_only,
        additional_constraints=range_text(field),
    )
    kind = value_type(field)
    if constraint.minimum is None and constraint.maximum is None:
        return descriptor
    if kind is int:
        low, high = -(2**63), 2**63 - 1
        descriptor.integer_range = [
            IntegerRange(
                from_value=low if constraint.minimum is None else int(constraint.minimum),
                to_value=high if constraint.maximum is None else int(constraint.maximum),
            )
        ]
    else:
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=_or_infinite(constraint.minimum, -1.0),
                to_value=_or_infinite(constraint.maximum, 1.0),
            )
        ]
    return descriptor


def _or_infinite(limit: float | None, sign: float) -> float:
    return sign * float("inf") if limit is None else float(limit)


def _check_changes(
    owner: str, parameters_type: type[Any], changes: "list[Parameter[Any]]"
) -> SetParametersResult:
    fields = {field.name: field for field in dataclasses.fields(parameters_type)}
    for change in changes:
        if change.name in fields:
            try:
                _require(owner, fields[change.name], change.value)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _require(owner: str, field: "dataclasses.Field[Any]", value: Any) -> None:
    if value is None and field.default is None:
        return
    constraint = constraint_of(field)
    kind = value_type(field)
    right_type = type(value) is kind or (kind is float and type(value) is int)
    low = constraint.minimum is None or (right_type and value >= constraint.minimum)
    high = constraint.maximum is None or (right_type and value <= constraint.maximum)
    chosen = not constraint.choices or value in constraint.choices
    if not (right_type and low and high and chosen):
        raise ValueError(
            f"{owner}: {field.name} must be {range_text(field)}, got {value!r}; "
            f"{constraint.description}."
        )


def range_text(field: "dataclasses.Field[Any]") -> str:
    """What values a field takes, in words."""
    constraint = constraint_of(field)
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[
        value_type(field)
    ]
    if constraint.choices:
        return "one of " + ", ".join(constraint.choices)
    unit = f" {constraint.unit}" if constraint.unit else ""
    if constraint.minimum is not None and constraint.maximum is not None:
        return f"{kind} from {constraint.minimum:.12g} to {constraint.maximum:.12g}{unit}"
    if constraint.minimum is not None:
        return f"{kind} of at least {constraint.minimum:.12g}{unit}"
    if constraint.maximum is not None:
        return f"{kind} of at most {constraint.maximum:.12g}{unit}"
    return kind
