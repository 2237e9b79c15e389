# SPDX-License-Identifier: Apache-2.0
"""A policy without a network: all joints swing back and forth. For the fault suite.

`python -m par_ros.proof.scripted_policy` runs it as a process of its own, to be killed or stopped.
"""

import sys

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.parameters import read_arm_spec
from par_ros.process import run_node
from par_ros.topics import ACTION_CHUNK, JOINT_STATES

CHUNK_S = GuardSettings().chunk_s
KNOT_TIMES_S = GuardSettings().knot_times_s
_SWING_RAD = 0.15
_PERIOD_S = 3.0


class Swing:
    """Positions of all joints over time: from `begin` [J] at rest, 0.3 rad out and back."""

    def __init__(self, begin: FloatArray, home: FloatArray, finger_m: float) -> None:
        """Each joint swings towards `home` [J]: many swings in a row do not leave the limits."""
        self._begin = begin
        self._direction = np.where(begin > home, -1.0, 1.0)
        self._finger_m = finger_m

    def knots(self, time_s: float, times_s: FloatArray = KNOT_TIMES_S) -> FloatArray:
        """The knots [L, J + 1] at `times_s` of the chunk that starts at `time_s`."""
        phase = 2.0 * np.pi / _PERIOD_S * (time_s + times_s)
        swing = _SWING_RAD * (1.0 - np.cos(phase))
        arm = self._begin + np.outer(swing, self._direction)
        return np.column_stack((arm, np.full(len(times_s), self._finger_m)))


def chunk_message(spec: ArmSpec, knots: FloatArray, stamp_ns: int) -> JointTrajectoryMessage:
    """The action_chunk of these knots [L, J + 1]."""
    times_s = GuardSettings(num_actions=len(knots)).knot_times_s
    trajectory = JointTrajectory(spec.joint_names, times_s, knots)
    return messages.joint_trajectory_message(trajectory, stamp_ns)


class ScriptedPolicyNode(Node):
    """Publishes a chunk every CHUNK_S from the first joint state on."""

    def __init__(self) -> None:
        super().__init__("scripted_policy")
        self._spec = read_arm_spec("panda")
        self._selector = JointStateSelector(self._spec.joint_names)
        self._swing: Swing | None = None
        self._num_chunks = 0
        self._chunks = self.create_publisher(
            JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
        )
        self.create_subscription(
            JointState, JOINT_STATES.name, self._on_joint_state, JOINT_STATES.reader_qos.profile()
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(CHUNK_S, self._publish, clock=steady)

    def _on_joint_state(self, message: JointState) -> None:
        if self._swing is None:
            sample = self._selector.take(messages.read_joint_state(message))
            if not isinstance(sample, JointSample):
                return
            finger_m = float(sample.positions[-1])
            self._swing = Swing(sample.positions[:-1], self._spec.home, finger_m)

    def _publish(self) -> None:
        if self._swing is None:
            return
        knots = self._swing.knots(CHUNK_S * self._num_chunks)
        self._num_chunks += 1
        now_ns = self.get_clock().now().nanoseconds
        self._chunks.publish(chunk_message(self._spec, knots, now_ns))


if __name__ == "__main__":
    sys.exit(run_node(ScriptedPolicyNode))
