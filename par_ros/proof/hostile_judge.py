# SPDX-License-Identifier: Apache-2.0
"""The judge of the hostile world: it sees the commands that the hardware got, and nothing else.

Limits are compared with divided differences of successive commands over the controller's own
periods (first: velocity, second: acceleration, third: jerk): a curve within its limits has them
within the limits too, whatever the cycle times, and a step between two curves stands out.

Times are integer nanoseconds, J joints.
"""

from dataclasses import dataclass, field

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray
from par_ros.proof.hostile_clock import NANOSECONDS, IntArray
from par_ros.proof.hostile_controller import Block, SentTrajectory

KINDS = ("velocity", "acceleration", "jerk")
# A hand-over shows in differences over four commands.
_WINDOW = 3
_POSITION_SLACK_RAD = 1e-6
# Stamps and times of points are whole nanoseconds: two curves that are one may lie this far apart
# in time.
_ROUNDING_S = 2e-9
_MOVING_RAD_S = 1e-6
_ENDS_SLACK_RAD_S = 1e-4


@dataclass(frozen=True)
class Broken:
    """Limits broken by one hand-over, or inside one motion.

    Attributes:
        kind: position, velocity, acceleration, jerk, finite, velocity_at_end.
        share: the largest, in multiples of the limit (position: rad beyond it; velocity_at_end:
            rad/s beyond it).
        acceleration_share: of the second difference, whatever the kind.
        at_steady_ns: the first command that broke it.
        source, before: the trajectory commanded then, and the one before the hand-over.
        at_handover: whether it lies within the hand-over.
        intended_breaks: whether the same commands break limits without moved clocks.
        held_ns: when the controller held by itself last.
    """

    kind: str
    share: float
    acceleration_share: float
    at_steady_ns: int
    joint: int
    source: SentTrajectory | None
    before: SentTrajectory | None
    at_handover: bool
    intended_breaks: bool
    held_ns: int


# Behind the label of a stop around a step of the clock.
AFTER_CLOCK = "_after_clock"
# The label of a stop by the running motion's own end.
KILLED = "killed"


@dataclass
class StopWatch:
    """One stop: when the command must be at rest, and when it was.

    Attributes:
        stop_ns: when it was asked for, or the fault was found.
        allowed_ns: how long it may take.
        label: e_stop, disengage, or the fault's kind.
    """

    stop_ns: int
    allowed_ns: int
    label: str
    last_motion_ns: int | None = None
    # For the verdict: what happened around it.
    notes: set[str] = field(default_factory=set)

    @property
    def rest_s(self) -> float:
        """From the stop to the last motion."""
        if self.last_motion_ns is None:
            return 0.0
        return (self.last_motion_ns - self.stop_ns) / NANOSECONDS

    def follow_clock_step(self, allowed_ns: int) -> None:
        """The clock stepped while the stop was planned: what runs ends by itself."""
        if not self.label.endswith(AFTER_CLOCK):
            self.label += AFTER_CLOCK
        self.allowed_ns = max(self.allowed_ns, allowed_ns)

    @property
    def is_late(self) -> bool:
        """Whether motion went on after what is allowed."""
        return self.rest_s > self.allowed_ns / NANOSECONDS


