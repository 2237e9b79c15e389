# SPDX-License-Identifier: Apache-2.0
"""ROS messages <-> numpy: the only file that touches message fields.

Stamps and durations are whole nanoseconds (`stamp_ns`), so that two stamps are equal or not.
Pictures become RGB in picture_encodings.py, depth pictures metres in depth_pictures.py.
"""

import array
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage
from trajectory_msgs.msg import JointTrajectoryPoint

from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import JointTrajectory, MotionState
from par_ros.control.reference_watch import ReferenceSample
from par_ros.depth_pictures import Distances, compressed_to_metres, raw_to_metres
from par_ros.picture_encodings import (
    DEPTH_LAYOUTS,
    ImageArray,
    RawPicture,
    compressed_to_rgb,
    raw_to_rgb,
)
from par_ros.topics import message_type_name

FloatArray = npt.NDArray[np.float64]
# What a camera publishes.
Picture = Image | CompressedImage

NANOSECONDS = 1_000_000_000
# What a node converts of one trajectory: chunks have at most 64 points; the guard's
# trajectories have those, and what leads to them and the braking tail.
MAX_POINTS = 256
MAX_JOINTS = 64
# What the guard converts of one serialized message: 64 points of 8 joints with velocities and
# accelerations take 15 KiB, the states of 64 joints 4 KiB.
MAX_MESSAGE_BYTES = 65_536

# frame_id of executed_actions where the chunk is not, or no longer, followed.
_HOLDS = "held"

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Status:
    """One diagnostic status; `values` are texts, as on the wire."""

    name: str
    level: bytes
    message: str
    values: Mapping[str, str]


def time_to_ns(time: Time | Duration) -> int:
    """Whole nanoseconds of a Time or a Duration."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def ns_to_time(time_ns: int) -> Time:
    """builtin_interfaces/Time of `time_ns`."""
    seconds, nanoseconds = divmod(time_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def ns_to_duration(duration_ns: int) -> Duration:
    """builtin_interfaces/Duration of `duration_ns`."""
    seconds, nanoseconds = divmod(duration_ns, NANOSECONDS)
    return Duration(sec=seconds, nanosec=nanoseconds)


def seconds_to_ns(seconds: float) -> int:
    """The nearest whole nanosecond."""
    return round(seconds * NANOSECONDS)


def stamp_ns(message: Any) -> int:
    """Header stamp of any stamped message."""
    return time_to_ns(message.header.stamp)


def image_bytes(message: Picture) -> ImageArray:
    """uint8 [N]: a view of the picture's bytes, in any encoding."""
    return np.frombuffer(message.data, np.uint8) if len(message.data) else np.zeros(0, np.uint8)


def image_to_rgb(message: Picture) -> ImageArray:
    """uint8 [H, W, 3] RGB of a colour picture; not to be written into.

    Raises ValueError, before anything is converted, for what is not colour and for a size, step or
    length that contradict each other.
    """
    if isinstance(message, CompressedImage):
        return compressed_to_rgb(image_bytes(message), message.format)
    return raw_to_rgb(_raw_picture(message))


def image_to_metres(message: Picture) -> Distances:
    """float32 [H, W], m, of a depth picture; 0, NaN and Inf where nothing was measured.

    Raises ValueError as image_to_rgb, for what is not depth.
    """
    if isinstance(message, CompressedImage):
        return compressed_to_metres(image_bytes(message), message.format)
    return raw_to_metres(_raw_picture(message))


def is_depth(message: Picture) -> bool:
    """Whether a picture says that it holds distances."""
    return image_encoding(message).partition(";")[0].strip() in DEPTH_LAYOUTS


def _raw_picture(message: Image) -> RawPicture:
    return RawPicture(
        data=image_bytes(message),
        encoding=message.encoding,
        height=message.height,
        width=message.width,
        step=message.step,
        is_bigendian=bool(message.is_bigendian),
    )


def image_encoding(message: Picture) -> str:
    """How its colours are stored: an encoding, or a compressed picture's format."""
    return str(message.format if isinstance(message, CompressedImage) else message.encoding)


def array_to_image(picture: npt.NDArray[Any], encoding: str, time_ns: int, frame_id: str) -> Image:
    """A message of `picture`: [H, W, C] or [H, W], in the encoding's element type."""
    contiguous = np.ascontiguousarray(picture)
    data = array.array("B")
    # The generated setter checks any other type element by element: 700 times slower.
    data.frombytes(contiguous.data.cast("B"))
    return Image(
        header=_header(time_ns, frame_id),
        height=picture.shape[0],
        width=picture.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=contiguous[0].nbytes,
        data=data,
    )


def camera_info(
    camera_matrix: FloatArray, height: int, width: int, time_ns: int, frame_id: str
) -> CameraInfo:
    """Intrinsics of a camera without distortion. camera_matrix: float64 [3, 3], pixels."""
    projection = np.hstack([camera_matrix, np.zeros((3, 1))])
    return CameraInfo(
        header=_header(time_ns, frame_id),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=camera_matrix.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )


