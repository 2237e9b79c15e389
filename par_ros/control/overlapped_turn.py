# SPDX-License-Identifier: Apache-2.0
"""Which picture is answered while the arm moves (docs/lab_notebook/overlap.md).

A picture is answered a slot after the one before, or earlier, where the running motion would end
before an answer can come. The policy is told what the arm follows in the first steps after the
picture, as many as its answers took lately and one more, and goes on from there. What the policy
remembers between two pictures is what the guard reported of that time; that is also what its answer
is joined to (par_model/seam.py).

Shapes: J joints; L actions of a slot; d committed actions.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from par_ros.control.followed_actions import FollowedActions
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.control.observation_assembler import AssembledObservation, ImageArray, Refusal
from par_ros.control.policy_turn import (
    PendingPicture,
    PictureType,
    PolicyTurn,
    Question,
    TurnSettings,
)
from par_ros.control.timeline import Moment

# Answers whose delay is looked at, and what is added to the longest.
_NUM_DELAYS = 20
_MARGIN_STEPS = 1
# A report is taken as straight between its points: at 15 rad/s^2 and a step of 0.05 s that is
# 0.05^2 / 8 * 15 = 5 mrad off at most.
_MAX_APART_RAD = 0.01
# A picture this early counts as on time.
_TOLERANCE_NS = 1_000_000


@dataclass(frozen=True)
class OverlapSettings:
    """What the policy was trained for.

    Attributes:
        num_actions: L, actions of a slot.
        max_delay_steps: the most committed actions that it goes on from.
        step_s: time between two actions.
        max_prefix_steps: committed actions that it is told at most; None: max_delay_steps.
        num_joined: targets up to its picture that a chunk is joined to; 0: it is not joined.
    """

    num_actions: int
    max_delay_steps: int
    step_s: float
    max_prefix_steps: int | None = None
    num_joined: int = 0

    @property
    def horizon(self) -> int:
        """Actions of a chunk."""
        return self.num_actions + self.max_delay_steps

    @property
    def max_image_age_s(self) -> float:
        """An older picture's chunk would have nothing left that can be followed."""
        return (self.horizon - 2) * self.step_s


