# SPDX-License-Identifier: Apache-2.0
"""Whose fault a broken limit or a late rest is: the guard's, or that of what no guard can know.

Class (a), the guard's: everything where each pick-up fell within its splice. Class (b), apart, each
with its reason:

- picked up after its splice (where the guard itself had not computed for too long);
- the clock moved between the moment that the guard was given and the pick-up: shown by judging the
  same commands with the clock as it was then, and without fault there;
- a trajectory was lost, and the next was sent before the loss could be judged (20 ms after the
  splice, and 100 ms), or while the controller's reports were lost or late too, or where the
  controller reports nothing;
- the controller held by itself.
"""

from dataclasses import dataclass, field

from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_controller import SentTrajectory
from par_ros.proof.hostile_judge import Broken, StopWatch

_MILLISECOND_NS = 1_000_000
# A trajectory is judged taken this long after its splice, and what is not is noticed this much
# later.
_JUDGED_NS = 20 * _MILLISECOND_NS
_NOTICED_NS = 100 * _MILLISECOND_NS
# Smaller steps of the clock are below what the guard must notice.
_SMALL_STEP_NS = 2 * _MILLISECOND_NS
# What is lost or late this shortly before a stop is not known when it is planned.
_AROUND_STOP_NS = 300 * _MILLISECOND_NS
# Fates of trajectories that the controller never ran.
_NEVER_RAN = frozenset({"lost", "rejected"})
# However it was: what moves, comes to rest by itself.
_MAX_REST_S = 1.6

UNREPORTED = "a trajectory was lost or late, and the controller reports nothing"
UNJUDGED = "sent before the loss of the one before could be judged"
BLIND = "the one before was lost while the controller's reports were lost or late"
LATE = "picked up after its splice"
OVERTAKEN = "the one before would have been picked up after its splice"
CLOCK_STEP = "the clock stepped between sending and pick-up"
CLOCK_DRIFT = "the clock slewed, or was read apart, between sending and pick-up"
FOLLOWS_CLOCK = "the rule of Humble follows the clock's step"
FROZEN = "the controller was frozen since the clock stepped back between sending and pick-up"
OWN_HOLD = "the controller held by itself"
OWN_HOLD_UNREPORTED = "the controller had held by itself, and has not reported it"
LED = "a stop while the arm is led to its start, from where nobody reports"
AROUND_STOP = "a stop around a trajectory that was lost or late"


