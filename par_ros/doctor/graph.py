# SPDX-License-Identifier: Apache-2.0
"""What can be known of the graph by listening to it for some seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

from par_model.camera_fit import CameraFit
from par_model.config import from_values
from par_model.depth_view import depth_view_of
from par_model.json_file import read_object
from par_model.peers.lerobot_folder import is_lerobot, read_lerobot_folder
from par_ros import messages
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.camera_check import CameraCheck, CameraCheckSettings
from par_ros.control.camera_set import check_stamped
from par_ros.control.guard_settings import GuardParameters
from par_ros.control.joint_states import JointSample, JointStateSelector, MissingJoints
from par_ros.control.joint_watch import JointWatch
from par_ros.control.observation_assembler import (
    AssemblerSettings,
    ObservationAssembler,
    Refusal,
)
from par_ros.control.supervision import CommandTopics, Supervision
from par_ros.controllers import ControllerQueries, command_topics
from par_ros.fitted_subscription import FittedSubscription, camera_candidates
from par_ros.messages import Picture
from par_ros.parameters import RealArmNodeParameters
from par_ros.process import ClockReader
from par_ros.reference_input import controller_state_type
from par_ros.topic_check import loneliness, names_of, topic_problem
from par_ros.topics import (
    CONTROLLER_REFERENCE,
    CONTROLLER_STATE_NAME,
    DIAGNOSTICS,
    GUARD,
    JOINT_STATES,
    POLICY,
    Topic,
    camera_topics,
    sensor_qos,
)
from par_ros.view_reader import ViewReader

NAME = "par_doctor"
_LOOK_PERIOD_S = 0.5
# A busy machine needs seconds to find what is there.
_DISCOVERY_S = 5.0
_COPY = "copy the checkpoint again"


@dataclass(frozen=True)
class Needs:
    """What a run would need: the arm, and the policy's picture and step."""

    spec: ArmSpec
    joint_prefix: str
    reader: ViewReader
    views: tuple[str, ...]
    chunk_s: float

    @staticmethod
    def of(checkpoint: Path, spec: ArmSpec, joint_prefix: str) -> "Needs":
        """Raises ValueError for a checkpoint that cannot be read."""
        if is_lerobot(checkpoint):
            policy = read_lerobot_folder(checkpoint)[1]
            return Needs(
                spec, joint_prefix, ViewReader.of(policy), policy.views,
                policy.num_actions * policy.step_s,
            )  # fmt: skip
        config = from_values(read_object(checkpoint / "config.json", _COPY))
        rule = checkpoint / "camera.json"
        fit = CameraFit.from_json(read_object(rule, _COPY)) if rule.is_file() else CameraFit()
        reader = ViewReader(config.depth_views, fit, config.image_height, config.image_width)
        return Needs(
            spec, joint_prefix, reader, config.views, config.num_actions * float(config.step_s)
        )

    def range_of(self, view: str) -> str:
        """Of a depth view, which distances the policy tells apart."""
        depth = depth_view_of(self.reader.depth_views, view)
        return "" if depth is None else f", {depth.near_m:g} to {depth.far_m:g} m"


@dataclass
class Heard:
    """What came while the graph was listened to; times are the steady clock's, in seconds."""

    duration_s: float = 0.0
    num_joint_states: int = 0
    num_unusable: int = 0
    joint_reason: str = ""
    statuses: dict[str, messages.Status] = field(default_factory=dict)