def joint_state_message(
    joint_names: tuple[str, ...], positions: FloatArray, velocities: FloatArray, time_ns: int
) -> JointState:
    """positions, velocities: float64 [J]."""
    return JointState(
        header=_header(time_ns, ""),
        name=list(joint_names),
        position=array.array("d", positions.tobytes()),
        velocity=array.array("d", velocities.tobytes()),
    )


def read_joint_state(message: JointState) -> JointReading:
    """What the message says, unchecked: JointStateSelector picks the arm's joints and checks them.

    velocities is None unless the message has exactly one for each name.
    """
    names = tuple(message.name)
    velocities = None
    if len(message.velocity) == len(names):
        velocities = np.array(message.velocity, dtype=np.float64)
    positions = np.array(message.position, dtype=np.float64)
    return JointReading(stamp_ns(message), names, positions, velocities)


def joint_trajectory_message(
    trajectory: JointTrajectory, time_ns: int, *, joint_prefix: str = "", frame_id: str = ""
) -> JointTrajectoryMessage:
    """A message of `trajectory`, stamped `time_ns` (0: it starts when it is picked up)."""
    points = []
    for row, time_s in enumerate(trajectory.times_s.tolist()):
        point = JointTrajectoryPoint(
            positions=array.array("d", trajectory.positions[row].tobytes()),
            time_from_start=ns_to_duration(seconds_to_ns(time_s)),
        )
        if trajectory.velocities is not None:
            point.velocities = array.array("d", trajectory.velocities[row].tobytes())
        if trajectory.accelerations is not None:
            point.accelerations = array.array("d", trajectory.accelerations[row].tobytes())
        points.append(point)
    return JointTrajectoryMessage(
        header=_header(time_ns, frame_id),
        joint_names=[joint_prefix + name for name in trajectory.joint_names],
        points=points,
    )


def executed_message(
    executed: JointTrajectory, stamp_ns: int, *, holds: bool
) -> JointTrajectoryMessage:
    """executed_actions for the chunk of `stamp_ns`; frame_id "held" says that it is held."""
    return joint_trajectory_message(executed, stamp_ns, frame_id=_HOLDS if holds else "")


def tells_hold(message: JointTrajectoryMessage) -> bool:
    """Whether an executed_actions message reports a hold or a stop."""
    return bool(message.header.frame_id == _HOLDS)


def deserialize_chunk(data: bytes) -> JointTrajectoryMessage:
    """An action chunk as it came over the wire.

    Raises ValueError for bytes that are no such message, and, before anything is converted, for
    more than MAX_MESSAGE_BYTES.
    """
    message: JointTrajectoryMessage = _deserialize(data, JointTrajectoryMessage, "a chunk")
    return message


def deserialize_joint_state(data: bytes) -> JointState:
    """A joint_states message as it came over the wire.

    Raises ValueError for bytes that are no such message, and, before anything is converted, for
    more than MAX_MESSAGE_BYTES.
    """
    message: JointState = _deserialize(data, JointState, "a joint_states message")
    return message


def deserialize_reference(data: bytes, message_type: Any) -> Any:
    """A controller's report as it came over the wire, for read_reference or read_controller_state.

    Raises ValueError for bytes that are no such message, and, before anything is converted, for
    more than MAX_MESSAGE_BYTES.
    """
    return _deserialize(data, message_type, "a controller's report")


def _deserialize(data: bytes, message_type: Any, what: str) -> Any:
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"{what} may take at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}; check the sender."
        )
    return deserialize(data, message_type, what)


def deserialize(data: bytes, message_type: Any, what: str) -> Any:
    """A message of any size as it came over the wire; `what` it is for the ValueError's sentence.

    Raises ValueError for bytes that are no such message.
    """
    try:
        return deserialize_message(data, message_type)
    except RuntimeError as error:
        # RMWError: rclpy's errors have no other base in common.
        raise ValueError(
            f"{what} must be serialized as a {message_type_name(message_type)}, got {len(data)} "
            "bytes that are not; check the sender, and that both use the same version of the type."
        ) from error


def read_joint_trajectory(
    message: JointTrajectoryMessage, max_points: int = MAX_POINTS
) -> JointTrajectory:
    """The points as arrays; their values are not checked here.

    Raises ValueError, before anything is converted, for more than `max_points` points or
    MAX_JOINTS joints; and for what has no rectangular form: no points, or points whose positions,
    velocities or accelerations differ in number from the joints.
    """
    for what, count, most in (
        ("points", len(message.points), max_points),
        ("joints", len(message.joint_names), MAX_JOINTS),
    ):
        if count > most:
            raise ValueError(
                f"a trajectory may have at most {most} {what}, got {count}; check the sender."
            )
    names = tuple(message.joint_names)
    if not message.points:
        raise ValueError("a trajectory needs at least one point, got none; check the sender.")
    return JointTrajectory(
        joint_names=names,
        times_s=np.array(
            [time_to_ns(point.time_from_start) / NANOSECONDS for point in message.points]
        ),
        positions=_point_rows(message, "positions", len(names)),
        velocities=_optional_point_rows(message, "velocities", len(names)),
        accelerations=_optional_point_rows(message, "accelerations", len(names)),
    )