@dataclass
class History:
    """What happened in a run, for the verdicts. Steady nanoseconds.

    Attributes:
        sent: every trajectory in the order of sending.
        clock_steps: when and how far ROS time stepped.
        blind: intervals without the controller's reports.
        sent_while_clock_stood: a simulator in real time: what was sent while its clock stood was
            in time, however long it took.
        faults: when the guard let go by itself, and why.
    """

    has_reference: bool
    rule: str
    splice_ns: int
    send_within_ns: int | None
    sent_while_clock_stood: bool = False
    sent: list[SentTrajectory] = field(default_factory=list)
    clock_steps: list[tuple[int, int]] = field(default_factory=list)
    blind: list[tuple[int, int]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def noticed_s(self, at_ns: int) -> float | None:
        """From a moment to the guard's next fault within half a second."""
        for fault_ns, _ in self.faults:
            if at_ns <= fault_ns <= at_ns + NANOSECONDS // 2:
                return (fault_ns - at_ns) / NANOSECONDS
        return None

    def is_blind(self, begin_ns: int, end_ns: int) -> bool:
        """Whether reports were missing in an interval."""
        return any(begin < end_ns and end > begin_ns for begin, end in self.blind)

    def stepped_ns(self, begin_ns: int, end_ns: int) -> int:
        """The largest step of the clock in an interval."""
        return max(
            (abs(step) for at, step in self.clock_steps if begin_ns <= at <= end_ns), default=0
        )

    # Broken limits.

    def excuse(self, broken: Broken) -> str:
        """Why no guard could have known; empty: the guard's fault."""
        source = broken.source
        if source is None:
            return OWN_HOLD
        before = broken.before
        if before is not None and before.origin == "engage" and not self.has_reference:
            # The stop's only point is ahead, because from where it begins nobody knows.
            return LED
        picked_ns = source.picked_up_steady_ns or source.given_steady_ns
        if broken.kind == "position" and "ahead" in source.fate:
            # The clock went back meanwhile: a long way to the first point, which overshoots.
            return CLOCK_STEP if self.stepped_ns(source.given_steady_ns, picked_ns) else ""
        if broken.kind in ("finite", "position"):
            return ""
        if not broken.intended_breaks:
            reason = self._clock_excuse(broken)
            if reason or not broken.at_handover:
                return reason
            return self._excuse_of_belief(source, broken)
        if "frozen" in source.fate:
            return FROZEN
        if not broken.at_handover:
            return ""
        if "late" in source.fate and not self.spent_by_guard(source):
            return LATE
        return self._excuse_of_belief(source, broken)

    def spent_by_guard(self, sent: SentTrajectory) -> bool:
        """Whether the guard had computed for longer than it may, and published nevertheless."""
        if self.sent_while_clock_stood:
            # What took long was sent only where the simulator had shown no further step.
            return False
        limit_ns = self.splice_ns if self.send_within_ns is None else self.send_within_ns
        return sent.computing_ns > limit_ns

    def _clock_excuse(self, broken: Broken) -> str:
        source, before = broken.source, broken.before
        assert source is not None
        given_ns = source.given_steady_ns
        picked_ns = source.picked_up_steady_ns or given_ns
        if self.stepped_ns(given_ns, picked_ns):
            return CLOCK_STEP
        if self.rule == "humble" and self.stepped_ns(given_ns, broken.at_steady_ns + 1):
            return FOLLOWS_CLOCK
        if before is not None and before.picked_up_steady_ns is not None:
            # A step that the guard could see at its next look, and did not heed, is its own.
            end_ns = picked_ns if self.rule == "humble" else before.picked_up_steady_ns
            if self.stepped_ns(before.given_steady_ns, end_ns) > _SMALL_STEP_NS:
                return ""
        shift_ns = 0 if before is None else source.shift_ns - before.shift_ns
        return CLOCK_DRIFT if abs(shift_ns) <= _SMALL_STEP_NS or self.rule == "humble" else ""

    def _excuse_of_belief(self, source: SentTrajectory, broken: Broken) -> str:
        """Where the controller ran something else than the guard had sent last."""
        if source.number == 0:
            return ""
        reason = self._excuse_of_last(self.sent[source.number - 1], source)
        ran = any(sent.picked_up_ns is not None for sent in self.sent[: source.number])
        if not reason and broken.before is None and ran:
            # The controller left what it followed by itself.
            return OWN_HOLD_UNREPORTED if self._is_unreported(source, broken.held_ns) else ""
        return reason

    def _excuse_of_last(self, last: SentTrajectory, source: SentTrajectory) -> str:
        """Where the trajectory sent before `source` never ran, and that could not be known."""
        if last.picked_up_ns is not None:
            return ""
        if last.fate & {"late"}:
            return OVERTAKEN
        if not last.fate & {"lost", "rejected"}:
            return ""
        if not self.has_reference:
            return UNREPORTED
        known_ns = last.given_steady_ns + self.splice_ns + _JUDGED_NS + _NOTICED_NS
        if source.given_steady_ns <= known_ns:
            return UNJUDGED
        if self.is_blind(last.given_steady_ns, source.given_steady_ns):
            return BLIND
        return ""

    def _is_unreported(self, source: SentTrajectory, held_ns: int) -> bool:
        """Whether nobody could know yet that the controller had held by itself."""
        given_ns = source.given_steady_ns
        return (
            not self.has_reference
            or given_ns - held_ns <= _NOTICED_NS
            or self.is_blind(held_ns, given_ns)
        )

    # Stops.

    def excuse_of_rest(self, watch: StopWatch) -> str:
        """Why a stop took longer than it may; empty: the guard's fault."""
        ran_until_ns = watch.last_motion_ns or watch.stop_ns
        last = next(
            (
                sent
                for sent in reversed(self.sent)
                if sent.published_steady_ns <= watch.stop_ns and sent.fate.isdisjoint(_NEVER_RAN)
            ),
            None,
        )
        begin_ns = watch.stop_ns - _AROUND_STOP_NS
        if last is not None:
            begin_ns = min(begin_ns, last.given_steady_ns)
        if self.rule == "humble" and self.stepped_ns(begin_ns, ran_until_ns):
            # It stands until its clock has caught up, and goes on then.
            return FOLLOWS_CLOCK
        is_led = last is not None and last.origin == "engage" and not self.has_reference
        if last is not None:
            picked_ns = last.picked_up_steady_ns or watch.stop_ns
            stepped_ns = self.stepped_ns(
                last.given_steady_ns, watch.stop_ns if is_led else picked_ns
            )
            if stepped_ns and watch.rest_s <= _MAX_REST_S + stepped_ns / NANOSECONDS:
                # The controller goes to its start by its own clock, which went back.
                return CLOCK_STEP
        if watch.rest_s > _MAX_REST_S:
            return ""
        if is_led:
            return LED
        newest = [sent for sent in self.sent if sent.published_steady_ns <= watch.stop_ns][-1:]
        if newest and newest[0].fate & _NEVER_RAN and not self.has_reference:
            # It was to stop the arm, as far as the guard can know.
            return UNREPORTED
        begin_ns = watch.stop_ns - _AROUND_STOP_NS
        end_ns = watch.stop_ns + _AROUND_STOP_NS
        for sent in self.sent:
            if not begin_ns <= sent.published_steady_ns <= end_ns:
                continue
            if self.stepped_ns(sent.given_steady_ns, sent.picked_up_steady_ns or end_ns):
                return CLOCK_STEP
            if sent.fate & {"lost", "late", "rejected"}:
                return AROUND_STOP
        return ""
