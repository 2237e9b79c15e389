# SPDX-License-Identifier: Apache-2.0
"""Pictures of 4 x 5 pixels (encodings: test_picture_encodings.py); the trajectories have 8 points
of 8 joints, 0.05 s apart."""

import array
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage
from trajectory_msgs.msg import JointTrajectoryPoint

from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory, MotionState

STAMP_NS = 12_345_678_901


def random_picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def test_picture_survives_the_message() -> None:
    picture = random_picture()
    message = messages.array_to_image(picture, "rgb8", STAMP_NS, "camera")
    assert (message.height, message.width, message.encoding) == (4, 5, "rgb8")
    assert message.step == picture[0].nbytes
    assert messages.stamp_ns(message) == STAMP_NS
    np.testing.assert_array_equal(messages.image_to_rgb(message), picture)


def test_unpadded_picture_is_read_without_a_copy() -> None:
    message = messages.array_to_image(random_picture(), "rgb8", 0, "")
    first = messages.image_to_rgb(message)
    message.data[0] ^= 0xFF
    assert first[0, 0, 0] == message.data[0]


def test_picture_written_from_a_slice() -> None:
    picture = random_picture()[::2, ::-1]
    message = messages.array_to_image(picture, "rgb8", 0, "")
    np.testing.assert_array_equal(messages.image_to_rgb(message), picture)


def test_trajectory_is_exact_to_the_last_bit() -> None:
    rng = np.random.default_rng(2)
    trajectory = JointTrajectory(
        joint_names=tuple(f"joint{index}" for index in range(8)),
        times_s=0.05 * np.arange(1, 9),
        positions=rng.standard_normal((8, 8)),
        velocities=rng.standard_normal((8, 8)),
    )
    message = messages.joint_trajectory_message(trajectory, STAMP_NS)
    read = messages.read_joint_trajectory(message)
    assert read.joint_names == trajectory.joint_names
    np.testing.assert_array_equal(read.positions, trajectory.positions)
    np.testing.assert_array_equal(read.velocities, trajectory.velocities)
    assert read.accelerations is None
    assert messages.stamp_ns(message) == STAMP_NS
    last = message.points[-1].time_from_start
    assert messages.time_to_ns(last) == 400_000_000


def test_ragged_trajectory_is_refused() -> None:
    trajectory = JointTrajectory(("a", "b"), np.array([0.05, 0.1]), np.zeros((2, 2)))
    message = messages.joint_trajectory_message(trajectory, 0)
    message.points[1].positions = array.array("d", [0.0])
    with pytest.raises(ValueError, match=r"point 1 must carry 2 positions.*got 1"):
        messages.read_joint_trajectory(message)


@pytest.mark.parametrize(
    ("num_points", "num_joints", "sentence"),
    [(257, 1, "at most 256 points, got 257"), (1, 65, "at most 64 joints, got 65")],
)
def test_a_trajectory_beyond_all_use_is_refused_before_it_is_converted(
    monkeypatch: pytest.MonkeyPatch, num_points: int, num_joints: int, sentence: str
) -> None:
    """The guard reads chunks in the thread that keeps the arm's deadlines."""

    def convert(*_: object) -> None:
        raise AssertionError("a point was converted")

    monkeypatch.setattr(messages, "_point_rows", convert)
    monkeypatch.setattr(messages, "time_to_ns", convert)
    message = JointTrajectoryMessage(
        joint_names=[f"joint{index}" for index in range(num_joints)],
        points=[JointTrajectoryPoint() for _ in range(num_points)],
    )
    with pytest.raises(ValueError, match=sentence):
        messages.read_joint_trajectory(message)


def test_the_largest_trajectory_is_read() -> None:
    times_s = 0.01 * np.arange(1, messages.MAX_POINTS + 1)
    names = tuple(f"joint{index}" for index in range(messages.MAX_JOINTS))
    trajectory = JointTrajectory(names, times_s, np.zeros((len(times_s), len(names))))
    message = messages.joint_trajectory_message(trajectory, 0)
    assert messages.read_joint_trajectory(message).positions.shape == (256, 64)
    longer = JointTrajectory(("a",), 0.05 * np.arange(1, 1001), np.zeros((1000, 1)))
    message = messages.joint_trajectory_message(longer, 0)
    assert messages.read_joint_trajectory(message, max_points=1000).duration_s == 50.0


def test_empty_trajectory_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        messages.read_joint_trajectory(JointTrajectoryMessage(joint_names=["a"]))


def test_nan_survives_for_the_guard_to_refuse() -> None:
    positions = np.array([[np.nan, 1.0]])
    trajectory = JointTrajectory(("a", "b"), np.array([0.05]), positions)
    message = messages.joint_trajectory_message(trajectory, 0)
    assert np.isnan(messages.read_joint_trajectory(message).positions[0, 0])


def test_joint_state_there_and_back() -> None:
    positions, velocities = np.array([0.1, -2.0]), np.array([0.0, 3.0])
    message = messages.joint_state_message(("a", "b"), positions, velocities, STAMP_NS)
    sample = messages.read_joint_state(message)
    assert (sample.stamp_ns, sample.names) == (STAMP_NS, ("a", "b"))
    np.testing.assert_array_equal(sample.positions, positions)
    np.testing.assert_array_equal(sample.velocities, velocities)


def test_velocities_of_another_length_are_dropped() -> None:
    message = JointState(name=["a", "b"], position=[0.0], velocity=[1.0])
    reading = messages.read_joint_state(message)
    assert (len(reading.positions), reading.velocities) == (1, None)


