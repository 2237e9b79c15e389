# SPDX-License-Identifier: Apache-2.0
"""Every topic and service: name, type, QoS, who writes, who reads.

docs/reference/topics.md has the table.

QoS follows REP-2003: what produces sensor data writes reliable, what consumes it reads best effort
unless it says otherwise. In lockstep, physics waits for an answer to each image, so a lost image
would stop the run: there consumers read sensor data reliably (`sensor_qos(reliable=True)`).
Names are relative where a namespace or a remap may move them, and absolute where ROS says so.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

ARM = "arm"
BRIDGE = "maniskill_bridge_node"
POLICY = "policy_node"
GUARD = "safety_node"
GRIPPER_ADAPTER = "gripper_adapter_node"
EPISODES = "episode_node"
RECORDER = "recorder_node"
VIEWER = "viewer_node"
ANYONE = "anyone"


@dataclass(frozen=True)
class Qos:
    """Reliability, durability and depth of one end of a topic; history is always keep-last."""

    reliable: bool
    depth: int
    transient_local: bool = False

    def profile(self) -> QoSProfile:
        """The same as rclpy wants it."""
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self.depth,
            reliability=(
                ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT
            ),
            durability=(
                DurabilityPolicy.TRANSIENT_LOCAL
                if self.transient_local
                else DurabilityPolicy.VOLATILE
            ),
        )

    def __str__(self) -> str:
        durability = ", transient local" if self.transient_local else ""
        return f"{'reliable' if self.reliable else 'best effort'}, depth {self.depth}{durability}"


@dataclass(frozen=True)
class Topic:
    """One row of the table. `arm` as a writer or reader stands for whatever arm is running."""

    name: str
    # A generated ROS message class; rosidl's classes carry no common base that mypy knows.
    message_type: Any
    writer_qos: Qos
    reader_qos: Qos
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    purpose: str

    @property
    def type_name(self) -> str:
        """`package/msg/Name`."""
        return message_type_name(self.message_type)


def message_type_name(message_type: Any) -> str:
    """`package/msg/Name` of a generated message class."""
    package = message_type.__module__.split(".")[0]
    return f"{package}/msg/{message_type.__name__}"


@dataclass(frozen=True)
class ServiceEntry:
    """One service; `name` is relative to the node that serves it."""

    name: str
    server: str
    service_type: Any
    purpose: str

    @property
    def type_name(self) -> str:
        """`package/srv/Name`."""
        package = self.service_type.__module__.split(".")[0]
        return f"{package}/srv/{self.service_type.__name__}"

    @property
    def private_name(self) -> str:
        """The name for create_service in the serving node."""
        return f"~/{self.name}"

    @property
    def client_name(self) -> str:
        """The relative name for create_client in any other node of the same namespace."""
        return f"{self.server}/{self.name}"


# Names under which nodes know what a ros2_control controller offers; launch remaps them. Its types
# are control_msgs' and rcl_interfaces', so they are no rows of the table.
CONTROLLER_STATE_NAME = "arm_controller/controller_state"
CONTROLLER_PARAMETERS_NAME = "arm_controller/get_parameters"

# Depth 10 at 20 Hz is half a second: more than one chunk, so that a busy consumer loses nothing.
_SENSOR_WRITER = Qos(reliable=True, depth=10)
_SENSOR_READER = Qos(reliable=False, depth=5)
# A controller wants the newest trajectory only, but each joins the one before: none may be dropped.
_COMMAND = Qos(reliable=True, depth=10)
_ANSWER = Qos(reliable=True, depth=10)
_LATCHED = Qos(reliable=True, depth=1, transient_local=True)
# Asks for nothing, so that no publisher's offer is too little.
_ANY_WRITER = Qos(reliable=False, depth=10)

IMAGE = Topic(
    "camera/image_raw", Image, _SENSOR_WRITER, _SENSOR_READER,
    (ARM,), (POLICY, EPISODES),
    "the camera's image; its stamp is the time at which it was taken. Of a policy with several "
    "views it is the first one's; a further view's is camera/VIEW/image_raw",
)  # fmt: skip
CAMERA_INFO = Topic(
    "camera/camera_info", CameraInfo, _SENSOR_WRITER, _SENSOR_READER,
    (ARM,), (ANYONE,),
    "intrinsics of that camera, same stamp; a further view's is camera/VIEW/camera_info",
)  # fmt: skip
JOINT_STATES = Topic(
    "joint_states", JointState, _SENSOR_WRITER, _SENSOR_READER,
    (ARM, GRIPPER_ADAPTER), (POLICY, GUARD, GRIPPER_ADAPTER),
    "measured joint positions and velocities; the gripper's is one finger's position in metres, "
    "which the adapter adds if the driver publishes a knuckle's angle",
)  # fmt: skip
CLOCK = Topic(
    "/clock", Clock, Qos(reliable=True, depth=1), Qos(reliable=False, depth=1),
    (BRIDGE,), (ANYONE,),
    "simulation time; starts at 1 s and never goes back, across episodes too",
)  # fmt: skip
ACTION_CHUNK = Topic(
    "action_chunk", JointTrajectory, _ANSWER, _ANSWER,
    (POLICY,), (GUARD, EPISODES),
    "the policy's action chunk: one point per action, with 8 joints for the panda; the stamp is "
    "that of the observation answered",
)  # fmt: skip
EXECUTED_ACTIONS = Topic(
    "executed_actions", JointTrajectory, _ANSWER, _ANSWER,
    (GUARD,), (POLICY, EPISODES),
    "the actions as the guard sent them to the arm; the stamp is the chunk's",
)  # fmt: skip
JOINT_TRAJECTORY = Topic(
    "joint_trajectory", JointTrajectory, _COMMAND, _COMMAND,
    (GUARD,), (ARM,),
    "the arm's complete remaining motion, ending at rest",
)  # fmt: skip
GRIPPER_TRAJECTORY = Topic(
    "gripper_trajectory", JointTrajectory, _COMMAND, _COMMAND,
    (GUARD,), (ARM, GRIPPER_ADAPTER),
    "the same for the gripper's joint; if the gripper has an action, the adapter reads it",
)  # fmt: skip
JOINT_TRAJECTORY_SHADOW = Topic(
    "joint_trajectory_shadow", JointTrajectory, _COMMAND, _COMMAND,
    (GUARD,), (ANYONE,),
    "dry run: the messages of joint_trajectory",
)  # fmt: skip
GRIPPER_TRAJECTORY_SHADOW = Topic(
    "gripper_trajectory_shadow", JointTrajectory, _COMMAND, _COMMAND,
    (GUARD,), (ANYONE,),
    "dry run: the messages of gripper_trajectory",
)  # fmt: skip
PREDICTED_IMAGE = Topic(
    "predicted_image", Image, _ANSWER, _ANSWER,
    (POLICY,), (EPISODES,),
    "the frame that the model predicts for the next observation, of the first view; the stamp is "
    "the predicted time",
)  # fmt: skip
ATTENTION_IMAGE = Topic(
    "attention_image", Image, _ANSWER, _ANSWER,
    (POLICY,), (EPISODES, ANYONE),
    "with attention_images, after each chunk: the first view's picture that it answers, darker "
    "where the chunk's actions look less (mean over layers and heads)",
)  # fmt: skip
SURPRISE = Topic(
    "surprise", DiagnosticStatus, _ANSWER, _ANSWER,
    (POLICY,), (EPISODES, ANYONE),
    "with surprise:=report or stop, before each chunk that has a past: how unlikely the model "
    "finds the observation, and its two thresholds",
)  # fmt: skip
DIAGNOSTICS = Topic(
    "/diagnostics", DiagnosticArray, _ANSWER, _ANSWER,
    (POLICY, GUARD, GRIPPER_ADAPTER, ARM), (EPISODES, ANYONE),
    "status of each node, at 1 Hz of wall time and at every event (REP-107)",
)  # fmt: skip
OBSERVED = Topic(
    "observed", DiagnosticStatus, _ANSWER, _ANSWER,
    (POLICY,), (ANYONE,),
    "with each chunk: stamps of the image, joint states and executed actions that it answers",
)  # fmt: skip
GUARD_INPUTS = Topic(
    "guard_inputs", DiagnosticStatus, Qos(reliable=True, depth=50), Qos(reliable=True, depth=50),
    (GUARD,), (ANYONE,),
    "each chunk, service call and fault, with both clocks' times at which the guard took it",
)  # fmt: skip
E_STOP = Topic(
    "e_stop", Bool, _ANSWER, _ANY_WRITER,
    (ANYONE,), (GUARD,),
    "true stops and latches; false is ignored",
)  # fmt: skip
TELEOP_CHUNK = Topic(
    "teleop_chunk", JointTrajectory, _ANSWER, _ANSWER,
    (ANYONE,), (GUARD,),
    "an operator's chunk, of action_chunk's form, stamped when it is sent; taken only while "
    "teleop_deadman is true, and not in lockstep",
)  # fmt: skip
TELEOP_DEADMAN = Topic(
    "teleop_deadman", Bool, _ANSWER, _ANY_WRITER,
    (ANYONE,), (GUARD,),
    "true, at 10 Hz or more, while the operator holds the deadman switch",
)  # fmt: skip
CONTROLLER_REFERENCE = Topic(
    "controller_reference", JointTrajectory, _SENSOR_WRITER, Qos(reliable=False, depth=100),
    (ARM,), (GUARD,),
    "the position that the arm's controller commands at the stamp, one point; a ros2_control arm "
    "publishes controller_state (control_msgs) instead",
)  # fmt: skip
GUARD_STATE = Topic(
    "guard_state", DiagnosticStatus, _LATCHED, _LATCHED,
    (GUARD,), (ARM, ANYONE),
    "engaged, stop_latched, holding and fault of the guard; at each change and every second",
)  # fmt: skip
E_STOP_STATE = Topic(
    "e_stop_state", Bool, _LATCHED, _LATCHED,
    (GUARD,), (ANYONE,),
    "whether the stop is latched",
)  # fmt: skip
EPISODE_MARKS = Topic(
    "episode_marks", DiagnosticStatus, _ANSWER, _ANSWER,
    (RECORDER,), (ANYONE,),
    "start and end of an episode, and its success, as recorder_node's services were told",
)  # fmt: skip
EPISODE_STATE = Topic(
    "episode_state", DiagnosticStatus, _LATCHED, _LATCHED,
    (BRIDGE,), (EPISODES,),
    "task, seed, step, success, success_once, finished; after each reset and chunk, in real time "
    "after each step that counts",
)  # fmt: skip
APPLIED_TARGETS = Topic(
    "applied_targets", JointTrajectory, _LATCHED, _LATCHED,
    (BRIDGE,), (EPISODES,),
    "at an episode's end: the joint targets given to the simulator, one point per control step "
    "that counts; stamped with the episode's start",
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    IMAGE,
    CAMERA_INFO,
    JOINT_STATES,
    CLOCK,
    ACTION_CHUNK,
    EXECUTED_ACTIONS,
    JOINT_TRAJECTORY,
    GRIPPER_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
    GRIPPER_TRAJECTORY_SHADOW,
    PREDICTED_IMAGE,
    ATTENTION_IMAGE,
    SURPRISE,
    DIAGNOSTICS,
    OBSERVED,
    GUARD_INPUTS,
    E_STOP,
    E_STOP_STATE,
    TELEOP_CHUNK,
    TELEOP_DEADMAN,
    CONTROLLER_REFERENCE,
    GUARD_STATE,
    EPISODE_MARKS,
    EPISODE_STATE,
    APPLIED_TARGETS,
)

ENGAGE = ServiceEntry(
    "engage",
    GUARD,
    Trigger,
    "pass chunks on, from the position that the controller holds",
)
DISENGAGE = ServiceEntry("disengage", GUARD, Trigger, "bring the arm to rest and pass nothing on")
STOP = ServiceEntry("e_stop", GUARD, Trigger, "stop now and latch")
RESET_STOP = ServiceEntry("reset_stop", GUARD, Trigger, "clear the latch; stay disengaged")
RESET_POLICY = ServiceEntry(
    "reset", POLICY, Trigger, "start a new episode, with the parameters instruction and policy_seed"
)
RESET_EPISODE = ServiceEntry(
    "reset_episode", BRIDGE, Trigger, "start a new episode, with the parameters task and seed"
)
START_EPISODE = ServiceEntry("start_episode", RECORDER, Trigger, "mark an episode's start")
END_EPISODE = ServiceEntry(
    "end_episode", RECORDER, SetBool, "mark an episode's end; data: whether it was a success"
)

SERVICES: tuple[ServiceEntry, ...] = (
    ENGAGE,
    DISENGAGE,
    STOP,
    RESET_STOP,
    RESET_POLICY,
    RESET_EPISODE,
    START_EPISODE,
    END_EPISODE,
)


def view_names(text: str) -> tuple[str, ...]:
    """The views of a parameter `views`: names separated by commas, the first view's first."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def further_image_name(view: str) -> str:
    """Name of the image topic of a view that is not a policy's first."""
    return f"camera/{view}/image_raw"