def reference_message(
    joint_names: tuple[str, ...], command: MotionState, time_ns: int
) -> JointTrajectoryMessage:
    """What a simulated arm's controller commands at `time_ns`: one point."""
    trajectory = JointTrajectory(
        joint_names,
        np.zeros(1),
        command.positions[None],
        command.velocities[None],
        command.accelerations[None],
    )
    return joint_trajectory_message(trajectory, time_ns)


def read_reference(
    message: JointTrajectoryMessage, joint_names: tuple[str, ...]
) -> ReferenceSample:
    """The reference of `joint_names`, in this order.

    Raises ValueError where it is not one whole point of these joints.
    """
    trajectory = read_joint_trajectory(message)
    if sorted(trajectory.joint_names) != sorted(joint_names) or len(trajectory.times_s) != 1:
        raise ValueError(
            f"the controller's reference must be one point of {list(joint_names)}, got "
            f"{len(trajectory.times_s)} of {list(trajectory.joint_names)}; check the remapping."
        )
    if trajectory.velocities is None or trajectory.accelerations is None:
        raise ValueError(
            "the controller's reference must have velocities and accelerations, got none."
        )
    ordered = trajectory.reordered(joint_names)
    assert ordered.velocities is not None
    assert ordered.accelerations is not None
    return ReferenceSample(
        stamp_ns(message), ordered.positions[0], ordered.velocities[0], ordered.accelerations[0]
    )


def read_controller_state(message: Any, joint_names: tuple[str, ...]) -> ReferenceSample:
    """The reference in a control_msgs/JointTrajectoryControllerState, in the order of the names.

    Velocities or accelerations that the controller leaves empty count as zero. Raises ValueError
    where a joint is missing, where positions, velocities or accelerations differ in number from the
    joints, and where the speed scaling is not finite.
    """
    names = list(message.joint_names)
    if not set(joint_names) <= set(names):
        raise ValueError(
            f"controller_state must hold {list(joint_names)}, got {names}; check that it is the "
            "arm controller's."
        )
    columns = [names.index(name) for name in joint_names]
    # Humble called it `desired`.
    point = message.reference if hasattr(message, "reference") else message.desired
    rows = []
    for part in ("positions", "velocities", "accelerations"):
        values = getattr(point, part)
        if len(values) == 0 and part != "positions":
            values = np.zeros(len(names))
        if len(values) != len(names):
            raise ValueError(
                f"controller_state must have one entry of its reference's {part} for each of "
                f"{len(names)} joints, got {len(values)}; check the controller."
            )
        rows.append(np.array(values, dtype=np.float64)[columns])
    scaling = float(getattr(message, "speed_scaling_factor", 1.0))
    if not np.isfinite(scaling):
        raise ValueError(
            f"the speed scaling of controller_state must be finite, got {scaling}; check the "
            "controller and the robot's driver."
        )
    return ReferenceSample(stamp_ns(message), rows[0], rows[1], rows[2], scaling)


def clock_message(time_ns: int) -> Clock:
    """rosgraph_msgs/Clock of `time_ns`."""
    return Clock(clock=ns_to_time(time_ns))


def status_name(node: Node) -> str:
    """What a node calls itself on /diagnostics: safety_node, or left/safety_node in a namespace."""
    return str(node.get_fully_qualified_name()).lstrip("/")


def status_message(status: Status) -> DiagnosticStatus:
    """diagnostic_msgs/DiagnosticStatus of `status`."""
    return DiagnosticStatus(
        level=status.level,
        name=status.name,
        message=status.message,
        values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
    )


def read_status(message: DiagnosticStatus) -> Status:
    """The inverse of `status_message`."""
    values = {pair.key: pair.value for pair in message.values}
    return Status(message.name, message.level, message.message, values)


def diagnostics_message(statuses: tuple[Status, ...], time_ns: int) -> DiagnosticArray:
    """diagnostic_msgs/DiagnosticArray for the topic /diagnostics."""
    return DiagnosticArray(
        header=_header(time_ns, ""), status=[status_message(status) for status in statuses]
    )


def read_diagnostics(message: DiagnosticArray) -> tuple[Status, ...]:
    """The inverse of `diagnostics_message`."""
    return tuple(read_status(status) for status in message.status)


def _header(time_ns: int, frame_id: str) -> Header:
    return Header(stamp=ns_to_time(time_ns), frame_id=frame_id)


def _point_rows(message: JointTrajectoryMessage, field: str, num_joints: int) -> FloatArray:
    rows = [getattr(point, field) for point in message.points]
    for index, row in enumerate(rows):
        if len(row) != num_joints:
            raise ValueError(
                f"trajectory point {index} must carry {num_joints} {field}, one for each of its "
                f"joints, got {len(row)}; check the sender."
            )
    return np.array(rows, dtype=np.float64).reshape(len(rows), num_joints)


def _optional_point_rows(
    message: JointTrajectoryMessage, field: str, num_joints: int
) -> FloatArray | None:
    if all(len(getattr(point, field)) == 0 for point in message.points):
        return None
    return _point_rows(message, field, num_joints)
