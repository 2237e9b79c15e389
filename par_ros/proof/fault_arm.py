# SPDX-License-Identifier: Apache-2.0
"""The arm of the fault suite: a controller at 1 kHz, and the faults that the suite asks for.

`python -m par_ros.proof.fault_arm`. Takes joint_trajectory, publishes joint_states and
controller_reference a hundred times a second, and writes the command of every control cycle to the
file named in PAR_FAULT_CYCLES: rows of 64-bit floats, the cycle's number and J positions.
"""

import os
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, MotionState
from par_ros.parameters import read_arm_spec
from par_ros.process import read_together, run_node
from par_ros.proof.fault_controller import PERIOD_NS, FaultController, Waiting
from par_ros.proof.fault_joint_states import FaultJointStates
from par_ros.proof.fault_world import (
    ARM_EVENTS,
    ARM_WORLD,
    CYCLES_VARIABLE,
    ArmEvent,
    ArmWorld,
    OwnStep,
    PickUp,
    Stall,
    WorldTaken,
    event_text,
)
from par_ros.topics import (
    CONTROLLER_REFERENCE,
    GRIPPER_TRAJECTORY,
    JOINT_STATES,
    JOINT_TRAJECTORY,
)

_RATE_HZ = 100.0
_NUM_CLOCK_READS = 2000
_HISTORY = 1000
MIN_STALL_S = 0.1
_GRIPPER_M = 0.04


def system_offset_ns() -> int:
    """The system's clock minus the steady clock: the reading with the least between the two."""
    least_ns, offset_ns = 1 << 62, 0
    for _ in range(_NUM_CLOCK_READS):
        before_ns = time.monotonic_ns()
        now_ns = time.time_ns()
        bracket_ns = time.monotonic_ns() - before_ns
        if bracket_ns < least_ns:
            least_ns, offset_ns = bracket_ns, now_ns - before_ns - bracket_ns // 2
    return offset_ns