class HeardCamera:
    """The camera of one view: a subscription, and the policy's own checks of its pictures.

    Attributes:
        problem: why no picture can come; empty where one can.
        picture: the last one.
        refusal: why pictures were refused, the last reason.
    """

    def __init__(
        self, node: Node, view: str, topic: Topic, transport: str, clocks: ClockReader, needs: Needs
    ) -> None:
        self.view = view
        self._clocks = clocks
        is_depth = depth_view_of(needs.reader.depth_views, view) is not None
        self._check = CameraCheck(
            CameraCheckSettings(), time.monotonic(), topic.name, is_depth=is_depth
        )
        self._assembler = ObservationAssembler(needs.spec.joint_names, AssemblerSettings())
        self.fitted = FittedSubscription(
            node, camera_candidates(node, transport, topic.name), self._take,
            sensor_qos(topic, reliable=False),
        )  # fmt: skip
        self.problem, self.refusal = "", ""
        self.picture: Picture | None = None
        self.num_pictures = self.num_refused = 0

    def _take(self, message: Picture, publisher: str) -> None:
        now = self._clocks.now()
        now_s, stamp_ns = now.steady_ns / messages.NANOSECONDS, messages.stamp_ns(message)
        self.picture = message
        self.num_pictures += 1
        # Pictures that are equal: a frozen camera shows only while the arm moves.
        self._check.see(messages.image_bytes(message), stamp_ns, None, now_s, publisher)
        refusal = (
            check_stamped(stamp_ns)
            or self._check.check_stream(now_s)
            or self._assembler.check_age(stamp_ns, now.ros_ns)
        )
        if refusal is not None:
            self.num_refused += 1
            self.refusal = refusal.reason

    def require_picture(self, duration_s: float) -> Picture:
        """The last one; raises ValueError where none has come."""
        if self.picture is None:
            raise ValueError(
                f"no picture has come on {self.fitted.candidate.topic_name} in "
                f"{duration_s:.1f} s; check the line `camera`."
            )
        return self.picture

    def check_brightness(self, picture: messages.ImageArray) -> Refusal | None:
        """The camera check's own."""
        return self._check.check_brightness(picture)


class Listener:
    """The subscriptions of a node, and the nodes' own checks behind them."""

    def __init__(
        self, node: Node, needs: Needs, *, transport: str, dry_run: bool, reference: str
    ) -> None:
        """transport, dry_run, reference: as real_arm's arguments of these names."""
        self.node, self.needs = node, needs
        self.expects_reference = not dry_run and reference != "none"
        self.heard = Heard()
        self._clocks = ClockReader(node)
        self.use_sim_time = bool(node.get_parameter("use_sim_time").value)
        defaults = RealArmNodeParameters()
        self.supervision = Supervision(
            min_joint_state_rate_hz=defaults.min_joint_state_rate_hz,
            max_guard_silence_s=defaults.max_guard_silence_s,
            dry_run=dry_run,
            use_sim_time=self.use_sim_time,
        )
        self._selector = JointStateSelector(needs.spec.joint_names, needs.joint_prefix)
        guard = GuardParameters()
        self.joints = JointWatch(
            needs.spec,
            max_age_s=guard.max_joint_state_age_s,
            max_engage_speed_rad_s=guard.max_engage_speed_rad_s,
            simulated=self.use_sim_time,
            lockstep=False,
        )
        self.queries = ControllerQueries(node, needs.spec, self.supervision)
        self.cameras = {
            view: HeardCamera(node, view, image, transport, self._clocks, needs)
            for view, (image, _) in camera_topics(needs.views).items()
        }
        node.create_subscription(
            JointState, JOINT_STATES.name, self._on_joint_state, JOINT_STATES.reader_qos.profile()
        )
        node.create_subscription(
            DiagnosticArray, DIAGNOSTICS.name, self._on_status, DIAGNOSTICS.reader_qos.profile()
        )
        self.view = CommandTopics({}, {})

    def listen(self, duration_s: float) -> None:
        """Spin until camera and joint states are found, at most _DISCOVERY_S, then for so long."""
        executor = SingleThreadedExecutor(context=self.node.context)
        executor.add_node(self.node)
        heard, cameras = self.heard, self.cameras.values()
        self._spin(
            executor,
            _DISCOVERY_S,
            lambda: (
                all(camera.picture is not None for camera in cameras) and heard.num_joint_states > 0
            ),
        )
        for camera in cameras:
            camera.num_pictures = camera.num_refused = 0
        heard.num_joint_states = heard.num_unusable = 0
        heard.duration_s = self._spin(executor, duration_s, lambda: False)
        executor.remove_node(self.node)
        executor.shutdown()

    def _spin(
        self, executor: SingleThreadedExecutor, limit_s: float, is_over: Callable[[], bool]
    ) -> float:
        """Spin until it is over, or for so long; returns the time, in seconds."""
        began_s = looked_s = now_s = time.monotonic()
        self._look()
        while now_s - began_s < limit_s and not is_over():
            executor.spin_once(timeout_sec=0.05)
            now_s = time.monotonic()
            if now_s - looked_s > _LOOK_PERIOD_S:
                looked_s = now_s
                self._look()
        self._look()
        return time.monotonic() - began_s

    def _look(self) -> None:
        for heard in self.cameras.values():
            heard.problem = heard.fitted.fit()
        self.queries.ask()
        self.view = command_topics(self.node, (NAME,))
        self.supervision.on_clock(self._clocks.now().ros_ns, time.monotonic())

    def _on_joint_state(self, message: JointState) -> None:
        now = self._clocks.now()
        try:
            taken = self._selector.take(messages.read_joint_state(message))
        except ValueError as error:
            self.supervision.on_bad_joint_state(str(error))
            return
        if isinstance(taken, MissingJoints):
            self.supervision.on_missing_joints(taken.reason)
        elif isinstance(taken, JointSample):
            self.supervision.on_joint_state(time.monotonic())
            self.heard.num_joint_states += 1
            if reason := self.joints.take(taken, now):
                self.heard.num_unusable += 1
                self.heard.joint_reason = reason

    def _on_status(self, message: DiagnosticArray) -> None:
        for status in messages.read_diagnostics(message):
            self.heard.statuses[status.name] = status


