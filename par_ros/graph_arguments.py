# SPDX-License-Identifier: Apache-2.0
"""What a user can set of sim, real_arm and loopback: NAME:=VALUE of `./par` and launch files."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.exceptions import NameValidationException
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_namespace import validate_namespace

from par_model.simulation.tasks import TASKS
from par_ros.control.settings import Scalar, parameter, parse_text, same_as
from par_ros.parameters import (
    EpisodeNodeParameters,
    ManiSkillBridgeParameters,
    PolicyNodeParameters,
    SafetyNodeParameters,
    ViewerNodeParameters,
)

DEFAULT_CHECKPOINT = "checkpoints/par_small"

# Arguments that are names of topics; the last one may be left out.
_TOPICS = (
    "camera_topic", "joint_states_topic", "controller_topic", "gripper_topic",
    "controller_state_topic",
)  # fmt: skip


@dataclass(frozen=True)
class SimArguments:
    """sim: a policy drives ManiSkill through ROS 2 for some episodes, and a report is written."""

    task: str = same_as(
        EpisodeNodeParameters, "task", description="the task that the arm does",
        choices=tuple(TASKS),
    )  # fmt: skip
    episodes: int = same_as(EpisodeNodeParameters, "episodes")
    first_seed: int = same_as(
        EpisodeNodeParameters, "first_seed",
        description="scene of the first episode; the i-th has first_seed + i",
    )  # fmt: skip
    mode: str = same_as(
        ManiSkillBridgeParameters, "mode",
        description="lockstep: physics waits for the policy; realtime: it does not",
    )  # fmt: skip
    checkpoint: str = parameter(
        "", f"folder of the policy; not set: the included one ({DEFAULT_CHECKPOINT})"
    )
    policy: str = same_as(PolicyNodeParameters, "policy")
    report: str = parameter("", "folder for the results; not set: reports/<date and time>")
    instruction: str = parameter("", "instruction for the policy; not set: the task's own")
    num_steps: int | None = same_as(PolicyNodeParameters, "num_steps")
    max_steps: int = same_as(ManiSkillBridgeParameters, "max_steps")
    policy_seed: int = same_as(
        EpisodeNodeParameters, "policy_seed",
        description="seed of the policy's sampling, the same in every episode, as in "
        "par_model.evaluate",
    )  # fmt: skip
    real_time_factor: float = same_as(ManiSkillBridgeParameters, "real_time_factor")
    limit_checks: str = same_as(
        SafetyNodeParameters, "limit_checks", default="warn",
        description="acceleration and jerk limits in the guard. enforce: chunks are changed to "
        "keep them, as on a real arm; warn: they are reported only; none: they are not checked",
        choices=("enforce", "warn", "none"),
    )  # fmt: skip
    collision_checks: str = same_as(SafetyNodeParameters, "collision_checks")
    splice_s: float = same_as(
        SafetyNodeParameters, "splice_s", default=0.002,
        description="realtime: a chunk departs from the running motion this long after it arrived; "
        "short, because the simulated arm stands between control steps",
    )  # fmt: skip
    clock_lead_s: float = same_as(
        ManiSkillBridgeParameters, "clock_lead_s",
        description="realtime: /clock announces a control step this long, in wall time, before the "
        "bridge samples its target, so that trajectories sent before arrive in time; at most half "
        "a step",
    )  # fmt: skip
    limit_share: float = same_as(
        SafetyNodeParameters, "limit_share", default=1.0,
        description="share of the velocity, acceleration and jerk limits that the guard plans with",
    )  # fmt: skip
    image_every: int = same_as(ManiSkillBridgeParameters, "image_every")
    inference: str = same_as(PolicyNodeParameters, "inference")
    max_prefix_steps: int = same_as(PolicyNodeParameters, "max_prefix_steps")
    seam_smoothness: float = same_as(PolicyNodeParameters, "seam_smoothness")
    latency_budget: float | None = same_as(PolicyNodeParameters, "latency_budget")
    policy_delay: float = same_as(PolicyNodeParameters, "policy_delay")
    delay_jitter: float = same_as(PolicyNodeParameters, "delay_jitter")
    surprise: str = same_as(PolicyNodeParameters, "surprise")
    surprise_resume: str = same_as(PolicyNodeParameters, "surprise_resume")
    backend: str = same_as(PolicyNodeParameters, "backend")
    device: str = same_as(PolicyNodeParameters, "device")
    engines: str = same_as(PolicyNodeParameters, "engines")
    attention_images: bool = same_as(PolicyNodeParameters, "attention_images")
    predict_episodes: int = same_as(
        EpisodeNodeParameters, "predict_episodes",
        description="number of first episodes whose videos show the frames that the model predicts "
        "beside the camera's; this slows the policy down; none with inference:=overlapped",
    )  # fmt: skip
    video: bool = same_as(EpisodeNodeParameters, "video")
    namespace: str = parameter("", "ROS namespace of all nodes")
    domain_id: int | None = parameter(
        None, "ROS domain; not set: ROS_DOMAIN_ID, or 0", minimum=0, maximum=232
    )
    fastdds_profile: bool = parameter(
        True,
        "use config/fastdds_shm.xml; without it large images are lost without an error message",
    )
    record: bool = parameter(False, "write all topics of the graph to <report>/recording.mcap")
    view: bool = parameter(
        False, "show pictures, chunks, joints and the guard live in a browser (needs rerun-sdk)"
    )
    view_port: int = same_as(ViewerNodeParameters, "port")
    log: str = parameter(
        "files",
        "files: each process's output goes to <report>/logs (under `ros2 launch` to the folder "
        "that it prints); screen: to the screen",
        choices=("files", "screen"),
    )


@dataclass(frozen=True)
class ArmArguments:
    """What real_arm and loopback have in common."""

    robot: str = same_as(
        SafetyNodeParameters, "arm",
        description="the arm file: the name of a file in config/arms of this package, or, with a / "
        "or .yaml, the path of any file",
    )  # fmt: skip
    instruction: str = parameter(
        "", "instruction for the policy, word for word one of the checkpoint's instructions.json"
    )
    checkpoint: str = same_as(SimArguments, "checkpoint")
    policy: str = same_as(PolicyNodeParameters, "policy")
    num_steps: int | None = same_as(PolicyNodeParameters, "num_steps")
    policy_seed: int = same_as(
        PolicyNodeParameters, "policy_seed", read_only=True,
        description="seed of the policy's sampling",
    )  # fmt: skip
    backend: str = same_as(PolicyNodeParameters, "backend")
    device: str = same_as(PolicyNodeParameters, "device")
    engines: str = same_as(PolicyNodeParameters, "engines")
    inference: str = same_as(PolicyNodeParameters, "inference")
    max_prefix_steps: int = same_as(PolicyNodeParameters, "max_prefix_steps")
    seam_smoothness: float = same_as(PolicyNodeParameters, "seam_smoothness")
    latency_budget: float | None = same_as(PolicyNodeParameters, "latency_budget")
    surprise: str = same_as(PolicyNodeParameters, "surprise")
    collision_checks: str = same_as(SafetyNodeParameters, "collision_checks")
    splice_s: float = same_as(
        SafetyNodeParameters, "splice_s",
        description="a chunk departs from the running motion this long after it arrived; until "
        "then the controller may pick it up at any time",
    )  # fmt: skip
    limit_share: float = same_as(
        SafetyNodeParameters, "limit_share",
        description="share of the velocity, acceleration and jerk limits that the guard plans "
        "with; use a small share for first runs",
    )  # fmt: skip
    record: bool = same_as(
        SimArguments, "record",
        description="write all topics of the graph to recordings/<date and time>.mcap",
    )  # fmt: skip
    view: bool = same_as(SimArguments, "view")
    view_port: int = same_as(SimArguments, "view_port")
    namespace: str = same_as(SimArguments, "namespace")
    domain_id: int | None = same_as(SimArguments, "domain_id")


@dataclass(frozen=True)
class RealArmArguments(ArmArguments):
    """real_arm: policy and guard for an arm that runs under ros2_control; a dry run by default."""

    dry_run: bool = same_as(
        SafetyNodeParameters, "dry_run", default=True,
        description="publish on the shadow topics only; false sends commands to the controllers",
    )  # fmt: skip
    camera_topic: str = parameter(
        "camera/image_raw", "sensor_msgs/Image or CompressedImage of the camera"
    )
    further_cameras: str = parameter(
        "", "topics of a policy's further views, VIEW=TOPIC separated by commas; not set: "
        "camera/VIEW/image_raw",
    )  # fmt: skip
    image_transport: str = same_as(PolicyNodeParameters, "image_transport")
    joint_prefix: str = same_as(SafetyNodeParameters, "joint_prefix")
    joint_states_topic: str = parameter("joint_states", "sensor_msgs/JointState of the arm")
    controller_topic: str = parameter(
        "joint_trajectory_controller/joint_trajectory", "the arm controller's command topic"
    )
    gripper_topic: str = parameter(
        "gripper_controller/joint_trajectory",
        "the gripper controller's command topic; for an arm file with gripper.driver, the topic "
        "from guard to gripper_adapter_node",
    )
    reference: str = same_as(
        SafetyNodeParameters, "reference", choices=("controller_state", "none"),
        description="topic from which the guard learns that the controller took a trajectory "
        "(needs control_msgs); none: it does not learn it",
    )  # fmt: skip
    controller_state_topic: str = parameter(
        "", "topic of the arm controller's controller_state; not set: beside controller_topic"
    )
    use_sim_time: bool = parameter(False, "take the time from /clock")
    fastdds_profile: bool = same_as(
        SimArguments, "fastdds_profile", default=False,
        description="use config/fastdds_shm.xml, which reaches this machine only; then start the "
        "camera's driver with it, too",
    )  # fmt: skip


@dataclass(frozen=True)
class LoopbackArguments(ArmArguments):
    """loopback: policy and guard drive a simulated arm that follows exactly, until Ctrl-C."""

    instruction: str = same_as(ArmArguments, "instruction", default=TASKS["PushCube"].instruction)
    fastdds_profile: bool = same_as(SimArguments, "fastdds_profile")


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
    arguments = arguments_type(**values)
    for name in _TOPICS:
        topic = getattr(arguments, name, None)
        if topic is not None and (topic or fields[name].default):
            _require_topic(owner, name, topic)
    _require_namespace(owner, getattr(arguments, "namespace", ""))
    return arguments


def _require_topic(owner: str, name: str, topic: str) -> None:
    """A name that ROS refuses would end each process with a traceback, after some have started."""
    try:
        # As it is once it is known whose: a relative name may not hold // either.
        validate_full_topic_name("/" + topic.removeprefix("~").removeprefix("/"))
    except NameValidationException:
        raise ValueError(
            f"{owner}: {name} must be the name of a topic (letters, digits, _ and /, such as "
            f"/camera/image_raw), got {topic!r}."
        ) from None


def _require_namespace(owner: str, namespace: str) -> None:
    try:
        validate_namespace(f"/{namespace.strip('/')}")
    except NameValidationException:
        raise ValueError(
            f"{owner}: namespace must be letters, digits and _, parts separated by /, none of "
            f"them beginning with a digit, got {namespace!r}; for example namespace:=left."
        ) from None


def further_cameras(text: str) -> dict[str, str]:
    """View -> name of its topic in the graph, of RealArmArguments.further_cameras.

    Raises ValueError for what is not VIEW=TOPIC.
    """
    found = {}
    for entry in filter(None, text.split(",")):
        view, _, topic = entry.strip().partition("=")
        if not view or not topic:
            raise ValueError(
                f"real_arm: further_cameras must be VIEW=TOPIC separated by commas, got {text!r}; "
                "for example further_cameras:=right=/right_camera/image_raw."
            )
        _require_topic("real_arm", "further_cameras", topic)
        found[view] = topic
    return found