class OverlappedTurn(PolicyTurn[PictureType]):
    """A PolicyTurn that asks early."""

    def __init__(
        self,
        settings: TurnSettings,
        overlap: OverlapSettings,
        read_picture: Callable[[PictureType, str], ImageArray],
        fit_picture: Callable[[ImageArray, str], ImageArray],
        now: Moment,
    ) -> None:
        self._overlap = overlap
        self._step_ns = round(overlap.step_s * NANOSECONDS)
        self._followed = FollowedActions()
        self._delays_s: deque[float] = deque(maxlen=_NUM_DELAYS)
        super().__init__(settings, read_picture, fit_picture, now)

    @property
    def planned_steps(self) -> int:
        """d: control steps within which the next answer is expected to be followed."""
        if not self._delays_s:
            return self._overlap.max_delay_steps
        steps = math.ceil(max(self._delays_s) / self._overlap.step_s) + _MARGIN_STEPS
        return min(steps, self._overlap.max_delay_steps)

    def _forget_motion(self) -> None:
        super()._forget_motion()
        self._followed.forget()
        self._ends_ns: int | None = None
        # The newest picture that the policy was shown, and the newest chunk that was reported on.
        self._shown_ns: int | None = None
        self._told_ns = 0

    def awaits_executed_actions(self, stamp_ns: int) -> bool:
        """Whether these belong to the last chunk sent, or tell more of one before it."""
        if not self.is_active or self._sent is None:
            return False
        return self._told_ns <= stamp_ns <= self._sent.stamp_ns

    def _note_executed(
        self, stamp_ns: int, executed: JointTrajectory, now: Moment, *, holds: bool
    ) -> None:
        """Take what is followed from the report's first point on."""
        sent = self._sent
        assert sent is not None
        self._told_ns = stamp_ns
        self._note_report(stamp_ns, executed)
        self._ends_ns = (
            self._followed.rests_ns if holds else stamp_ns + self._overlap.horizon * self._step_ns
        )
        if stamp_ns == sent.stamp_ns and not sent.acknowledged:
            self._sent = dataclasses.replace(sent, acknowledged=True)
            self._delays_s.append((now.ros_ns - stamp_ns) / NANOSECONDS)

    def _note_report(self, stamp_ns: int, executed: JointTrajectory) -> None:
        """Take what is followed; where it begins elsewhere than was believed, a report was lost,
        and what the policy remembers is not what happened."""
        begin_ns = stamp_ns + round(float(executed.times_s[0]) * NANOSECONDS)
        believed = self._followed.at(np.array([begin_ns]))
        if believed is not None:
            apart_rad = np.abs(believed[0] - executed.positions[0])[:-1].max()
            if apart_rad > _MAX_APART_RAD:
                self._lose_track()
        self._followed.add(stamp_ns, executed.times_s, executed.positions)

    def followed_until(self, question: Question[PictureType], now: Moment) -> FloatArray | None:
        """What an answer that is sent now is joined to, as par_model.seam.join takes it; None where
        it is not known what the arm follows, or chunks are not joined."""
        if not self._overlap.num_joined:
            return None
        stamp_ns, horizon = question.pending.stamp_ns, self._overlap.horizon
        first_row = min(max(0, (now.ros_ns - stamp_ns) // self._step_ns), horizon)
        steps = np.arange(1 - self._overlap.num_joined, first_row + 1)
        followed = self._followed.at(stamp_ns + self._step_ns * steps)
        if followed is None and self._sent is None:
            # To stand, before any chunk.
            followed = np.tile(question.assembled.measured_joint_positions, (len(steps), 1))
        return followed

    def _is_due(self, stamp_ns: int) -> bool:
        """Whether a picture of this stamp is answered; notes a lost context."""
        sent, shown_ns = self._sent, self._shown_ns
        if sent is None or shown_ns is None:
            return True
        if stamp_ns <= shown_ns:
            return False
        overlap = self._overlap
        if not sent.acknowledged:
            lost_ns = sent.stamp_ns + (overlap.horizon + overlap.num_actions) * self._step_ns
            is_lost = stamp_ns > lost_ns
            if is_lost:
                self._lose_track()
            return is_lost
        assert self._ends_ns is not None
        slot_ends_ns = shown_ns + overlap.num_actions * self._step_ns
        due_ns = min(slot_ends_ns, self._ends_ns - self.planned_steps * self._step_ns)
        return stamp_ns >= due_ns - _TOLERANCE_NS

    def _lose_track(self) -> None:
        """What the arm follows is not known."""
        self._context_lost = True
        self._followed.forget()

    def _assemble(
        self, pending: PendingPicture[PictureType], now_ns: int
    ) -> AssembledObservation | Refusal:
        assembled = super()._assemble(pending, now_ns)
        if isinstance(assembled, Refusal):
            return assembled
        executed = self._executed_until(pending.stamp_ns)
        if executed is None and self._shown_ns is not None:
            self._context_lost = True
        self._shown_ns = pending.stamp_ns
        if self._context_lost:
            executed = None
        return dataclasses.replace(assembled, executed_actions=executed)

    def _executed_until(self, stamp_ns: int) -> FloatArray | None:
        """The actions since the last picture, the last one due now; None where they are not known,
        or are more than the policy can be told of."""
        if self._shown_ns is None:
            return None
        count = max(1, (stamp_ns - self._shown_ns + _TOLERANCE_NS) // self._step_ns)
        if count > self._overlap.horizon:
            return None
        return self._followed.at(stamp_ns - self._step_ns * np.arange(count - 1, -1, -1))

    def _committed(self, assembled: AssembledObservation) -> FloatArray | None:
        """What is followed in the first steps after the picture, as far as the policy is told; to
        stand, before any chunk; nothing, where it is not known."""
        count = self.planned_steps
        times_ns = assembled.stamp_ns + self._step_ns * np.arange(1, count + 1)
        committed = self._followed.at(times_ns)
        if committed is None:
            standing = self._sent is None
            committed = np.tile(assembled.measured_joint_positions, (count if standing else 0, 1))
        return committed[: self._overlap.max_prefix_steps]
