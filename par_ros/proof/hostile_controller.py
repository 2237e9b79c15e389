# SPDX-License-Identifier: Apache-2.0
"""joint_trajectory_controller's update(), cycle by cycle, and the arm behind it.

Written from the behaviour of ros2_controllers' branches kilted, jazzy and humble (August 2026;
joint_trajectory_controller.cpp and trajectory.cpp), sharing no curve with par_ros.control:

- a valid message replaces the whole trajectory at the cycle that picks it up;
- the cursor is the cycle's ROS time at the first sample, and grows by the measured periods after;
- the reference is the curve at the cursor, the command the curve one nominal period ahead of it;
- up to a first point that is ahead, the curve leads there from the last command, which is taken to
  belong to the cycle before (interpolate_from_desired_state); before that moment nothing is sent;
- cmd_timeout after the last point, the controller holds where the arm was measured.

humble: cursor and command are the cycle's ROS time itself; segments are looked for from the last
one on, so a clock that steps back under a motion ends it at its last point. bridge: the simulator's
follower, for which the last command belongs to its own time.

Times are integer nanoseconds, J joints.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.proof.hostile_arm import HostileArm
from par_ros.proof.hostile_clock import NANOSECONDS, IntArray
from par_ros.proof.hostile_curve import Curve, State, standing
from par_ros.proof.hostile_cycles import Cycles

Rule = Literal["kilted", "humble", "bridge"]

_FLOAT_EPSILON = 1.1920929e-07
_SMALL_BLOCK = 100


@dataclass
class SentTrajectory:
    """A trajectory on its way, and what became of it.

    Attributes:
        stamp_ns: header.stamp (ROS); 0: from pick-up.
        given_ros_ns, given_steady_ns: the moment that the guard was given for it.
        splice_end_ns: ROS time until which it may be picked up.
        origin: what the guard was doing: chunk, stop, engage, ...
        picked_up_ns: ROS time of the cycle that took it.
        fate: what happened to it on the way.
    """

    trajectory: JointTrajectory
    stamp_ns: int
    given_ros_ns: int
    given_steady_ns: int
    splice_end_ns: int
    origin: str
    number: int
    published_steady_ns: int = 0
    computing_ns: int = 0
    picked_up_ns: int | None = None
    picked_up_steady_ns: int | None = None
    # By how much the clock has moved between the guard's moment and the pick-up.
    shift_ns: int = 0
    # How long the controller is led to a first point that was ahead.
    led_ns: int = 0
    fate: set[str] = field(default_factory=set)

    @property
    def offset_ns(self) -> int:
        """ROS minus steady time, as the guard read them."""
        return self.given_ros_ns - self.given_steady_ns


@dataclass(frozen=True)
class Block:
    """Commands of successive cycles, for the judge.

    Attributes:
        begin: the first cycle.
        steady_ns, measured_ns: when they happened, and by the controller's own periods [M].
        commands: what the hardware got [M, J]; intended: what it would have got, had no clock moved
            between the guard and the controller.
        source: the trajectory that they follow; None: the controller's own doing.
    """

    begin: int
    steady_ns: IntArray
    measured_ns: IntArray
    commands: FloatArray
    intended: FloatArray
    source: SentTrajectory | None


class HostileController:
    """The controller of one arm; `judge` gets every command that the hardware gets.

    Stands at `positions` [J]. `receive` and `advance` take steady times that do not decrease.
    """

    def __init__(
        self,
        cycles: Cycles,
        arm: HostileArm,
        positions: FloatArray,
        judge: Callable[[Block], None],
        *,
        rule: Rule = "kilted",
        cmd_timeout_s: float = 0.0,
    ) -> None:
        self._cycles = cycles
        self._arm = arm
        self._judge = judge
        self._rule = rule
        self._ahead_ns = 0 if rule == "humble" else cycles.period_ns
        self._timeout_ns = round(cmd_timeout_s * NANOSECONDS)
        self._curve = standing(positions)
        self._source: SentTrajectory | None = None
        # Cursor minus measured time; for intended commands likewise.
        self._cursor_offset_ns = self._intended_offset_ns = 0
        # humble: how far the search for a segment has come.
        self._last_segment = 0
        self._is_holding = True
        self._pending: tuple[int, Curve | None, SentTrajectory | None] | None = None
        self._arm_before = np.repeat(positions[None], 2, axis=0)
        self._last_command = positions
        self.num_rejected = 0
        self._make_block(0, _SMALL_BLOCK)

    # What the world may ask.

    def commanded(self, steady_ns: int) -> FloatArray:
        """What the hardware has now [J]."""
        self.advance(steady_ns)
        cycle = self._cycles.last_before(steady_ns)
        return self._commands[cycle - self._begin] if cycle >= self._begin else self._last_command

    def command_velocity(self, steady_ns: int) -> FloatArray:
        """Velocity of the command now [J]."""
        self.advance(steady_ns)
        cycle = self._cycles.last_before(steady_ns)
        state = self._curve.state(self._cursor(cycle) + self._ahead_ns)
        return np.zeros_like(self._last_command) if state is None else state[1]

    def place(self, steady_ns: int) -> FloatArray:
        """Where the arm would be without its sag [J]."""
        self.advance(steady_ns)
        index = self._cycles.last_before(steady_ns) - self._begin
        place: FloatArray = self._places[index] if index >= 0 else self._arm_before[1]
        return place

    def measured(self, steady_ns: int) -> FloatArray:
        """Where the arm is [J], without its sensors' noise."""
        return self.place(steady_ns) + self._arm.settings.sag_rad

    def reference(self, steady_ns: int) -> tuple[int, State]:
        """ROS stamp and reference of the last cycle."""
        self.advance(steady_ns)
        cycle = max(self._cycles.last_before(steady_ns), 0)
        # The simulator reports the end of its step, an arm's controller its cursor.
        ahead_ns = self._ahead_ns if self._rule == "bridge" else 0
        state = self._curve.state(self._cursor(cycle) + ahead_ns)
        if state is None:
            zeros = np.zeros_like(self._last_command)
            state = self._last_command, zeros, zeros
        return self._cycles.ros_ns(cycle) + ahead_ns, state

    # What happens to it.

    def receive(self, sent: SentTrajectory, steady_ns: int) -> bool:
        """A message arrives; False: rejected, and the old trajectory goes on."""
        self.advance(steady_ns)
        if not self._is_valid(sent, self._cycles.clock.read(steady_ns)):
            self.num_rejected += 1
            sent.fate.add("rejected")
            return False
        self._pending = (self._cycles.picks_up(steady_ns), None, sent)
        return True

    def advance(self, steady_ns: int) -> None:
        """Make every cycle up to a moment."""
        last = self._cycles.last_before(steady_ns)
        while True:
            if self._pending is not None and self._pending[0] <= min(last, self._end):
                self._pick_up(*self._pending)
            elif last >= self._end:
                self._extend()
            else:
                return

    def change_clock(self, steady_ns: int, change: Callable[[], None]) -> None:
        """The ROS clock changes now: what was computed beyond is computed again."""
        self.advance(steady_ns)
        self._cut(self._cycles.last_before(steady_ns) + 1)
        change()
        self._make_block(self._begin, _SMALL_BLOCK)

    def hold_fast(self, steady_ns: int, joints: FloatArray) -> None:
        """Joints [J] that are not NaN stand still from now on, whatever is commanded."""
        self.advance(steady_ns)
        self._cut(self._cycles.last_before(steady_ns) + 1)
        self._arm.hold_fast(joints)
        self._make_block(self._begin, _SMALL_BLOCK)

    def restart_at(self, steady_ns: int, positions: FloatArray) -> None:
        """Deactivated, the arm moved by hand, and activated where it stands."""
        self.advance(steady_ns)
        self._cut(self._cycles.last_before(steady_ns) + 1)
        self._curve, self._source, self._pending = standing(positions), None, None
        self._is_holding = True
        # It sags again from there.
        self._arm_before = np.repeat((positions - self._arm.settings.sag_rad)[None], 2, axis=0)
        self._last_command = positions
        self._make_block(self._begin, _SMALL_BLOCK)

    def finish(self, steady_ns: int) -> None:
        """Hand the rest to the judge."""
        self.advance(steady_ns)
        self._cut(self._cycles.last_before(steady_ns) + 1)

    # Cycles.

    def _is_valid(self, sent: SentTrajectory, now_ns: int) -> bool:
        trajectory = sent.trajectory
        times_ns = np.rint(trajectory.times_s * NANOSECONDS).astype(np.int64)
        if len(times_ns) == 0 or np.any(np.diff(times_ns) <= 0) or times_ns[0] < 0:
            return False
        if trajectory.velocities is not None and np.any(
            np.abs(trajectory.velocities[-1]) > _FLOAT_EPSILON
        ):
            return False
        return sent.stamp_ns == 0 or sent.stamp_ns + int(times_ns[-1]) >= now_ns

    def _pick_up(self, cycle: int, curve: Curve | None, sent: SentTrajectory | None) -> None:
        self._pending = None
        before_ns, before = self._before(cycle)
        self._cut(cycle)
        time_ns = self._cycles.ros_ns(cycle)
        measured_ns = int(self._cycles.measured_ns(cycle, cycle + 1)[0])
        if curve is None:
            assert sent is not None
            curve = Curve(sent.trajectory, sent.stamp_ns if sent.stamp_ns != 0 else time_ns)
            sent.picked_up_ns = time_ns
            sent.picked_up_steady_ns = int(self._cycles.steady_ns(cycle, cycle + 1)[0])
            sent.shift_ns = time_ns - sent.picked_up_steady_ns - sent.offset_ns
            self._is_holding = False
            sent.led_ns = max(curve.first_ns - time_ns - self._ahead_ns, 0)
            if sent.led_ns:
                sent.fate.add("ahead")
        curve.begin_from(before_ns, before)
        if sent is not None and before_ns > time_ns + self._ahead_ns:
            sent.fate.add("frozen")
        self._last_segment = 0
        self._curve, self._source = curve, sent
        self._cursor_offset_ns = self._intended_offset_ns = time_ns - measured_ns
        if sent is not None and sent.stamp_ns != 0 and self._rule != "bridge":
            self._intended_offset_ns = sent.offset_ns
        self._make_block(cycle, self._cycles_to_end(cycle))

    def _before(self, cycle: int) -> tuple[int, State]:
        """The time and the state that a new trajectory is led from."""
        previous = max(cycle - 1, 0)
        state = self._curve.state(self._cursor(previous) + self._ahead_ns)
        frozen_ns = None
        if state is None:
            zeros = np.zeros_like(self._last_command)
            state = self._last_command, zeros, zeros
            frozen_ns = self._curve.before_ns
        if self._rule == "humble":
            return self._cycles.ros_ns(cycle), state
        if frozen_ns is not None:
            # Nothing was commanded meanwhile: the time of the last command is still ahead.
            return frozen_ns, state
        ahead_ns = self._ahead_ns if self._rule == "bridge" else 0
        return self._cycles.ros_ns(previous) + ahead_ns, state

    def _cursor(self, cycle: int) -> int:
        if self._rule == "humble":
            return self._cycles.ros_ns(max(cycle, 0))
        return self._cursor_offset_ns + int(self._cycles.measured_ns(cycle, cycle + 1)[0])

    def _cycles_to_end(self, cycle: int) -> int:
        left_ns = self._curve.end_ns - self._cursor(cycle)
        return int(np.clip(left_ns // self._cycles.period_ns + 60, _SMALL_BLOCK, 2_000))

    def _extend(self) -> None:
        end = self._end
        self._cut(end)
        self._make_block(end, _SMALL_BLOCK)

    def _cut(self, cycle: int) -> None:
        """The commands before `cycle` are final."""
        num = cycle - self._begin
        if num > 0:
            commands = self._commands[:num]
            is_same = self._intended is self._commands
            intended = commands if is_same else self._intended[:num]
            steady_ns, measured_ns = self._steady_ns[:num], self._measured_ns[:num]
            block = Block(self._begin, steady_ns, measured_ns, commands, intended, self._source)
            self._judge(block)
            if self._rule == "humble" and self._last_segment <= len(self._curve.times_ns):
                last_ns = self._cycles.ros_ns(cycle - 1)
                self._last_segment = int(self._curve.times_ns.searchsorted(last_ns, side="right"))
            self._arm_before = np.concatenate((self._arm_before, self._places[:num]))[-2:]
            self._last_command = self._commands[num - 1]
        self._begin = self._end = cycle
        self._steady_ns = self._measured_ns = np.empty(0, np.int64)
        self._commands = self._intended = self._places = np.empty((0, len(self._last_command)))

    def _make_block(self, begin: int, num: int) -> None:
        measured_ns = self._cycles.measured_ns(begin, begin + num)
        num = len(measured_ns)
        steady_ns = self._cycles.steady_ns(begin, begin + num)
        if self._rule == "humble":
            cursor_ns = self._cycles.clock.read_many(steady_ns)
        else:
            cursor_ns = measured_ns + self._cursor_offset_ns
        num, times_out = self._until_timeout(cursor_ns)
        cursor_ns, measured_ns = cursor_ns[:num], measured_ns[:num]
        self._begin, self._end = begin, begin + num
        self._steady_ns, self._measured_ns = steady_ns[:num], measured_ns
        self._commands = self._sampled(cursor_ns + self._ahead_ns)
        if self._rule == "humble":
            self._commands = self._never_back(cursor_ns, self._commands)
        intended_ns = measured_ns + self._intended_offset_ns
        if np.array_equal(intended_ns, cursor_ns):
            self._intended = self._commands
        else:
            # Without the pick-up's own moment, which moved with the clock.
            at_ns = np.maximum(intended_ns + self._ahead_ns, self._curve.samples_from_ns)
            self._intended = self._curve.positions(at_ns)
        self._places = self._arm.follow(self._arm_before, self._commands)
        if times_out:
            # It holds where the arm was at its last cycle.
            self._is_holding = True
            held = self._places[-1] + self._arm.settings.sag_rad
            self._pending = (begin + num, standing(held), None)

    def _until_timeout(self, cursor_ns: IntArray) -> tuple[int, bool]:
        """How many of the cycles are made before the controller holds by itself."""
        if not self._timeout_ns or self._is_holding or self._pending is not None:
            return len(cursor_ns), False
        over = np.flatnonzero(cursor_ns - self._curve.end_ns > self._timeout_ns)
        return (int(over[0]) + 1, True) if len(over) else (len(cursor_ns), False)

    def _sampled(self, at_ns: IntArray) -> FloatArray:
        commands = self._curve.positions(at_ns)
        if self._curve.is_before(int(at_ns[0])):
            commands[at_ns < self._curve.before_ns] = self._last_command
        return commands

    def _never_back(self, cursor_ns: IntArray, commands: FloatArray) -> FloatArray:
        """humble: once the clock goes back to an earlier segment, the last point is commanded."""
        sampled = np.flatnonzero(cursor_ns >= self._curve.samples_from_ns)
        segments = self._curve.times_ns.searchsorted(cursor_ns[sampled], side="right")
        back = np.flatnonzero(np.diff(segments, prepend=self._last_segment) < 0)
        if len(back):
            commands[sampled[back[0] :]] = self._curve.final
            # It stays there.
            self._last_segment = len(self._curve.times_ns) + 1
        return commands
