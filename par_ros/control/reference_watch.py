# SPDX-License-Identifier: Apache-2.0
"""What the arm's controller says that it is commanding: did it take what was sent?

joint_trajectory_controller publishes its reference with the time of the control cycle
(`controller_state`); the simulated arms publish the same on `controller_reference`. A sample is
compared with the running motion and with the one before it, at the sample's own time. The cycle's
time is not exactly the time at which the controller sampled its curve, so what a small shift along
the motion explains is no difference: for a fault half a millisecond; for a late pick-up, which is
only logged, a fifth of that (measured on ros2_control at 1 kHz: at most 0.05 ms in 99 of 100).

J arm joints. Times are integer nanoseconds of the guard's timeline.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from par_ros.control.commanded_motion import CommandedMotion, MotionHistory
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.timeline import Moment, Timeline

# A trajectory must be followed this long after its splice, by two samples in a row.
TAKEN_AFTER_S = 0.02
_NUM_AGAINST = 2
# Same curve: rounding, and what a shifted sample's curvature leaves.
_SAME_RAD = 5e-5
_MAX_SHIFT_S = 0.0005
_LATE_SHIFT_S = 0.0001
# At rest a reference is exact.
_SAME_AT_REST_RAD = 1e-7
_REST_RAD_S = 1e-3
_AT_REST_AFTER_S = 0.05
_MAX_AHEAD_S = 0.2
# No queue keeps a sample for longer: its stamp is of another clock.
_OTHER_CLOCK_S = 5.0
_FULL_SPEED = 0.999

Verdict = Literal["", "taken", "late", "not_taken", "elsewhere", "moved_at_rest"]
UnusableKind = Literal["not_finite", "out_of_order", "old", "other_clock"]


@dataclass(frozen=True)
class ReferenceSample:
    """The reference of the arm's J joints, float64 [J] each, at `stamp_ns` (ROS time).

    speed_scaling: 1 where the controller runs at full speed or does not say.
    """

    stamp_ns: int
    positions: FloatArray
    velocities: FloatArray
    accelerations: FloatArray
    speed_scaling: float = 1.0

    @property
    def is_finite(self) -> bool:
        """False where a number is NaN or infinite."""
        rows = (self.positions, self.velocities, self.accelerations)
        return all(bool(np.isfinite(row).all()) for row in rows)


@dataclass(frozen=True)
class Unusable:
    """Why a sample is worth nothing: one word for counters, and a sentence."""

    kind: UnusableKind
    reason: str


@dataclass
class _Seen:
    """What the references have shown of one motion.

    Attributes:
        taken: they follow it.
        late: one after its splice was not on it.
        num_against: in a row, those that were not on it.
    """

    taken: bool = False
    late: bool = False
    num_against: int = 0


class ReferenceWatch:
    """The newest reference, and whether the running motion was taken."""

    def __init__(self, timeline: Timeline, max_age_s: float) -> None:
        """max_age_s: a reference must come this often, and be stamped no longer ago."""
        self._timeline = timeline
        self.max_age_s = max_age_s
        self.newest: ReferenceSample | None = None
        # Why the last sample was not usable; None where it was.
        self.unusable: Unusable | None = None
        self._heard_ns: int | None = None
        self._seen = _Seen()
        self._seen_of_before = _Seen()

    @property
    def confirmed(self) -> bool:
        """Whether the running motion was seen taken."""
        return self._seen.taken

    def begin(self) -> None:
        """A motion was sent, or it is known that the one sent last does not run."""
        self._seen_of_before, self._seen = self._seen, _Seen()

    def take_back(self) -> None:
        """What was to be sent last was not: the motion before goes on, as far as it was seen."""
        self._seen = self._seen_of_before

    @property
    def is_known(self) -> bool:
        """True once a reference has come."""
        return self.newest is not None

    def take(self, sample: ReferenceSample, moment: Moment) -> Unusable | None:
        """Take a sample; why it is worth nothing, or None where it is good."""
        self.unusable = self._why_unusable(sample, moment)
        if self.unusable is not None:
            # Out of order for long, the clock has stepped: what comes now counts again.
            if not self.is_heard(moment):
                self.newest = None
            return self.unusable
        self.newest = sample
        self._heard_ns = self._timeline.time_ns(moment)
        return None

    def _why_unusable(self, sample: ReferenceSample, moment: Moment) -> Unusable | None:
        if not sample.is_finite:
            return Unusable("not_finite", "a number is not finite (NaN or Inf)")
        age_s = (moment.ros_ns - sample.stamp_ns) / NANOSECONDS
        if not -_MAX_AHEAD_S <= age_s <= _OTHER_CLOCK_S:
            side = f"{age_s:.3f} s ago" if age_s > 0.0 else f"{-age_s:.3f} s ahead"
            return Unusable(
                "other_clock",
                f"stamped {side}, which is the time of another clock; check the time "
                "synchronisation of the two machines, and use_sim_time",
            )
        if age_s > self.max_age_s:
            return Unusable(
                "old",
                f"stamped {age_s:.3f} s ago, at most {self.max_age_s:g} s is usable; check the "
                "network, the load, and the time synchronisation of the two machines",
            )
        if self.newest is not None and sample.stamp_ns <= self.newest.stamp_ns:
            behind_s = (self.newest.stamp_ns - sample.stamp_ns) / NANOSECONDS
            return Unusable(
                "out_of_order",
                f"stamped {behind_s:.3f} s before the one before it, or at the same time; check "
                "for two controllers on this topic",
            )
        return None

    def is_heard(self, moment: Moment) -> bool:
        """Whether a reference came within the last `max_age_s`."""
        if self._heard_ns is None:
            return False
        return self._timeline.time_ns(moment) - self._heard_ns <= self.max_age_s * NANOSECONDS

    @property
    def why_unusable(self) -> str:
        """What is wrong with the last reference that came; empty where it was good."""
        if self.unusable is None:
            return ""
        return f"the last one that came is not usable: {self.unusable.reason}"

    @property
    def is_slowed(self) -> bool:
        """Whether the controller says that it runs slower than time."""
        return self.newest is not None and self.newest.speed_scaling < _FULL_SPEED

    @property
    def is_at_rest(self) -> bool:
        """Whether the newest reference stands."""
        return self.newest is not None and not np.any(np.abs(self.newest.velocities) > _REST_RAD_S)

    def judge(self, motions: MotionHistory, time_ns: int) -> Verdict:
        """What the newest reference, at `time_ns`, says about the running motion.

        Empty: nothing new. "late" once, where a sample after the splice is not on the running
        motion. "not_taken": for longer, on the motion before. "elsewhere": for longer, on neither.
        """
        assert self.newest is not None
        running, before = motions.running, motions.before
        if time_ns <= running.departs_ns:
            return ""
        if _follows(self.newest, running, time_ns, _MAX_SHIFT_S):
            verdict = self._note_followed(running, time_ns)
            is_exact = _follows(self.newest, running, time_ns, _LATE_SHIFT_S)
            return verdict if verdict or is_exact else self._note_late()
        if self._moved_at_rest(running, time_ns):
            return "moved_at_rest"
        followed = before is not None and _follows(self.newest, before, time_ns, _MAX_SHIFT_S)
        after_s = (time_ns - running.departs_ns) / NANOSECONDS
        self._seen.num_against += 1
        if after_s >= TAKEN_AFTER_S and self._seen.num_against >= _NUM_AGAINST:
            return "not_taken" if followed else "elsewhere"
        # Taken late, the controller goes from the motion before to the next point: on neither.
        return self._note_late()

    def _note_late(self) -> Verdict:
        """Once a motion, and not after it was seen taken: a reading of the clock may be off."""
        if self._seen.late or self._seen.taken:
            return ""
        self._seen.late = True
        return "late"

    def _note_followed(self, running: CommandedMotion, time_ns: int) -> Verdict:
        self._seen.num_against = 0
        if not self._seen.taken and time_ns >= running.departs_ns + TAKEN_AFTER_S * NANOSECONDS:
            self._seen.taken = True
            return "taken"
        if self._moved_at_rest(running, time_ns):
            return "moved_at_rest"
        return ""

    def _moved_at_rest(self, running: CommandedMotion, time_ns: int) -> bool:
        """Both stand, at different places: a controller that holds does so where it measures."""
        assert self.newest is not None
        if time_ns < running.rest_ns + _AT_REST_AFTER_S * NANOSECONDS or not self.is_at_rest:
            return False
        apart = np.abs(self.newest.positions - running.state_at(time_ns).positions)
        return bool(np.any(apart > _SAME_AT_REST_RAD))


def _follows(
    sample: ReferenceSample, motion: CommandedMotion, time_ns: int, most_shift_s: float
) -> bool:
    """Whether `sample` lies on `motion` within `most_shift_s` of `time_ns`."""
    state = motion.state_at(time_ns)
    apart = sample.positions - state.positions
    speed = float(state.velocities @ state.velocities)
    shift_s = 0.0
    if speed > 0.0:
        shift_s = float(np.clip(apart @ state.velocities / speed, -most_shift_s, most_shift_s))
    left = np.abs(apart - shift_s * state.velocities)
    allowed = _SAME_RAD + 0.5 * np.abs(state.accelerations) * shift_s**2
    return not np.any(left > allowed)