def further_view(topic_name: str) -> str:
    """The view of such a topic; empty for others."""
    found = re.fullmatch(further_image_name("([^/]+)"), topic_name)
    return found[1] if found else ""


def camera_topics(views: tuple[str, ...]) -> dict[str, tuple[Topic, Topic]]:
    """Each view's topics of images and of intrinsics."""
    first, *others = views
    return {first: (IMAGE, CAMERA_INFO)} | {
        view: (
            dataclasses.replace(IMAGE, name=further_image_name(view)),
            dataclasses.replace(CAMERA_INFO, name=f"camera/{view}/camera_info"),
        )
        for view in others
    }


def sensor_qos(topic: Topic, *, reliable: bool) -> QoSProfile:
    """A reader's profile for sensor data: best effort as REP-2003 says, reliable in lockstep."""
    return Qos(reliable=reliable, depth=10 if reliable else topic.reader_qos.depth).profile()


def markdown_table() -> str:
    """The tables of topics and services as Markdown, for docs/reference/topics.md."""
    rows = ["| Topic | Type | Writer | Reader | QoS of writer / reader | What |", "|---" * 6 + "|"]
    rows += [
        f"| `{topic.name}` | {topic.type_name} | {', '.join(topic.writers)} "
        f"| {', '.join(topic.readers)} | {topic.writer_qos} / {topic.reader_qos} "
        f"| {topic.purpose} |"
        for topic in TOPICS
    ]
    rows += ["", "| Service | Type | What |", "|---" * 3 + "|"]
    rows += [
        f"| `{service.client_name}` | {service.type_name} | {service.purpose} |"
        for service in SERVICES
    ]
    return "\n".join(rows) + "\n"