class LimitJudge:
    """Takes blocks in order; `broken` grows, `watches` are followed."""

    def __init__(self, spec: ArmSpec, period_ns: int, positions: FloatArray) -> None:
        limits = spec.limits
        self._low = limits.min_position - _POSITION_SLACK_RAD
        self._high = limits.max_position + _POSITION_SLACK_RAD
        self._largest = np.stack((limits.max_velocity, limits.max_acceleration, limits.max_jerk))
        # What rounding may add to each difference.
        period_s = period_ns / NANOSECONDS
        rounding_rad = _ROUNDING_S * limits.max_velocity
        factors = np.array([[2 / period_s], [4 / period_s**2], [8 / period_s**3]])
        self._allowed = 1.0 + 1e-6 + factors * rounding_rad / self._largest
        # Near the ends of its range a joint may only be slow, on some arms.
        self._ends = getattr(limits, "position_dependent_velocity", None)
        self._period_ns = period_ns
        self.broken: list[Broken] = []
        self.watches: list[StopWatch] = []
        self.num_samples = 0
        self.largest = dict.fromkeys(KINDS, 0.0)
        self.last_motion_ns = -NANOSECONDS
        self._held_ns = -NANOSECONDS
        self._source: SentTrajectory | None = None
        self._before: SentTrajectory | None = None
        # The first cycle that the last hand-over has no part in.
        self._handover_ends = 0
        self.restart(positions)

    def restart(self, positions: FloatArray) -> None:
        """The command stands at `positions` [J], whatever was before."""
        self._commands = self._intended = np.repeat(positions[None], _WINDOW, axis=0)
        self._measured_ns = np.empty(0, np.int64)

    def feed(self, block: Block) -> None:
        """Look at every command of it."""
        if block.source is not self._source:
            self._before, self._source = self._source, block.source
            if block.source is None:
                self._held_ns = int(block.steady_ns[0])
            led_ns = 0 if block.source is None else block.source.led_ns
            self._handover_ends = block.begin + _WINDOW + -(-led_ns // self._period_ns)
        measured_ns = self._measured_ns
        if not len(measured_ns):
            measured_ns = block.measured_ns[0] - self._period_ns * np.arange(_WINDOW, 0, -1)
        measured_ns = np.concatenate((measured_ns, block.measured_ns))
        commands = np.concatenate((self._commands, block.commands))
        self.num_samples += len(block.commands)
        is_same = block.intended is block.commands and self._intended is self._commands
        intended = commands if is_same else np.concatenate((self._intended, block.intended))
        self._look(block, commands, intended, measured_ns)
        self._watch(block, commands, measured_ns)
        self._commands = commands[-_WINDOW:]
        self._intended = self._commands if is_same else intended[-_WINDOW:]
        self._measured_ns = measured_ns[-_WINDOW:]

    def _look(
        self, block: Block, commands: FloatArray, intended: FloatArray, measured_ns: IntArray
    ) -> None:
        new = commands[_WINDOW:]
        if not np.isfinite(new).all():
            self._note(block, "finite", 0, np.inf, np.inf, 0, True)
            return
        shares = self._shares(commands, measured_ns)
        for kind, share in zip(KINDS, shares.max(axis=(1, 2)), strict=True):
            self.largest[kind] = max(self.largest[kind], float(share))
        outside = np.maximum(self._low - new, new - self._high)
        if (outside > 0.0).any():
            row, joint = (int(index) for index in np.argwhere(outside > 0.0)[0])
            before = np.maximum(self._low - commands[row + 2], commands[row + 2] - self._high)
            if before[joint] <= 0.0:
                share = float(outside.max())
                self._note(block, "position", row, share, 0.0, joint, True)
        if self._ends is not None:
            self._look_at_ends(block, commands, measured_ns)
        bad = shares > self._allowed[:, None, :]
        if not bad.any():
            return
        is_clean = (
            intended is not commands
            and not (self._shares(intended, measured_ns) > self._allowed[:, None, :]).any()
        )
        rows = bad.any(axis=(0, 2))
        at_handover = np.arange(len(new)) + block.begin < self._handover_ends
        for mask in (rows & at_handover, rows & ~at_handover):
            if mask.any():
                self._note_worst(block, shares, mask, not is_clean)

    def _look_at_ends(self, block: Block, commands: FloatArray, measured_ns: IntArray) -> None:
        """Velocities towards an end of the range, against the limit on the way."""
        ends = self._ends
        here, before = commands[_WINDOW:], commands[_WINDOW - 1 : -1]
        elapsed_s = np.diff(measured_ns[_WINDOW - 1 :])[:, None] / NANOSECONDS
        velocities = (here - before) / elapsed_s
        slack = _ENDS_SLACK_RAD_S
        for position, sign in ((ends.upper_position, 1.0), (ends.lower_position, -1.0)):
            # The farther of both commands: the limit shrinks on the way between them.
            left = np.maximum(sign * (position - here), sign * (position - before))
            known = np.isfinite(position)
            speed = ends.offset + np.sqrt(np.maximum(ends.slope * np.where(known, left, 0.0), 0.0))
            over = np.where(known, sign * velocities - np.maximum(speed, 0.0), -1.0)
            if (over > slack).any():
                row, joint = (int(index) for index in np.argwhere(over > slack)[0])
                share = float(over.max())
                self._note(block, "velocity_at_end", row, share, 0.0, joint, True)

    def _shares(self, commands: FloatArray, measured_ns: IntArray) -> FloatArray:
        """Sizes of the differences as shares of the limits [3, M, J], without the window."""
        times_s = (measured_ns - measured_ns[0])[:, None] / NANOSECONDS
        first = np.diff(commands, axis=0) / (times_s[1:] - times_s[:-1])
        second = 2.0 * np.diff(first, axis=0) / (times_s[2:] - times_s[:-2])
        third = 3.0 * np.diff(second, axis=0) / (times_s[3:] - times_s[:-3])
        shares: FloatArray = np.abs(np.stack((first[2:], second[1:], third)))
        return shares / self._largest[:, None, :]

    def _note_worst(
        self, block: Block, shares: FloatArray, mask: FloatArray, intended_breaks: bool
    ) -> None:
        within = shares[:, mask]
        kind, _, joint = (int(index) for index in np.unravel_index(np.argmax(within), within.shape))
        row = int(np.flatnonzero(mask)[0])
        acceleration_share = float(within[1].max())
        self._note(
            block, KINDS[kind], row, float(within.max()), acceleration_share, joint, intended_breaks
        )

    def _note(
        self,
        block: Block,
        kind: str,
        row: int,
        share: float,
        acceleration_share: float,
        joint: int,
        intended_breaks: bool,
    ) -> None:
        at_handover = block.begin + row < self._handover_ends
        if not at_handover and self.broken:
            last = self.broken[-1]
            if last.source is block.source and not last.at_handover and last.kind == kind:
                # One motion, looked at in several blocks.
                return
        self.broken.append(
            Broken(
                kind,
                share,
                acceleration_share,
                int(block.steady_ns[row]),
                joint,
                block.source,
                self._before,
                at_handover,
                intended_breaks,
                self._held_ns,
            )
        )

    def _watch(self, block: Block, commands: FloatArray, measured_ns: IntArray) -> None:
        if block.source is None:
            # The controller's own doing.
            return
        moved = np.abs(commands[_WINDOW:] - commands[_WINDOW - 1 : -1]).max(axis=1)
        moved_s = np.diff(measured_ns[_WINDOW - 1 :]) / NANOSECONDS
        moving = np.flatnonzero(moved > _MOVING_RAD_S * moved_s)
        if not len(moving):
            return
        self.last_motion_ns = int(block.steady_ns[moving[-1]])
        for watch in self.watches:
            if self.last_motion_ns > watch.stop_ns:
                watch.last_motion_ns = self.last_motion_ns
