# SPDX-License-Identifier: Apache-2.0
"""Every node's parameters, each declared once: type, default, range, unit, description, read-only.

A node calls `declare(self, PolicyNodeParameters)` once and gets the frozen dataclass back, checked;
`read(self, ...)` gives it again with what was set since. What several nodes take is declared in one
of them, and what a part of control takes in that part. YAML is read here and nowhere else.
"""

import dataclasses
import os
import typing
from collections.abc import Iterable, Mapping
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

from par_ros.control.arm_spec import CHECKS, ArmSpec
from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.camera_set import ViewSettings
from par_ros.control.gripper_adapter import AdapterSettings
from par_ros.control.guard_settings import GuardParameters, GuardSettings
from par_ros.control.latency_budget import TimingParameters
from par_ros.control.observation_assembler import AssemblerSettings
from par_ros.control.settings import (
    Scalar,
    constraint_of,
    parameter,
    range_text,
    require_value,
    same_as,
    validate,
    value_type,
    values_of,
)
from par_ros.joined_chunk import SeamParameters
from par_ros.resources import resource
from par_ros.surprise_settings import SurpriseSettings

Mode = Literal["lockstep", "realtime"]
ParameterValue = Scalar | tuple[str, ...]


@dataclass(frozen=True)
class PolicyNodeParameters(TimingParameters, SeamParameters, SurpriseSettings):
    """policy_node."""

    checkpoint: str = parameter("", "folder of the checkpoint to load")
    policy: str = parameter(
        "auto",
        "what the checkpoint must be: par, or lerobot (written by par_model.import_lerobot, run by "
        "the Python that PAR_LEROBOT_PYTHON names); auto: either",
        choices=("auto", "par", "lerobot"),
    )
    instruction: str = parameter(
        "", "instruction for the policy, known to the checkpoint; read at ~/reset", read_only=False
    )
    policy_seed: int = parameter(
        0, "seed of all sampling in an episode; read at ~/reset", minimum=0, read_only=False
    )
    num_steps: int | None = parameter(
        None, "diffusion steps per chunk; not set: the checkpoint's own", minimum=1, maximum=1000
    )
    backend: str = parameter(
        "auto",
        "runtime: tensorrt, compiled, openvino, openvino-int8, onnx or eager; auto: the fastest",
    )
    device: str = parameter("auto", "cpu or cuda; auto takes the GPU if there is one")
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
    inference: str = parameter(
        "sequential",
        "sequential: a picture is answered after the running chunk has ended; overlapped: while it "
        "runs, by a chunk that takes over from it (realtime only; needs a checkpoint whose "
        "max_delay_steps is not 0; no predicted pictures)",
        choices=("sequential", "overlapped"),
    )
    image_transport: str = parameter(
        "auto",
        "pictures that are read: raw (Image), compressed (CompressedImage, on <image>/compressed) "
        "or auto: what is published, raw first",
        choices=("auto", "raw", "compressed"),
    )
    joint_prefix: str = parameter(
        "",
        "what driver and controllers put before the arm file's joint names, such as left_; "
        "the policy's joints have none",
    )
    predict_images: bool = parameter(
        False,
        "publish the frame that the model predicts for the next observation, after each chunk; "
        "read at ~/reset",
        read_only=False,
    )
    attention_images: bool = parameter(
        False, "publish what each chunk's actions look at; read at ~/reset", read_only=False
    )
    num_actions: int | None = same_as(
        GuardParameters, "num_actions", default=None,
        description="actions in a chunk; not set: the checkpoint's; another number is refused",
    )  # fmt: skip
    step_s: float | None = same_as(
        GuardParameters, "step_s", default=None,
        description="time between two actions; not set: the checkpoint's; another time is refused",
    )  # fmt: skip
    num_warm_up: int = parameter(
        2, "chunks computed while configuring and not used", minimum=0, maximum=100
    )
    max_skew_s: float = same_as(AssemblerSettings, "max_joint_skew_s")
    max_view_skew_s: float = same_as(ViewSettings, "max_skew_s")
    max_future_s: float = same_as(AssemblerSettings, "max_future_s")
    max_image_age_s: float = same_as(AssemblerSettings, "max_image_age_s")
    max_camera_silence_s: float = same_as(CameraCheckSettings, "max_silence_s")
    max_stamp_stall_s: float = same_as(CameraCheckSettings, "max_stall_s")
    frozen_motion_rad: float = same_as(CameraCheckSettings, "frozen_motion_rad")
    min_brightness: float = same_as(CameraCheckSettings, "min_brightness")


