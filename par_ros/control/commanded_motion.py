# SPDX-License-Identifier: Apache-2.0
"""What the guard has commanded: the running motion, the ones before it, and how to go on from it.

A new trajectory begins with the running motion itself (its lead) and departs from it at the end of
the splice. The lead consists of the running motion's own nodes, from the last one before now, and
of one more at the departure. So both trajectories are the same curve until then, and a controller
may pick the new one up at any moment of the splice.

Times are integer nanoseconds of the guard's timeline; N nodes, J arm joints.
"""

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.hermite_curve import Nodes
from par_ros.control.joint_trajectory import (
    NANOSECONDS,
    FloatArray,
    JointTrajectory,
    Motion,
    MotionState,
)

MotionKind = Literal["standing", "found", "chunk", "stop", "retreat"]
TimeArray = npt.NDArray[np.int64]

# A lead is not cut this close behind one of its nodes: a piece of almost no length would magnify
# the rounding of its ends.
_MIN_PIECE_NS = 1_000_000
# Grid of departures, where a chunk is timed from its observation: the filter keeps its matrices.
_GRID_NS = 5_000_000
_MOTIONS_KEPT = 4


@dataclass(frozen=True)
class CommandedMotion:
    """One motion of arm and gripper.

    Attributes:
        kind: why it was commanded; "found": it was not, the arm was found moving so.
        sent_ns: when it was given out; until `departs_ns` it is the motion before.
        departs_ns: the end of its splice.
        start_ns: zero of both trajectories' times, and what its stamp says.
        arm, gripper: the trajectories.
    """

    kind: MotionKind
    sent_ns: int
    departs_ns: int
    start_ns: int
    arm: JointTrajectory
    gripper: JointTrajectory
    gripper_before_m: float

    @cached_property
    def arm_curve(self) -> Motion:
        """The curve that a controller makes of `arm`."""
        return Motion(self.arm)

    @cached_property
    def gripper_curve(self) -> Motion:
        """The gripper's targets, from the one that held when the motion was sent."""
        before = MotionState.at_rest(np.array([self.gripper_before_m]))
        return Motion(self.gripper, before, (self.sent_ns - self.start_ns) / NANOSECONDS)

    @cached_property
    def node_times_ns(self) -> TimeArray:
        """When the arm's points are due, [N]."""
        times: TimeArray = self.start_ns + np.round(self.arm.times_s * NANOSECONDS).astype(np.int64)
        return times

    @cached_property
    def rest_ns(self) -> int:
        """From when on the arm stands."""
        assert self.arm.velocities is not None
        assert self.arm.accelerations is not None
        moving = np.any((self.arm.velocities != 0.0) | (self.arm.accelerations != 0.0), axis=1)
        moving |= np.any(self.arm.positions != self.arm.positions[-1], axis=1)
        last = np.flatnonzero(moving)
        if len(last) == 0:
            return self.sent_ns
        return int(self.node_times_ns[last[-1] + 1])

    def state_at(self, time_ns: int) -> MotionState:
        """Position, velocity and acceleration of the arm, float64 [J] each."""
        return self.arm_curve.state_at((time_ns - self.start_ns) / NANOSECONDS)

    def positions_at(self, times_ns: FloatArray) -> FloatArray:
        """Positions of the arm at M times, float64 [M, J]."""
        return self.arm_curve.positions_at((times_ns - self.start_ns) / NANOSECONDS)

    def gripper_at(self, time_ns: int) -> float:
        """The gripper's target, m."""
        seconds = (time_ns - self.start_ns) / NANOSECONDS
        return float(self.gripper_curve.state_at(seconds).positions[0])

    def gripper_due_at(self, time_ns: int) -> float:
        """The gripper's target that was due last, m; before the first one the one before it."""
        num_due = int(np.searchsorted(self._gripper_due_ns, time_ns, side="right"))
        if num_due == 0:
            return self.gripper_before_m
        return float(self.gripper.positions[num_due - 1, 0])

    @cached_property
    def gripper_rest_ns(self) -> int:
        """From when on the gripper's target stays as it is."""
        targets_m = np.concatenate(([self.gripper_before_m], self.gripper.positions[:, 0]))
        changes = np.flatnonzero(targets_m[1:] != targets_m[:-1])
        return int(self._gripper_due_ns[changes[-1]]) if len(changes) else self.sent_ns

    @cached_property
    def _gripper_due_ns(self) -> TimeArray:
        """When the gripper's targets are due, [L]."""
        times_ns = np.round(self.gripper.times_s * NANOSECONDS).astype(np.int64)
        due_ns: TimeArray = self.start_ns + times_ns
        return due_ns


@dataclass(frozen=True)
class Lead:
    """The part of a new trajectory that is the running motion.

    Attributes:
        begin_ns: zero of the nodes' times: at or before now.
        departs_ns: the time of the last node.
        nodes: their times are seconds from `begin_ns`, whole nanoseconds.
    """

    begin_ns: int
    departs_ns: int
    nodes: Nodes

    @property
    def end(self) -> MotionState:
        """The state in which the new motion departs."""
        return self.nodes.last_state

    def then(self, nodes: Nodes, start_ns: int) -> Nodes:
        """The lead and `nodes`, whose times are seconds from `start_ns`; rounded as a message is.

        Nodes of the later part at or before the departure are the lead's own and left out.
        """
        offset_ns = start_ns - self.begin_ns
        times_ns = offset_ns + np.round(nodes.times_s * NANOSECONDS).astype(np.int64)
        later = times_ns > self.departs_ns - self.begin_ns
        rounded = Nodes.of_states(times_ns / NANOSECONDS, nodes.states)
        return rounded.pick(later).after(self.nodes)


