# SPDX-License-Identifier: Apache-2.0
"""A guard before an arm whose controller runs at 1 kHz: what the arm gets is judged.

The controller is joint_trajectory_controller's update() (Jazzy and later, read from
ros2_controllers): a new trajectory replaces the old one at a cycle; its cursor begins at ROS time
and goes on by measured periods; it commands the curve one period ahead and reports as its reference
the curve at its cursor. Time is given, not waited for: the clocks begin at 1,000 s (ROS) and 50 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.command import Command, Reply
from par_ros.control.guard import Guard, GuardSettings, StopLatch
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import FloatArray, Motion, MotionState
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import Moment
from tests.control.arms import arm

S = 1_000_000_000
PERIOD_S = 0.001
TIMES = 0.05 * np.arange(1, 9)
ROS_BEGIN_NS = 1_000 * S
STEADY_BEGIN_NS = 50 * S
_TICKS = 20


class Controller:
    """What it commands at each cycle; cycles are milliseconds from 0."""

    def __init__(self, positions: FloatArray) -> None:
        self.reference = MotionState.at_rest(positions)
        self._command = self.reference
        self._motion: Motion | None = None
        self._new: Command | None = None
        self._cursor_s = 0.0
        self._start_s = 0.0
        self._cycle_before_s = 0.0

    def take(self, command: Command) -> None:
        """Picked up by the next cycle()."""
        self._new = command

    def hold(self, positions: FloatArray) -> None:
        """As after cmd_timeout: from now on it stands at `positions`."""
        self._motion = Motion.standing(("",) * len(positions), positions)

    def cycle(self, ros_s: float) -> FloatArray:
        """One control cycle at this ROS time; the positions that the hardware gets."""
        if self._new is not None:
            assert self._new.arm is not None
            self._start_s = (self._new.stamp_ns - ROS_BEGIN_NS) / S
            before_s = self._cycle_before_s - self._start_s
            self._motion = Motion(self._new.arm, self._command, before_s)
            self._new = None
            self._cursor_s = ros_s
        else:
            self._cursor_s += PERIOD_S
        if self._motion is not None:
            cursor_s = self._cursor_s - self._start_s
            self.reference = self._motion.state_at(cursor_s)
            self._command = self._motion.state_at(cursor_s + PERIOD_S)
        self._cycle_before_s = ros_s
        return self._command.positions


@dataclass(frozen=True)
class _Underway:
    """A command on its way, and the cycle that picks it up."""

    command: Command
    cycle: int


class Rig:
    """A guard, the controller, and an arm that is where it is commanded to be."""

    def __init__(
        self, latch: StopLatch | None = None, spec: ArmSpec | None = None, **settings: object
    ) -> None:
        """spec: of another arm than the panda."""
        self.spec: ArmSpec = spec or arm("panda")
        self.guard = Guard(self.spec, GuardSettings(**settings), latch)  # type: ignore[arg-type]
        self.controller = Controller(self.spec.home)
        self.cycle = 0
        # ROS time minus what it would be without steps.
        self.clock_step_s = 0.0
        self.commands: list[FloatArray] = [self.spec.home] * 3
        self.sent: list[Command] = []
        # What the world does to what passes.
        self.pickup_s = 0.004
        self.loses_trajectories = False
        self.joint_offset: FloatArray | float = 0.0
        self.has_velocities = True
        self.sends_joints = True
        self.sends_references = True
        self._underway: list[_Underway] = []

    # Time.

    @property
    def now_s(self) -> float:
        return self.cycle * PERIOD_S

    @property
    def moment(self) -> Moment:
        return Moment(self.ros_ns, STEADY_BEGIN_NS + self.cycle * S // 1000)

    @property
    def ros_ns(self) -> int:
        return ROS_BEGIN_NS + round(self.clock_step_s * S) + self.cycle * S // 1000

    def wait(self, duration_s: float, *, computing: bool = False) -> list[Command]:
        """Control cycles; joint states, references and ticks every 20 ms.

        computing: the guard is busy and receives no inputs.
        """
        commands = []
        for _ in range(round(duration_s / PERIOD_S)):
            self.cycle += 1
            for waiting in [one for one in self._underway if one.cycle <= self.cycle]:
                self.controller.take(waiting.command)
                self._underway.remove(waiting)
            ros_s = self.cycle * PERIOD_S + self.clock_step_s
            self.commands.append(self.controller.cycle(ros_s))
            if self.cycle % _TICKS == 0 and not computing:
                commands += [self.take(command) for command in self._inputs()]
        return commands

    def _inputs(self) -> Iterator[Command]:
        if self.sends_joints:
            yield self.guard.on_joint_state(self.sample(), self.moment)
        if self.sends_references:
            yield self.guard.on_reference(self.reference(), self.moment)
        yield self.guard.on_tick(1, self.moment)

    # What the arm says.

    def sample(self, age_s: float = 0.0) -> JointSample:
        state = self.controller.reference
        velocities = np.append(state.velocities, 0.0) if self.has_velocities else None
        positions = np.append(state.positions + self.joint_offset, 0.04)
        return JointSample(self.ros_ns - round(age_s * S), positions, velocities)

    def reference(self) -> ReferenceSample:
        state = self.controller.reference
        return ReferenceSample(self.ros_ns, state.positions, state.velocities, state.accelerations)

    # What the guard is asked.

    def take(self, command: Command) -> Command:
        if command.arm is not None:
            self.sent.append(command)
            if not self.loses_trajectories:
                cycle = self.cycle + round(self.pickup_s / PERIOD_S)
                self._underway.append(_Underway(command, max(cycle, self.cycle + 1)))
        return command

    def engaged(self) -> "Rig":
        self.wait(0.3)
        reply = self.call("engage")
        assert reply.success, reply.message
        return self

    def call(self, service: str) -> Reply:
        reply: Reply = getattr(self.guard, service)(self.moment)
        self.take(reply.command)
        return reply

    def chunk(self, positions: FloatArray, age_s: float = 0.0) -> Command:
        return self.take(self.guard.on_chunk(self.requested(positions, age_s), self.moment))

    def requested(self, positions: FloatArray, age_s: float = 0.0) -> RequestedChunk:
        stamp_ns = self.ros_ns - round(age_s * S)
        return RequestedChunk(stamp_ns, self.spec.joint_names, TIMES, positions)

    def gentle(self, acceleration: float = 1.0) -> FloatArray:
        """On from what is commanded at the end of the splice, changing speed evenly."""
        now = self.guard.commanded_positions(self.moment)
        assert now is not None
        splice_s = self.guard.settings.splice_s
        velocities = self.controller.reference.velocities
        start = now + velocities * splice_s
        moved = np.outer(TIMES, velocities) + 0.5 * acceleration * np.outer(TIMES**2, np.ones(7))
        return np.column_stack((start + moved, np.full(8, 0.04)))

    def sped_up(self) -> "Rig":
        """Chunks one upon the other, until all joints move at half the panda's speed; one runs."""
        for number in range(3):
            slow = np.abs(self.controller.reference.velocities).max() < 1.0
            self.chunk(self.gentle(1.5 if slow else 0.0))
            if number < 2:
                self.wait(0.4)
        self.wait(0.06)
        return self

    # The judge.

    def largest_shares(self) -> dict[str, float]:
        """Largest finite difference of what the hardware got, as a share of the arm's limit."""
        limits = self.spec.limits
        rates = np.array(self.commands)
        shares = {}
        for name, limit in (
            ("velocity", limits.max_velocity),
            ("acceleration", limits.max_acceleration),
            ("jerk", limits.max_jerk),
        ):
            rates = np.diff(rates, axis=0) / PERIOD_S
            shares[name] = float((np.abs(rates) / limit).max())
        return shares

    def assert_limits(self) -> None:
        shares = self.largest_shares()
        assert max(shares.values()) <= 1.0, shares

    def assert_rest(self, after_s: float = 0.5) -> None:
        """At rest `after_s` from now, and no limit broken since the start."""
        self.wait(after_s)
        assert not np.diff(self.commands[-3:], axis=0).any()
        self.assert_limits()


def text(command: Command) -> str:
    return " ".join(event.text for event in command.events)