def _require(problem: str) -> None:
    if problem:
        raise ValueError(f"{problem.rstrip('.')}.")


def other_nodes(listener: Listener) -> str:
    """Who else is there."""
    _require(loneliness(listener.node))
    found = {
        f"{namespace.rstrip('/')}/{name}"
        for name, namespace in listener.node.get_node_names_and_namespaces()
    }
    return ", ".join(sorted(found - {listener.node.get_fully_qualified_name()}))


def simulated_clock(listener: Listener) -> str:
    """/clock, where use_sim_time asks for it."""
    _require(listener.supervision.clock_problem(time.monotonic()))
    return "runs" if listener.use_sim_time else "not used"


def _each_view(listener: Listener, look: Callable[[HeardCamera], str]) -> str:
    """What `look` finds of each camera; raises ValueError with what it raises, by view."""
    if len(listener.cameras) == 1:
        return look(next(iter(listener.cameras.values())))
    found, problems = [], []
    for view, heard in listener.cameras.items():
        try:
            found.append(f"view {view!r}: {look(heard)}")
        except ValueError as error:
            problems.append(f"view {view!r}: {str(error).rstrip('.')}")
    _require("; ".join(problems))
    return "; ".join(found)


def camera(listener: Listener) -> str:
    """Who publishes pictures, with which type and QoS."""

    def look(heard: HeardCamera) -> str:
        _require(heard.problem)
        candidate = heard.fitted.candidate
        endpoints = listener.node.get_publishers_info_by_topic(candidate.asked_name)
        offered = {
            "reliable" if endpoint.qos_profile.reliability == 1 else "best effort"
            for endpoint in endpoints
        }
        return (
            f"{candidate.topic_name}, {candidate.type_name}, {' and '.join(sorted(offered))}, from "
            f"{names_of(endpoints)}"
        )

    return _each_view(listener, look)


def camera_picture(listener: Listener) -> str:
    """Encoding, size and brightness of the last picture, against what the checkpoint needs."""
    needs = listener.needs

    def look(heard: HeardCamera) -> str:
        message = heard.require_picture(listener.heard.duration_s)
        picture = needs.reader.read(message, heard.view)
        fitted = needs.reader.fit(picture, heard.view)
        refusal = heard.check_brightness(fitted)
        _require("" if refusal is None else refusal.reason)
        height, width = picture.shape[:2]
        return (
            f"{messages.image_encoding(message)} of {width} x {height}, fitted to "
            f"{needs.reader.image_width} x {needs.reader.image_height}{needs.range_of(heard.view)}"
        )

    return _each_view(listener, look)


def camera_rate(listener: Listener) -> str:
    """Pictures a second; each chunk needs one when it ends."""
    least_hz = 1.0 / listener.needs.chunk_s

    def look(heard: HeardCamera) -> str:
        heard.require_picture(listener.heard.duration_s)
        rate_hz = heard.num_pictures / listener.heard.duration_s
        if rate_hz < least_hz:
            raise ValueError(
                f"pictures come at {rate_hz:.1f} Hz, at least {least_hz:.1f} Hz are needed (a "
                f"chunk lasts {listener.needs.chunk_s:g} s); check the camera's mode, the network, "
                "and fastdds_profile for large pictures."
            )
        return f"{rate_hz:.1f} Hz"

    return _each_view(listener, look)