class MotionHistory:
    """The running motion and a few before it; empty until something stands or moves."""

    def __init__(self, spec: ArmSpec) -> None:
        self._spec = spec
        self._motions: deque[CommandedMotion] = deque(maxlen=_MOTIONS_KEPT)

    def __bool__(self) -> bool:
        return bool(self._motions)

    def clear(self) -> None:
        """Forget what was commanded."""
        self._motions.clear()

    @property
    def running(self) -> CommandedMotion:
        """The newest motion."""
        return self._motions[-1]

    @property
    def before(self) -> CommandedMotion | None:
        """What a controller runs that did not take the newest motion; None: nothing is known."""
        return self._motions[-2] if len(self._motions) > 1 else None

    def is_moving(self, time_ns: int) -> bool:
        """Whether the commanded motion has not come to rest yet."""
        return bool(self._motions) and time_ns < self.running.rest_ns

    def has_targets_left(self, time_ns: int) -> bool:
        """Whether the commanded motion gives the gripper another target."""
        return bool(self._motions) and time_ns < self.running.gripper_rest_ns

    def stand_at(self, positions: FloatArray, gripper_m: float, time_ns: int) -> None:
        """Command nothing but to stand at `positions` [J]; what was before is forgotten."""
        self.clear()
        self.take(standing(self._spec, positions, gripper_m, time_ns))

    def take(self, motion: CommandedMotion) -> None:
        """A motion that was sent."""
        self._motions.append(motion)

    def withdraw(self) -> None:
        """Forget the newest motion: it never reached the arm."""
        self._motions.pop()

    def positions_at(self, times_ns: FloatArray) -> FloatArray:
        """Positions [M, J] that were commanded at `times_ns` [M]."""
        positions = np.empty((len(times_ns), self._spec.num_arm_joints))
        open_ = np.ones(len(times_ns), np.bool_)
        # The newest first: a later motion took over from the ones before it.
        for motion in reversed(self._motions):
            taken = open_ & (times_ns >= motion.sent_ns)
            if motion is self._motions[0]:
                taken = open_
            if taken.any():
                positions[taken] = motion.positions_at(times_ns[taken])
                open_ = open_ & ~taken
            if not open_.any():
                break
        return positions

    @property
    def known_since_ns(self) -> int:
        """Before this nothing is known of what was commanded."""
        return self._motions[0].sent_ns

    def lead(self, time_ns: int, splice_ns: int, grid_ns: int | None = None) -> Lead:
        """The running motion from now to the departure, at least `splice_ns` from now.

        Args:
            grid_ns: the departure lies a multiple of 5 ms after this time.
        """
        own_ns = self.running.node_times_ns
        departs_ns = _departure(own_ns, time_ns + splice_ns, grid_ns)
        before = own_ns[own_ns <= time_ns]
        begin_ns = int(before[-1]) if len(before) and time_ns < own_ns[-1] else time_ns
        between = own_ns[(own_ns > begin_ns) & (own_ns < departs_ns)]
        times_ns = np.array([begin_ns, *between.tolist(), departs_ns], np.int64)
        states = [self.running.state_at(int(time)) for time in times_ns]
        nodes = Nodes.through((times_ns - begin_ns) / NANOSECONDS, states)
        return Lead(begin_ns, departs_ns, nodes)

    def lead_from_state(self, time_ns: int) -> Lead:
        """The state now alone: whoever takes the trajectory takes it at once (lockstep)."""
        return Lead(time_ns, time_ns, Nodes.at(0.0, self.running.state_at(time_ns)))


def _departure(own_ns: TimeArray, earliest_ns: int, grid_ns: int | None) -> int:
    """The first time from `earliest_ns` on that is not just behind a node."""
    step_ns = _MIN_PIECE_NS
    departs_ns = earliest_ns
    if grid_ns is not None:
        step_ns = _GRID_NS
        departs_ns = grid_ns - (grid_ns - earliest_ns) // _GRID_NS * _GRID_NS
    while np.any((own_ns < departs_ns) & (own_ns > departs_ns - _MIN_PIECE_NS)):
        departs_ns += step_ns
    return departs_ns


def standing(
    spec: ArmSpec, positions: FloatArray, gripper_m: float, time_ns: int
) -> CommandedMotion:
    """A motion that stands at `positions` [J] from `time_ns` on."""
    gripper = spec.gripper
    zeros = np.zeros((1, len(positions)))
    times_s = np.zeros(1)
    return CommandedMotion(
        "standing",
        time_ns,
        time_ns,
        time_ns,
        JointTrajectory(spec.arm_joint_names, times_s, positions[None].copy(), zeros, zeros),
        JointTrajectory((gripper.joint_name,), times_s + 1e-3, np.array([[gripper_m]])),
        gripper_m,
    )