@dataclass(frozen=True)
class SafetyNodeParameters(GuardParameters):
    """safety_node: its own, behind those of the guard."""

    arm: str = parameter("panda", "name of a file in config/arms, or a path to one")
    mode: str = parameter(
        "realtime",
        "lockstep: the time is the chunk's stamp; realtime: the time is the clock's",
        choices=typing.get_args(Mode),
    )
    joint_prefix: str = same_as(PolicyNodeParameters, "joint_prefix")
    dry_run: bool = parameter(False, "publish on the shadow topics instead of to the controllers")
    auto_engage: bool = parameter(
        False,
        "engage once, at the first joint state; for simulated arms: needs reference topic, mode "
        "lockstep or a dry run",
    )
    limit_checks: str = parameter(
        "arm",
        "acceleration and jerk limits: as the arm file says, or for both enforce (track or hold), "
        "warn (report) or none",
        choices=("arm", *CHECKS),
    )
    collision_checks: str = parameter(
        "arm",
        "collisions: as the arm file says (its section collision, where `enabled` is not false), "
        "or with this section on or off",
        choices=("arm", "on", "off"),
    )
    reference: str = parameter(
        "controller_state",
        "topic from which the guard learns that the controller took a trajectory. "
        "controller_state: that of joint_trajectory_controller, needs control_msgs; topic: "
        "controller_reference of the simulated arms; none: it does not learn it, and engaging "
        "first moves the arm's command to the measured position. A dry run does not use it",
        choices=("controller_state", "topic", "none"),
    )
    clock_lead_s: float = parameter(
        0.012, "realtime simulation: /clock announces a control step this long, in wall time, "
        "before the arm makes it; the guard may compute for half of it", unit="s",
        minimum=0.0, maximum=0.1,
    )  # fmt: skip


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
        128, "width and height of the image", unit="px", minimum=16, maximum=1024
    )
    image_every: int = parameter(
        1, "control steps from one image to the next", minimum=1, maximum=8
    )
    num_actions: int = same_as(
        GuardParameters, "num_actions", description="lockstep: control steps per answer"
    )
    step_s: float = same_as(GuardParameters, "step_s", description="duration of a control step")
    real_time_factor: float = same_as(
        PolicyNodeParameters, "real_time_factor",
        description="realtime: simulated seconds per second of wall time",
    )  # fmt: skip
    clock_lead_s: float = same_as(
        SafetyNodeParameters, "clock_lead_s",
        description="realtime: /clock announces a control step this long, in wall time, before the "
        "bridge samples its target, so that trajectories sent before arrive in time",
    )  # fmt: skip
    answer_timeout_s: float = parameter(
        60.0, "lockstep: wall time to wait for an answer before giving up", unit="s",
        minimum=0.1, maximum=3600.0,
    )  # fmt: skip
    views: str = parameter(
        "front", "names of the cameras, by commas; camera/image_raw is the first"
    )
    light_meshes: bool = parameter(True, "draw the robot with simplified meshes (10 times faster)")
    camera_frame_id: str = parameter("front_camera_optical_frame", "frame_id of the first view")


@dataclass(frozen=True)
class LoopbackArmParameters:
    """loopback_arm_node."""

    arm: str = same_as(SafetyNodeParameters, "arm")
    joint_prefix: str = same_as(SafetyNodeParameters, "joint_prefix")
    rate_hz: float = parameter(
        100.0, "control cycles and joint states per second", unit="Hz", minimum=1.0, maximum=1000.0
    )
    publish_images: bool = parameter(True, "publish synthetic camera images, for a policy")
    image_rate_hz: float = parameter(20.0, "images per second", unit="Hz", minimum=0.1, maximum=200)
    image_width: int = parameter(128, "width of the image", unit="px", minimum=1, maximum=4096)
    image_height: int = parameter(128, "height of the image", unit="px", minimum=1, maximum=4096)
    views: str = same_as(ManiSkillBridgeParameters, "views")
    depth_views: str = parameter("", "those of them whose images are depth (16UC1), by commas")


@dataclass(frozen=True)
class RealArmNodeParameters:
    """real_arm_node."""

    arm: str = same_as(SafetyNodeParameters, "arm")
    joint_prefix: str = same_as(SafetyNodeParameters, "joint_prefix")
    dry_run: bool = parameter(True, "nothing is sent to the controllers, so they need not run")
    min_joint_state_rate_hz: float = parameter(
        20.0, "least number of complete joint states per second", unit="Hz",
        minimum=1.0, maximum=1000.0,
    )  # fmt: skip
    max_guard_silence_s: float = parameter(
        3.0, "longest time without guard_state, which comes once per second", unit="s",
        minimum=0.5, maximum=60.0,
    )  # fmt: skip


@dataclass(frozen=True)
class GripperAdapterNodeParameters(AdapterSettings):
    """gripper_adapter_node: its own, behind those of the adapter."""

    arm: str = same_as(SafetyNodeParameters, "arm")
    joint_prefix: str = same_as(SafetyNodeParameters, "joint_prefix")