class FaultArmNode(Node):
    """The arm process: controller, joint states and reference."""

    def __init__(self) -> None:
        super().__init__("fault_arm")
        self._spec = read_arm_spec("panda")
        self._world = ArmWorld()
        self._system_offset_ns = system_offset_ns()
        now_ns = time.monotonic_ns()
        self._controller = FaultController(self._spec.arm_joint_names, self._spec.home, now_ns)
        self._history = np.tile(self._spec.home, (_HISTORY, 1))
        self._random = random.Random(0)
        self._file = os.open(os.environ[CYCLES_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._events = self.create_publisher(String, ARM_EVENTS, 100)
        self._states = self._make_joint_states()
        # A second source of joint states is a publisher of its own.
        self._second = self._make_joint_states()
        self._joints = FaultJointStates(self._spec)
        self._reference = self.create_publisher(
            JointTrajectoryMessage,
            CONTROLLER_REFERENCE.name,
            CONTROLLER_REFERENCE.writer_qos.profile(),
        )
        self._trajectories = self.create_subscription(
            JointTrajectoryMessage,
            JOINT_TRAJECTORY.name,
            self._on_trajectory,
            JOINT_TRAJECTORY.reader_qos.profile(),
        )
        # Nothing is judged of the gripper; a supervisor asks whether its controller is there.
        self.create_subscription(
            JointTrajectoryMessage,
            GRIPPER_TRAJECTORY.name,
            lambda _: None,
            GRIPPER_TRAJECTORY.reader_qos.profile(),
        )
        self.create_subscription(String, ARM_WORLD, self._on_world, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / _RATE_HZ, self._on_timer, clock=steady)

    def _make_joint_states(self) -> Publisher:
        return self.create_publisher(
            JointState, JOINT_STATES.name, JOINT_STATES.writer_qos.profile()
        )

    # Inputs.

    def _on_world(self, message: String) -> None:
        self._catch_up()
        speed, self._world = self._world.speed, ArmWorld.of_text(message.data)
        self._joints.begin()
        if self._world.speed != speed:
            self._say(OwnStep(self._controller.cycle + 1))
        if self._world.holds_measured:
            self._controller.stand_at(self._measured())
            self._say(OwnStep(self._controller.cycle + 1))
        self._say(WorldTaken(self._world.number))

    def _on_trajectory(self, message: JointTrajectoryMessage, info: Mapping[str, Any]) -> None:
        self._take(message, int(info["source_timestamp"]))
        self._catch_up()

    def _take(self, message: JointTrajectoryMessage, source_timestamp_ns: int) -> None:
        sent_ns = source_timestamp_ns - self._system_offset_ns
        world = self._world
        if world.lose_next > 0 or self._random.random() < world.lost_share:
            self._change(lose_next=max(world.lose_next - 1, 0))
            self._say_passed("lost", sent_ns)
            return
        stamp_ns = messages.stamp_ns(message)
        try:
            trajectory = messages.read_joint_trajectory(message)
            trajectory.validate(self._spec.arm_joint_names)
            over_ns = stamp_ns + round(trajectory.duration_s * NANOSECONDS) - self._offset_ns()
            if world.reject_next > 0 or over_ns < time.monotonic_ns():
                raise ValueError
        except ValueError:
            self._change(reject_next=max(world.reject_next - 1, 0))
            self._say_passed("rejected", sent_ns)
            return
        due_ns = sent_ns + round(self._random.uniform(*world.pickup_s) * NANOSECONDS)
        self._controller.take(Waiting(trajectory, stamp_ns, sent_ns, due_ns))
        if world.doubled_s is not None:
            again_ns = due_ns + round(world.doubled_s * NANOSECONDS)
            self._controller.take(Waiting(trajectory, stamp_ns, again_ns, again_ns))

    def _change(self, **changes: int) -> None:
        self._world = ArmWorld(**{**vars(self._world), **changes})

    # Cycles.

    def _on_timer(self) -> None:
        # The executor would run this timer first: what was sent by now comes before the cycles.
        for _ in range(self._trajectories.qos_profile.depth):
            with self._trajectories.handle:
                taken = self._trajectories.handle.take_message(
                    self._trajectories.msg_type, self._trajectories.raw
                )
            if taken is None:
                break
            self._take(taken[0], int(taken[1]["source_timestamp"]))
        self._catch_up()
        self._publish()

    def _catch_up(self) -> None:
        first = self._controller.cycle + 1
        stall_s = time.monotonic() - self._controller.cycle * PERIOD_NS / NANOSECONDS
        if stall_s > MIN_STALL_S:
            self._say(Stall(stall_s))
        rows, taken = self._controller.run_until(
            time.monotonic_ns(), self._offset_ns(), self._world.speed
        )
        if len(rows):
            numbers = np.arange(first, first + len(rows), dtype=np.float64)
            os.write(self._file, np.column_stack((numbers, rows)).tobytes())
            self._history = np.concatenate((self._history, rows))[-_HISTORY:]
        for waiting, cycle in taken:
            self._say_passed("taken", waiting.sent_ns, cycle * PERIOD_NS)

    def _offset_ns(self) -> int:
        """ROS time minus steady time, to less than the reading of two clocks would give."""
        moment, _ = read_together(lambda: int(self.get_clock().now().nanoseconds))
        step_ns = moment.offset_ns - self._system_offset_ns
        # Steps of the shared clock are whole milliseconds.
        return self._system_offset_ns + round(step_ns / PERIOD_NS) * PERIOD_NS

    def _publish(self) -> None:
        ros_ns = self._controller.cycle * PERIOD_NS + self._offset_ns()
        state = self._controller.state
        own, second = self._joints.messages(
            self._world.joint_states,
            np.append(self._measured(), _GRIPPER_M),
            np.append(self._world.speed * state.velocities, 0.0),
            ros_ns,
        )
        for message in own:
            self._states.publish(message)
        for message in second:
            self._second.publish(message)
        if not self._world.reference_silent:
            reference = MotionState(
                state.positions, self._world.speed * state.velocities, state.accelerations
            )
            self._reference.publish(
                messages.reference_message(self._spec.arm_joint_names, reference, ros_ns)
            )

    def _measured(self) -> FloatArray:
        behind = min(round(self._world.lag_s * NANOSECONDS / PERIOD_NS), _HISTORY - 1)
        measured: FloatArray = self._history[-1 - behind].copy()
        measured[1] -= self._world.sag_rad
        return measured

    # Events.

    def _say_passed(self, kind: str, sent_ns: int, taken_ns: int = 0) -> None:
        self._say(PickUp(kind, sent_ns, taken_ns))

    def _say(self, event: ArmEvent) -> None:
        self._events.publish(String(data=event_text(event)))


if __name__ == "__main__":
    sys.exit(run_node(FaultArmNode))
