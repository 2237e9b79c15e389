# SPDX-License-Identifier: Apache-2.0
"""Which picture is answered while the arm moves (docs/lab_notebook/overlap.md).

A picture is answered a slot after the one before, or earlier, where the running motion would end
before an answer can come. The policy is told what the arm follows in the first steps after the
picture, as many as its answers took lately and one more, and goes on from there. What the policy
remembers between two pictures is what the guard reported of that time; that is also what its answer
is joined to (par_model/seam.py).

An arm that a guard holds at rest may be moved by somebody else, since the guard may be disengaged.
So the policy starts anew after a report of a hold that stands from its first point on, and with a
picture more than a slot after the end of a hold's motion; where the arm is measured elsewhere than
it was held, it stands there.

Shapes: J joints; L actions of a slot; d committed actions.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_ros.control.followed_actions import FollowedActions, Report
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.control.last_motion import LastMotion
from par_ros.control.observation_assembler import AssembledObservation, ImageArray, Refusal
from par_ros.control.policy_turn import (
    PendingPicture,
    PictureType,
    PolicyTurn,
    Question,
    TurnSettings,
)
from par_ros.control.timeline import Moment

IntArray = npt.NDArray[np.int64]

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
    """A PolicyTurn that asks early; its settings count the steps between pictures."""

    def __init__(
        self,
        settings: TurnSettings,
        overlap: OverlapSettings,
        read_picture: Callable[[PictureType, str], ImageArray],
        fit_picture: Callable[[ImageArray, str], ImageArray],
        now: Moment,
    ) -> None:
        assert settings.steps_between is not None
        self._overlap = overlap
        self._step_ns = round(overlap.step_s * NANOSECONDS)
        self._followed = FollowedActions()
        self._last_motion = LastMotion((overlap.horizon + overlap.num_actions) * self._step_ns)
        self._delays_s: deque[float] = deque(maxlen=_NUM_DELAYS)
        super().__init__(settings, read_picture, fit_picture, now)

    @property
    def planned_steps(self) -> int:
        """d: control steps within which the next answer is expected to be followed."""
        if not self._delays_s:
            return self._overlap.max_delay_steps
        steps = math.ceil(max(self._delays_s) / self._overlap.step_s) + _MARGIN_STEPS
        # Below 1 where the clock is behind the camera's or the guard's.
        return max(1, min(steps, self._overlap.max_delay_steps))

    def _forget_motion(self) -> None:
        super()._forget_motion()
        self._followed.forget()
        self._ends_ns: int | None = None
        # The newest chunk that was reported on, and the newest report where it tells of a hold.
        self._told_ns = 0
        self._hold: Report | None = None

    def awaits_executed_actions(self, stamp_ns: int) -> bool:
        """Whether these belong to the last chunk sent, or tell more of one before it; active or
        not, whether they belong to the last chunk of an earlier episode."""
        if self._sent is None:
            return self._last_motion.is_of(stamp_ns)
        return self.is_active and self._told_ns <= stamp_ns <= self._sent.stamp_ns

    def send(self, question: Question[PictureType], positions: FloatArray) -> bool:
        """As PolicyTurn.send."""
        is_sent = super().send(question, positions)
        if is_sent:
            self._last_motion.send(question.pending.stamp_ns)
        return is_sent

    def _note_executed(
        self, stamp_ns: int, executed: JointTrajectory, now: Moment, *, holds: bool
    ) -> None:
        """Take what is followed from the report's first point on; of an earlier episode's chunk,
        when the arm comes to rest."""
        report = Report.of(stamp_ns, executed.times_s, executed.positions)
        self._last_motion.take_report(stamp_ns, report.rests_ns)
        sent = self._sent
        if sent is None:
            return
        self._told_ns = stamp_ns
        self._note_report(report)
        self._hold = report if holds else None
        self._ends_ns = (
            report.rests_ns if holds else stamp_ns + self._overlap.horizon * self._step_ns
        )
        if stamp_ns == sent.stamp_ns and not sent.acknowledged:
            self._sent = dataclasses.replace(sent, acknowledged=True)
            self._delays_s.append((now.ros_ns - stamp_ns) / NANOSECONDS)

    def _note_report(self, report: Report) -> None:
        """Take what is followed; where it begins elsewhere than was believed, a report was lost,
        and what the policy remembers is not what happened."""
        believed = self._followed.at(np.array([report.begin_ns]))
        if believed is not None and _are_apart(believed[0], report.positions[0]):
            self._lose_track()
        self._followed.add(report)

    def followed_until(self, question: Question[PictureType], now: Moment) -> FloatArray | None:
        """What an answer that is sent now is joined to, as par_model.seam.join takes it; None where
        it is not known what the arm follows, or chunks are not joined."""
        if not self._overlap.num_joined:
            return None
        stamp_ns, horizon = question.pending.stamp_ns, self._overlap.horizon
        first_row = min(max(0, (now.ros_ns - stamp_ns) // self._step_ns), horizon)
        steps = np.arange(1 - self._overlap.num_joined, first_row + 1)
        return self._followed_at(steps, question.assembled)

    def _followed_at(self, steps: IntArray, assembled: AssembledObservation) -> FloatArray | None:
        """What the arm follows so many steps (increasing) after the picture: to stand where it is
        measured, before the episode's first chunk; None where it is not known, or where the last
        chunk of an earlier episode moves the arm still."""
        stamp_ns = assembled.stamp_ns
        times_ns = stamp_ns + self._step_ns * steps
        followed = self._followed.at(times_ns)
        is_first = followed is None and self._sent is None
        if is_first and self._last_motion.is_over(min(stamp_ns, int(times_ns[0]))):
            followed = np.tile(assembled.measured_joint_positions, (len(steps), 1))
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
        if self._hold is not None and self._may_be_moved(self._hold, pending.stamp_ns):
            self._context_lost = True
            self._stand_where_measured(self._hold, assembled)
        executed = self._executed_until(pending.stamp_ns)
        self._context_lost |= executed is None and self._shown_ns is not None
        return dataclasses.replace(assembled, executed_actions=executed)

    def _may_be_moved(self, hold: Report, stamp_ns: int) -> bool:
        """Whether another than the guard may have moved the arm until a picture of this stamp."""
        slot_ns = self._overlap.num_actions * self._step_ns
        return hold.rests_ns == hold.begin_ns or stamp_ns > hold.rests_ns + slot_ns

    def _stand_where_measured(self, hold: Report, assembled: AssembledObservation) -> None:
        """Where the arm was held at rest and is measured elsewhere, it stands there."""
        next_ns = assembled.stamp_ns + self._step_ns
        believed = self._followed.at(np.array([next_ns]))
        measured = assembled.measured_joint_positions
        is_at_rest = next_ns >= hold.rests_ns - _TOLERANCE_NS
        if believed is None or not is_at_rest or not _are_apart(believed[0], measured):
            return
        since_ns = assembled.stamp_ns - self._overlap.num_joined * self._step_ns
        self._followed.forget()
        self._followed.add(Report(np.array([since_ns]), measured[None]))

    def _executed_until(self, stamp_ns: int) -> FloatArray | None:
        """The actions since the last picture, the last one due now; None where they are not known,
        or the policy starts anew."""
        if self._shown_ns is None or self._context_lost:
            return None
        count = max(1, (stamp_ns - self._shown_ns + _TOLERANCE_NS) // self._step_ns)
        return self._followed.at(stamp_ns - self._step_ns * np.arange(count - 1, -1, -1))

    def _committed(self, assembled: AssembledObservation) -> FloatArray | None:
        """What is followed in the first steps after the picture, as far as the policy is told;
        nothing, where it is not known."""
        steps = np.arange(1, self.planned_steps + 1)
        committed = self._followed_at(steps, assembled)
        if committed is None:
            committed = np.empty((0, len(assembled.joint_names)))
        return committed[: self._overlap.max_prefix_steps]


def _are_apart(positions: FloatArray, others: FloatArray) -> bool:
    """Whether two poses [J] of the arm differ by more than a report's rounding."""
    return bool(np.abs(positions - others)[:-1].max() > _MAX_APART_RAD)
