# SPDX-License-Identifier: Apache-2.0
"""Joint states of the fault suite's arm, and their faults.

J joints, gripper last.
"""

import time

import numpy as np
from sensor_msgs.msg import JointState

from par_ros import messages
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.proof.fault_world import JointStates

_JUMP_RAD = 0.5
_PUSH_RAD_S = 0.5
_STALE_S = 1.0
_FUTURE_S = 0.2
_APART_RAD = 0.02
# From a state of the arm to the second source's, and to the gripper's where it is another message.
_LATER_NS = 4_000_000


class FaultJointStates:
    """Makes the messages of one moment."""

    def __init__(self, spec: ArmSpec) -> None:
        self._names = spec.joint_names
        self.begin()

    def begin(self) -> None:
        """Start the duration of lasting faults now."""
        self._began_s = time.monotonic()
        self._stalled_ns: int | None = None

    def messages(
        self, kind: JointStates, positions: FloatArray, velocities: FloatArray, stamp_ns: int
    ) -> tuple[list[JointState], list[JointState]]:
        """The driver's messages, and those of a second source."""
        if kind == "stopped":
            return [], []
        if kind in ("stale", "future", "stalled"):
            stamp_ns = self._stamp_ns(kind, stamp_ns)
        positions, velocities = positions.copy(), velocities.copy()
        second: list[JointState] = []
        if kind == "nan":
            positions[2] = np.nan
        elif kind == "jump":
            positions[2] += _JUMP_RAD
        elif kind == "pushed":
            positions[1] -= _PUSH_RAD_S * (time.monotonic() - self._began_s)
        elif kind == "gripper_nan":
            velocities[-1] = np.nan
        elif kind == "foreign":
            second = [self._message(np.zeros(len(positions)), None, stamp_ns + _LATER_NS)]
        elif kind == "second_source":
            apart = positions.copy()
            apart[:-1] += _APART_RAD
            second = [self._message(apart, velocities, stamp_ns + _LATER_NS)]
        message = self._message(
            positions, None if kind == "no_velocities" else velocities, stamp_ns
        )
        if kind == "missing":
            return [_part(message, slice(None, -2))], []
        if kind == "split":
            earlier_ns = stamp_ns - _LATER_NS
            gripper = _part(self._message(positions, velocities, earlier_ns), slice(-1, None))
            return [_part(message, slice(None, -1)), gripper], []
        return [message], second

    def _stamp_ns(self, kind: JointStates, stamp_ns: int) -> int:
        if kind == "stale":
            return stamp_ns - round(_STALE_S * NANOSECONDS)
        if kind == "future":
            return stamp_ns + round(_FUTURE_S * NANOSECONDS)
        if self._stalled_ns is None:
            self._stalled_ns = stamp_ns
        return self._stalled_ns

    def _message(
        self, positions: FloatArray, velocities: FloatArray | None, stamp_ns: int
    ) -> JointState:
        given = np.zeros(0) if velocities is None else velocities
        return messages.joint_state_message(self._names, positions, given, stamp_ns)


def _part(message: JointState, part: slice) -> JointState:
    return JointState(
        header=message.header,
        name=list(message.name)[part],
        position=list(message.position)[part],
        velocity=list(message.velocity)[part],
    )