def camera_stamps(listener: Listener) -> str:
    """Whether pictures are stamped now, by one publisher, and go on."""

    def look(heard: HeardCamera) -> str:
        heard.require_picture(listener.heard.duration_s)
        if heard.num_refused:
            raise ValueError(
                f"{heard.num_refused} of {heard.num_pictures} pictures: {heard.refusal}"
            )
        return "on this clock"

    return _each_view(listener, look)


def joint_states(listener: Listener) -> str:
    """Whether whole joint states come, and often enough."""
    _require(listener.supervision.joint_problem(listener.view, time.monotonic()))
    rate_hz = listener.heard.num_joint_states / listener.heard.duration_s
    return f"{listener.node.resolve_topic_name(JOINT_STATES.name)}, {rate_hz:.0f} Hz"


def joint_stamps(listener: Listener) -> str:
    """Whether joint states are stamped now and go on."""
    heard = listener.heard
    if heard.num_unusable:
        raise ValueError(
            f"{heard.num_unusable} of {heard.num_joint_states} joint states: {heard.joint_reason}."
        )
    _require("" if listener.joints.newest else "no joint state has come; check `joint_states`")
    return "on this clock"


def joint_limits(listener: Listener) -> str:
    """Whether the arm stands within its limits."""
    sample = listener.joints.newest
    if sample is None:
        raise ValueError("no joint state has come; check the lines `joint_states`, `joint_stamps`.")
    _require(listener.joints.why_outside(sample))
    limits, positions = listener.needs.spec.limits, sample.positions[:-1]
    margin = np.minimum(positions - limits.min_position, limits.max_position - positions).min()
    return f"all joints inside those of {listener.needs.spec.name}, the nearest by {margin:.2f} rad"


def controllers(listener: Listener) -> str:
    """Who listens to commands, who publishes them, and the controllers' states and parameters."""
    guard = messages.status_name(listener.node).removesuffix(NAME) + GUARD
    problems = listener.supervision.command_problems(listener.view, guard, time.monotonic())
    _require("; ".join(problems))
    known = "active" if listener.supervision.controllers_known else "states not known"
    return f"{known}; commands on {', '.join(listener.view.listeners)}"


def reference(listener: Listener) -> str:
    """What shows that a controller took a trajectory."""
    node = listener.node
    if not listener.expects_reference:
        return "not wanted: a dry run, or reference:=none"
    if node.get_publishers_info_by_topic(CONTROLLER_REFERENCE.name):
        return node.resolve_topic_name(CONTROLLER_REFERENCE.name)
    message_type = controller_state_type()
    name = node.resolve_topic_name(CONTROLLER_STATE_NAME)
    endpoints = node.get_publishers_info_by_topic(CONTROLLER_STATE_NAME)
    type_name = f"control_msgs/msg/{message_type.__name__}"
    reader = CONTROLLER_REFERENCE.reader_qos.profile()
    _require(topic_problem(name, endpoints, type_name, reader))
    return name


def statuses(listener: Listener) -> str:
    """What guard and policy report, where they run."""
    found = {
        name: status
        for name, status in listener.heard.statuses.items()
        if name.rsplit("/", 1)[-1] in (GUARD, POLICY)
    }
    bad = [f"{name}: {one.message}" for name, one in found.items() if one.level == messages.ERROR]
    _require("; ".join(bad))
    return "; ".join(f"{name}: {one.message}" for name, one in found.items()) or "not running"


GRAPH_CHECKS: dict[str, Callable[[Listener], str]] = {
    "other_nodes": other_nodes,
    "simulated_clock": simulated_clock,
    "camera": camera,
    "camera_picture": camera_picture,
    "camera_rate": camera_rate,
    "camera_stamps": camera_stamps,
    "joint_states": joint_states,
    "joint_stamps": joint_stamps,
    "joint_limits": joint_limits,
    "controllers": controllers,
    "reference": reference,
    "statuses": statuses,
}
