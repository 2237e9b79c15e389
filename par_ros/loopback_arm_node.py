# SPDX-License-Identifier: Apache-2.0
"""A simulated arm that follows its command exactly. For first runs and tests of the guard.

Publishes joint_states and controller_reference at every control cycle, a synthetic picture that
depends on the joints, and camera_info; follows joint_trajectory and gripper_trajectory by
joint_trajectory_controller's replacement rule. Its control cycle runs on the monotonic clock, as a
controller with a steady trigger does: a stepping node clock moves the stamps, not the arm.
"""

from dataclasses import dataclass

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.trajectory_follower import TrajectoryFollower
from par_ros.leaving import leave
from par_ros.parameters import LoopbackArmParameters, declare, read_arm_spec
from par_ros.process import ClockReader, run_node
from par_ros.topics import (
    CONTROLLER_REFERENCE,
    GRIPPER_TRAJECTORY,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    camera_topics,
    view_names,
)

_BAR_COLOURS = np.array(
    [
        [214, 69, 65], [232, 126, 4], [247, 202, 24], [38, 166, 91],
        [27, 188, 155], [52, 152, 219], [142, 68, 173], [108, 122, 137],
    ],
    dtype=np.uint8,
)  # fmt: skip
_BACKGROUND = np.uint8(235)
_NEAREST_MM = np.uint16(600)


@dataclass(frozen=True)
class JointRange:
    """Smallest and largest position of each joint of the picture, float64 [J]."""

    low: FloatArray
    high: FloatArray

    @staticmethod
    def of(spec: ArmSpec) -> "JointRange":
        """The arm's position limits and the gripper's target range."""
        return JointRange(
            np.append(spec.limits.min_position, spec.gripper.min_target_m),
            np.append(spec.limits.max_position, spec.gripper.max_target_m),
        )


def draw_joints(
    positions: FloatArray, joint_range: JointRange, height: int, width: int
) -> messages.ImageArray:
    """One bar a joint, as long as the joint is far into its range; uint8 [height, width, 3]."""
    share = np.clip((positions - joint_range.low) / (joint_range.high - joint_range.low), 0.0, 1.0)
    row_joint = np.arange(height) * len(positions) // height
    length = np.round(share * width)[row_joint]
    filled = np.arange(width)[None, :] < length[:, None]
    colours = _BAR_COLOURS[row_joint % len(_BAR_COLOURS)]
    return np.where(filled[:, :, None], colours[:, None, :], _BACKGROUND)


class LoopbackArmNode(Node):
    """Follows trajectories, and publishes joints, reference and a drawn picture."""

    def __init__(self) -> None:
        super().__init__("loopback_arm_node")
        self._settings = declare(self, LoopbackArmParameters)
        self._spec = read_arm_spec(self._settings.arm)
        self._range = JointRange.of(self._spec)
        self._clocks = ClockReader(self)
        gripper = self._spec.gripper
        open_m = np.array([gripper.max_target_m])
        prefix = self._settings.joint_prefix
        self._names = tuple(prefix + name for name in self._spec.joint_names)
        self._arm = TrajectoryFollower(self._names[:-1], self._spec.home)
        self._gripper = TrajectoryFollower(
            (prefix + gripper.command_joint_name,), gripper.command(open_m)
        )
        self._create_outputs()
        for topic, follower in (
            (JOINT_TRAJECTORY, self._arm),
            (GRIPPER_TRAJECTORY, self._gripper),
        ):
            self.create_subscription(
                JointTrajectoryMessage,
                topic.name,
                lambda message, follower=follower: self._on_trajectory(message, follower),
                topic.reader_qos.profile(),
            )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self._settings.rate_hz, self._cycle, clock=steady)
        if self._settings.publish_images:
            period_s = 1.0 / self._settings.image_rate_hz
            self.create_timer(period_s, self._publish_picture, clock=steady)

    def _create_outputs(self) -> None:
        self._joint_states = self.create_publisher(
            JointState, JOINT_STATES.name, JOINT_STATES.writer_qos.profile()
        )
        self._reference = self.create_publisher(
            JointTrajectoryMessage,
            CONTROLLER_REFERENCE.name,
            CONTROLLER_REFERENCE.writer_qos.profile(),
        )
        depth = view_names(self._settings.depth_views)
        self._cameras = [
            (
                view in depth,
                *(
                    self.create_publisher(one.message_type, one.name, one.writer_qos.profile())
                    for one in pair
                ),
            )
            for view, pair in camera_topics(view_names(self._settings.views)).items()
        ]

    def _on_trajectory(self, message: JointTrajectoryMessage, follower: TrajectoryFollower) -> None:
        moment = self._clocks.now()
        steady_ns = moment.steady_ns
        stamp_ns = messages.stamp_ns(message)
        if stamp_ns != 0:
            # The same moment on the clock that the control cycle runs on.
            stamp_ns -= moment.offset_ns
        try:
            trajectory = messages.read_joint_trajectory(message)
            follower.follow(trajectory, stamp_ns, steady_ns)
        except ValueError as error:
            # As the controller does: it logs, and the old trajectory goes on.
            self.get_logger().error(f"trajectory rejected: {error}")

    def _cycle(self) -> None:
        moment = self._clocks.now()
        self._arm.sample(moment.steady_ns)
        self._gripper.sample(moment.steady_ns)
        self._joint_states.publish(
            messages.joint_state_message(
                self._names, self._positions(), self._velocities(), moment.ros_ns
            )
        )
        self._reference.publish(
            messages.reference_message(self._names[:-1], self._arm.command, moment.ros_ns)
        )

    def _publish_picture(self) -> None:
        height, width = self._settings.image_height, self._settings.image_width
        picture = draw_joints(self._positions(), self._range, height, width)
        now_ns = self._now_ns()
        frame_id = self._spec.camera_frame
        focal_px = float(width)
        matrix = np.array(
            [[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]]
        )
        # Every camera sees the same; the distances [mm] of a depth camera follow its brightness.
        distances = picture.mean(axis=2).astype(np.uint16) + _NEAREST_MM
        for is_depth, images, camera_infos in self._cameras:
            seen = (distances, "16UC1") if is_depth else (picture, "rgb8")
            images.publish(messages.array_to_image(*seen, now_ns, frame_id))
            camera_infos.publish(messages.camera_info(matrix, height, width, now_ns, frame_id))

    def _positions(self) -> FloatArray:
        finger_m = self._spec.gripper.target(self._gripper.command.positions)
        return np.concatenate((self._arm.command.positions, finger_m))

    def _velocities(self) -> FloatArray:
        finger_m_s = self._gripper.command.velocities / self._spec.gripper.command_scale
        return np.concatenate((self._arm.command.velocities, finger_m_s))

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> int:
    """Entry point of the executable loopback_arm_node."""
    return run_node(LoopbackArmNode)


if __name__ == "__main__":
    leave(main())