@pytest.mark.parametrize("time_ns", [0, 1, 999_999_999, 1_000_000_000, 2**31 * 10**9 - 1])
def test_nanoseconds_are_exact(time_ns: int) -> None:
    assert messages.time_to_ns(messages.ns_to_time(time_ns)) == time_ns
    assert messages.time_to_ns(messages.ns_to_duration(time_ns)) == time_ns


def test_status_there_and_back() -> None:
    status = messages.Status("/policy_node", messages.WARN, "late", {"holds": "3", "x": ""})
    message = messages.diagnostics_message((status,), STAMP_NS)
    assert messages.read_diagnostics(message) == (status,)


def test_camera_info_holds_the_matrix() -> None:
    matrix = np.array([[190.0, 0.0, 64.0], [0.0, 190.0, 64.0], [0.0, 0.0, 1.0]])
    message = messages.camera_info(matrix, 128, 128, STAMP_NS, "camera")
    np.testing.assert_array_equal(np.reshape(message.k, (3, 3)), matrix)
    np.testing.assert_array_equal(np.reshape(message.p, (3, 4))[:, :3], matrix)


def controller_state(**points: JointTrajectoryPoint) -> SimpleNamespace:
    """control_msgs/JointTrajectoryControllerState, as far as it is read; stamped 7.5 s."""
    header = Header(stamp=Time(sec=7, nanosec=500_000_000))
    return SimpleNamespace(header=header, joint_names=["b", "other", "a"], **points)


@pytest.mark.parametrize("field", ["reference", "desired"])
def test_a_controller_s_reference_is_read_in_the_arm_s_order(field: str) -> None:
    """`desired` is Humble's name. No accelerations count as zero, no scaling as full speed."""
    point = JointTrajectoryPoint(positions=[2.0, 9.0, 1.0], velocities=[0.2, 0.9, 0.1])
    sample = messages.read_controller_state(controller_state(**{field: point}), ("a", "b"))
    assert sample.stamp_ns == 7_500_000_000
    np.testing.assert_array_equal(sample.positions, [1.0, 2.0])
    np.testing.assert_array_equal(sample.velocities, [0.1, 0.2])
    np.testing.assert_array_equal(sample.accelerations, [0.0, 0.0])
    assert sample.speed_scaling == 1.0


def test_a_slowed_controller_says_so() -> None:
    state = controller_state(reference=JointTrajectoryPoint(positions=[2.0, 9.0, 1.0]))
    state.speed_scaling_factor = 0.5
    assert messages.read_controller_state(state, ("a", "b")).speed_scaling == 0.5


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({}, "reference's positions for each of 3 joints, got 0"),
        ({"positions": [1.0, 2.0]}, "reference's positions for each of 3 joints, got 2"),
        ({"velocities": [0.1]}, "reference's velocities for each of 3 joints, got 1"),
        ({"accelerations": [0.1] * 4}, "reference's accelerations for each of 3 joints, got 4"),
    ],
)
def test_a_reference_of_a_wrong_length_is_refused(
    point: dict[str, list[float]], sentence: str
) -> None:
    positions = {} if not point else {"positions": [2.0, 9.0, 1.0]}
    state = controller_state(reference=JointTrajectoryPoint(**(positions | point)))
    with pytest.raises(ValueError, match=sentence):
        messages.read_controller_state(state, ("a", "b"))


@pytest.mark.parametrize("scaling", [float("nan"), float("inf")])
def test_a_speed_scaling_that_is_not_finite_is_refused(scaling: float) -> None:
    state = controller_state(reference=JointTrajectoryPoint(positions=[2.0, 9.0, 1.0]))
    state.speed_scaling_factor = scaling
    with pytest.raises(ValueError, match="speed scaling of controller_state must be finite"):
        messages.read_controller_state(state, ("a", "b"))


@pytest.mark.parametrize("num_bytes", [0, 3, 4, 20, 60])
def test_bytes_that_are_not_the_type_are_one_sentence(num_bytes: int) -> None:
    """A message that was cut off."""
    state = MotionState(np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([3.0, 4.0]))
    chunk = messages.reference_message(("a", "b"), state, STAMP_NS)
    joints = messages.joint_state_message(("a", "b"), np.zeros(2), np.zeros(2), STAMP_NS)
    for read, message in (
        (messages.deserialize_chunk, chunk),
        (messages.deserialize_joint_state, joints),
        (lambda data: messages.deserialize_reference(data, JointTrajectoryMessage), chunk),
    ):
        data = serialize_message(message)
        assert read(data) == message
        with pytest.raises(ValueError, match=f"got {num_bytes} bytes that are not") as caught:
            read(data[:num_bytes])
        assert "\n" not in str(caught.value)


def test_another_controller_s_state_is_named() -> None:
    state = controller_state(reference=JointTrajectoryPoint(positions=[2.0, 9.0, 1.0]))
    with pytest.raises(ValueError, match="check that it is the arm controller's"):
        messages.read_controller_state(state, ("a", "c"))


def test_a_simulated_arm_s_reference_is_read_as_it_was_written() -> None:
    state = MotionState(np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([3.0, 4.0]))
    message = messages.reference_message(("a", "b"), state, 7_500_000_000)
    sample = messages.read_reference(message, ("b", "a"))
    assert sample.stamp_ns == 7_500_000_000
    np.testing.assert_array_equal(sample.positions, [2.0, 1.0])
    np.testing.assert_array_equal(sample.accelerations, [4.0, 3.0])
    with pytest.raises(ValueError, match="must be one point of"):
        messages.read_reference(message, ("a", "c"))