@dataclass(frozen=True)
class EpisodeNodeParameters:
    """episode_node."""

    task: str = same_as(
        ManiSkillBridgeParameters, "task", description="ManiSkill task", read_only=True
    )
    instruction: str = parameter("", "instruction for the policy; empty: the task's own")
    episodes: int = parameter(3, "episodes to run", minimum=1, maximum=100_000)
    first_seed: int = same_as(
        ManiSkillBridgeParameters, "seed", read_only=True,
        description="seed of the first episode; the i-th has first_seed + i",
    )  # fmt: skip
    policy_seed: int = same_as(
        PolicyNodeParameters, "policy_seed", read_only=True,
        description="seed of the policy's sampling, the same in every episode",
    )  # fmt: skip
    report: str = parameter("report", "folder for results.json, report.html and the videos")
    command: str = parameter("", "the command that started the run, for the report")
    mode: str = same_as(ManiSkillBridgeParameters, "mode", description="as the bridge's")
    checkpoint: str = parameter("", "the policy's checkpoint, for the report")
    max_steps: int = same_as(
        ManiSkillBridgeParameters, "max_steps",
        description="as the bridge's; for the progress bar",
    )  # fmt: skip
    step_s: float = same_as(ManiSkillBridgeParameters, "step_s")
    real_time_factor: float = same_as(ManiSkillBridgeParameters, "real_time_factor")
    predict_episodes: int = parameter(
        1, "number of first episodes in which the model also predicts frames", minimum=0
    )
    start_timeout_s: float = parameter(
        900.0, "longest wall time until the other nodes are ready", unit="s",
        minimum=1.0, maximum=86_400.0,
    )  # fmt: skip
    stall_timeout_s: float = parameter(
        90.0, "wall time without a control step after which the run ends", unit="s",
        minimum=1.0, maximum=86_400.0,
    )  # fmt: skip
    video: bool = parameter(True, "write one mp4 per episode")
    views: str = same_as(ManiSkillBridgeParameters, "views")


@dataclass(frozen=True)
class RecorderNodeParameters:
    """recorder_node."""

    file: str = parameter("recording.mcap", "the file to write; it must not exist")
    mode: str = parameter(
        "realtime", "lockstep: sensor data is read reliably; realtime: best effort",
        choices=typing.get_args(Mode),
    )  # fmt: skip
    image_transport: str = same_as(PolicyNodeParameters, "image_transport")
    views: str = same_as(ManiSkillBridgeParameters, "views")
    settings: str = parameter("{}", "settings of the graph for a replay, as JSON")


@dataclass(frozen=True)
class ViewerNodeParameters:
    """viewer_node."""

    arm: str = same_as(SafetyNodeParameters, "arm")
    port: int = parameter(
        9090,
        "port of the web page; the page takes its content from the port after it",
        minimum=1024,
        maximum=65534,
    )
    max_rate_hz: float = parameter(
        20.0, "most pictures and joint states that are shown a second", unit="Hz",
        minimum=0.1, maximum=100.0,
    )  # fmt: skip
    memory_limit: str = parameter(
        "500MB", "what is kept for browsers that connect later; the oldest is dropped beyond"
    )
    image_transport: str = same_as(PolicyNodeParameters, "image_transport")
    joint_prefix: str = same_as(SafetyNodeParameters, "joint_prefix")


NodeParameters = TypeVar(
    "NodeParameters",
    PolicyNodeParameters, SafetyNodeParameters, ManiSkillBridgeParameters,
    LoopbackArmParameters, RealArmNodeParameters, GripperAdapterNodeParameters,
    EpisodeNodeParameters, RecorderNodeParameters, ViewerNodeParameters,
)  # fmt: skip

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
        return ArmSpec.from_mapping(path.stem, read_yaml(path), path.parent)
    folder = resource("config/arms")
    known = sorted(file.stem for file in folder.glob("*.yaml") if file.stem != "template")
    if arm not in known:
        raise ValueError(
            f"arm {arm!r} is unknown, config/arms holds {', '.join(known)}; give one of them, or "
            "the path of your own file (config/arms/template.yaml)."
        )
    return ArmSpec.from_mapping(arm, read_yaml(folder / f"{arm}.yaml"), folder)


def expects_reference(parameters: SafetyNodeParameters) -> bool:
    """Whether the guard must receive the controller's reference."""
    return parameters.reference != "none" and not parameters.dry_run


def guard_settings(parameters: SafetyNodeParameters, *, use_sim_time: bool) -> GuardSettings:
    """The guard's settings of these parameters."""
    return GuardSettings(
        **values_of(GuardParameters, parameters),
        lockstep=parameters.mode == "lockstep",
        sim_clock=use_sim_time,
        expects_reference=expects_reference(parameters),
        dry_run=parameters.dry_run,
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
    owner: str, parameters_type: type[Any], changes: Iterable[Any]
) -> SetParametersResult:
    """changes: rclpy's Parameter, which takes type arguments in Kilted only."""
    fields = {field.name: field for field in dataclasses.fields(parameters_type)}
    for change in changes:
        if change.name in fields:
            try:
                require_value(owner, fields[change.name], change.value)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
