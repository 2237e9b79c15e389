# SPDX-License-Identifier: Apache-2.0
"""What a user can set of sim, real_arm and loopback: NAME:=VALUE of `./par` and launch files."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from par_model.simulation.tasks import TASKS
from par_ros.parameters import Mode, Scalar, parameter, parse_text

DEFAULT_CHECKPOINT = "checkpoints/par_small"
_MODES = typing.get_args(Mode)


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

    robot: str = parameter(
        "panda",
        "the arm file: a name is looked for in config/arms of this package; what has a / or ends "
        "in .yaml is the path of a file of your own",
    )
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
