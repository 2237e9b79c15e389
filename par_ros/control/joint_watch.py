# SPDX-License-Identifier: Apache-2.0
"""What the measured joints say: whether the arm stands, follows its command, and is one arm.

Stamps of joint states are looked at before they are used: one that is not near the clock, or does
not go on, makes its sample worth nothing, and joint states that are worth nothing stop the arm as
absent ones do. One sample is never enough to believe where the arm is.

J arm joints; samples have the gripper besides, last.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.commanded_motion import MotionHistory
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.safety_filter import Fault
from par_ros.control.timeline import Moment

# What it takes to believe that the arm stands, and where.
MIN_SAMPLES = 5
MIN_SPAN_S = 0.2
MAX_SPREAD_RAD = 0.002
# The newest must be this new, and those before it no older than the window.
_FRESH_S = 0.1
_WINDOW_S = 0.45
_SAMPLES_KEPT = 512
# Two machines' clocks may differ by this much.
MAX_FUTURE_S = 0.05
# Joint states may come this much further apart than full speed allows (noise, a late message).
_JOINT_JUMP_RAD = 0.05
# A tracking error must last: one late joint state is none.
TRACKING_ERROR_TIME_S = 0.1
_NUM_TRACKING_SAMPLES = 6
# Two sources that disagree by less than a jump: the distance from the command goes up and down
# by more than this from sample to sample, so many times in a row.
_SOURCES_APART_RAD = 0.01
_NUM_ALTERNATIONS = 4


@dataclass(frozen=True)
class _Seen:
    """A sample and both clocks when it came."""

    sample: JointSample
    moment: Moment


class JointWatch:
    """The newest joint states of one arm."""

    def __init__(
        self,
        spec: ArmSpec,
        *,
        max_age_s: float,
        max_engage_speed_rad_s: float,
        simulated: bool,
        lockstep: bool,
    ) -> None:
        """What is known of the clock.

        Args:
            simulated: the ROS clock may run slower than the steady one, but must run.
            lockstep: /clock may come behind what is stamped with it.
        """
        self._max_future_s = np.inf if lockstep else MAX_FUTURE_S
        self._spec = spec
        self._max_age_s = max_age_s
        self._max_speed_rad_s = max_engage_speed_rad_s
        self._simulated = simulated
        self._lags_ns = np.linspace(0.0, spec.tracking_lag_s * NANOSECONDS, _NUM_TRACKING_SAMPLES)
        # Why there is no whole joint state; empty where there is.
        self.missing = ""
        self._unusable = ""
        self.forget()

    def forget(self) -> None:
        """The arm may be moved by hand from now on: what was seen says nothing any more."""
        self._seen: deque[_Seen] = deque(maxlen=_SAMPLES_KEPT)
        self.restart_tracking()

    def restart_tracking(self) -> None:
        """Judge the distance from the command anew."""
        self._off_track_since_ns: int | None = None
        self._last_error: FloatArray | None = None
        self._last_change = np.zeros(self._spec.num_arm_joints)
        self._num_alternations = np.zeros(self._spec.num_arm_joints, np.int64)

    @property
    def newest(self) -> JointSample | None:
        """None before the first usable sample."""
        return self._seen[-1].sample if self._seen else None

    def take(self, sample: JointSample, moment: Moment) -> str:
        """Take a sample; why it is worth nothing, or empty where it is taken."""
        self._unusable = self._why_unusable(sample, moment)
        if not self._unusable:
            self.missing = ""
            self._seen.append(_Seen(sample, moment))
        return self._unusable

    def reject(self, reason: str) -> None:
        """Take note of a joint state that could not be read; what was seen says nothing more."""
        self._unusable = reason.rstrip(".")
        self.forget()

    def _why_unusable(self, sample: JointSample, moment: Moment) -> str:
        age_s = (moment.ros_ns - sample.stamp_ns) / NANOSECONDS
        if not -self._max_future_s <= age_s <= self._max_age_s:
            return (
                f"joint states must be stamped within {self._max_age_s:g} s of now, the last is "
                f"{age_s:.3f} s old; check the driver's clock and use_sim_time"
            )
        if self._seen and sample.stamp_ns <= self._seen[-1].sample.stamp_ns:
            return (
                "stamps of joint states must increase, the last is "
                f"{(self._seen[-1].sample.stamp_ns - sample.stamp_ns) / NANOSECONDS:.3f} s behind "
                "the one before; check for two joint_states publishers"
            )
        return ""

    def why_silent(self) -> str:
        """What to say where no usable joint state has come for too long: the first cause."""
        nothing = "no message has arrived; check the arm's driver and the joint_states topic"
        return self._unusable or self.missing or nothing

    def _why_stale(self) -> str:
        """The same where one has come before."""
        if self._unusable or self.missing:
            return f"no joint state can be used: {self.why_silent()}"
        return f"joint states are stale: {self.why_silent()}"

    # Where the arm stands.

    def why_not_standing(self, moment: Moment) -> str:
        """Why it is not known that the arm stands, and where; empty where it is."""
        if not self._seen:
            return f"no joint state can be used: {self.why_silent()}"
        recent = self._recent(moment)
        if not recent or not self._is_fresh(recent[-1], moment):
            return self._why_stale()
        stopped = self._why_stopped_clock(recent)
        if stopped:
            return stopped
        span_s = (recent[-1].sample.stamp_ns - recent[0].sample.stamp_ns) / NANOSECONDS
        if len(recent) < MIN_SAMPLES or span_s < MIN_SPAN_S:
            return (
                f"at least {MIN_SAMPLES} joint states over {MIN_SPAN_S:g} s must agree, there are "
                f"{len(recent)} over {span_s:.2f} s; try again in a moment"
            )
        return (
            self._why_spread(recent)
            or self._why_moving(recent[-1].sample)
            or self.why_outside(recent[-1].sample)
        )

    def _is_fresh(self, seen: _Seen, moment: Moment) -> bool:
        """Whether a sample says something about now."""
        age_ns = moment.ros_ns - seen.sample.stamp_ns
        if not self._simulated:
            age_ns = max(age_ns, moment.steady_ns - seen.moment.steady_ns)
        return age_ns <= _FRESH_S * NANOSECONDS

    def _recent(self, moment: Moment) -> list[_Seen]:
        """Samples of the last moments, by the clock that the arm lives on."""
        if self._simulated:
            begin_ns = moment.ros_ns - _WINDOW_S * NANOSECONDS
            return [seen for seen in self._seen if seen.sample.stamp_ns >= begin_ns]
        begin_ns = moment.steady_ns - _WINDOW_S * NANOSECONDS
        return [seen for seen in self._seen if seen.moment.steady_ns >= begin_ns]

    def why_not_known(self, moment: Moment) -> str:
        """Lockstep: physics waits, so one sample is all there is."""
        sample = self.newest
        if sample is None:
            return f"no joint state can be used: {self.why_silent()}"
        if moment.ros_ns - sample.stamp_ns > self._max_age_s * NANOSECONDS:
            return self._why_stale()
        return self._why_moving(sample) or self.why_outside(sample)

    def _why_stopped_clock(self, recent: list[_Seen]) -> str:
        first, last = recent[0].moment, recent[-1].moment
        ros_ns, steady_ns = last.ros_ns - first.ros_ns, last.steady_ns - first.steady_ns
        if len(recent) < MIN_SAMPLES:
            return ""
        if ros_ns > (0.0 if self._simulated else 0.5 * steady_ns):
            return ""
        return (
            f"the ROS clock must run, it went {ros_ns / NANOSECONDS:.3f} s in "
            f"{steady_ns / NANOSECONDS:.3f} s; check use_sim_time and /clock"
        )

    def _why_spread(self, recent: list[_Seen]) -> str:
        positions = np.array([seen.sample.positions[:-1] for seen in recent])
        spread = np.ptp(positions, axis=0)
        if not np.any(spread > MAX_SPREAD_RAD):
            return ""
        joint = int(np.argmax(spread))
        return (
            f"the arm must stand still to engage, {self._spec.arm_joint_names[joint]} was reported "
            f"{spread[joint]:.3g} rad apart; wait, or check for two joint_states publishers"
        )

    def _why_moving(self, sample: JointSample) -> str:
        if sample.velocities is None:
            return ""
        speed = float(np.max(np.abs(sample.velocities[:-1])))
        if speed <= self._max_speed_rad_s:
            return ""
        return f"the arm must stand still to engage, it moves at {speed:.3g} rad/s"

    def why_outside(self, sample: JointSample) -> str:
        """Which joints lie outside the position limits; empty where none does."""
        limits, positions = self._spec.limits, sample.positions[:-1]
        outside = (positions < limits.min_position) | (positions > limits.max_position)
        names = [name for name, out in zip(self._spec.arm_joint_names, outside, strict=True) if out]
        if not names:
            return ""
        return f"{', '.join(names)} is outside the position limits; move the arm by hand"

    # Whether it follows.

    def jump(self) -> Fault | None:
        """Whether the newest sample lies further from the one before than the arm can move."""
        if len(self._seen) < 2:
            return None
        previous, sample = self._seen[-2].sample, self._seen[-1].sample
        elapsed_s = (sample.stamp_ns - previous.stamp_ns) / NANOSECONDS
        moved = np.abs(sample.positions - previous.positions)[:-1]
        allowed = 2.0 * self._spec.limits.max_velocity * elapsed_s + _JOINT_JUMP_RAD
        if not np.any(moved > allowed):
            return None
        joint = int(np.argmax(moved - allowed))
        return Fault(
            "joint_jump",
            f"{self._spec.arm_joint_names[joint]} was measured {moved[joint]:.3g} rad away from "
            f"where it was {elapsed_s:.3f} s before; check the encoder and for two joint_states "
            "publishers.",
        )

    def two_sources(self, motions: MotionHistory, time_ns: int) -> Fault | None:
        """Whether the newest samples alternate between two places (`time_ns`: of the newest)."""
        assert self._seen
        commanded = motions.positions_at(np.array([time_ns], np.float64))[0]
        error = self._seen[-1].sample.positions[:-1] - commanded
        if self._last_error is None:
            self._last_error = error
            return None
        change, self._last_error = error - self._last_error, error
        alternates = (change * self._last_change < 0.0) & (np.abs(change) > _SOURCES_APART_RAD)
        alternates &= np.abs(self._last_change) > _SOURCES_APART_RAD
        self._last_change = change
        self._num_alternations = np.where(alternates, self._num_alternations + 1, 0)
        if not np.any(self._num_alternations >= _NUM_ALTERNATIONS):
            return None
        joint = int(np.argmax(self._num_alternations))
        return Fault(
            "two_sources",
            f"{self._spec.arm_joint_names[joint]} is reported at two places "
            f"{abs(change[joint]):.3g} rad apart in turn; check for two joint_states publishers.",
        )

    def tracking(self, motions: MotionHistory, time_ns: int) -> Fault | None:
        """Whether the newest sample (at `time_ns`) lies near what was commanded within the lag."""
        if time_ns < motions.known_since_ns:
            return None
        assert self._seen
        commanded = motions.positions_at(time_ns - self._lags_ns)
        measured = self._seen[-1].sample.positions[:-1]
        error = np.maximum(commanded.min(axis=0) - measured, measured - commanded.max(axis=0))
        limit = self._spec.max_tracking_error_rad
        if not np.any(error > limit):
            self._off_track_since_ns = None
            return None
        if self._off_track_since_ns is None:
            self._off_track_since_ns = time_ns
        if time_ns - self._off_track_since_ns < TRACKING_ERROR_TIME_S * NANOSECONDS:
            return None
        joint = int(np.argmax(error))
        return Fault(
            "tracking_error",
            f"{self._spec.arm_joint_names[joint]} must stay within {limit:g} rad of its command, "
            f"it is {error[joint]:.3g} rad away; check for a collision, a protective stop, a "
            "stopped controller, or a soft arm's lag_s.",
        )
