# SPDX-License-Identifier: Apache-2.0
"""One reading of both clocks, and the one timeline on which the guard keeps its motions.

Outside simulation the timeline is the steady clock: joint_trajectory_controller advances a running
trajectory by measured periods, which a step of the ROS clock does not touch. ROS time is computed
when a stamp is written, from the moment at hand. So a step of the ROS clock between two
trajectories moves nothing; one between the sending and the pick-up of a trajectory does, which is
why a step disengages and nothing more is sent.

In simulation the arm itself lives on the ROS clock, so the timeline is that clock. It moves in
lumps of a control step and may run slower or faster than the steady clock.

Times are integer nanoseconds.
"""

from dataclasses import dataclass

from par_ros.control.joint_trajectory import NANOSECONDS

# Outside simulation the two clocks may run apart by this much before it counts as a step; a clock
# that is slewed (NTP: at most 500 ppm) is followed at up to twice that rate.
MAX_DIVERGENCE_NS = 2_000_000
_FOLLOWED_SLEW = 1e-3
# A simulated clock may go on this much further than the steady one between two looks: it comes in
# lumps, and a loaded machine looks late. It never goes back.
MAX_SIMULATED_LUMP_NS = 250_000_000
# At a hundredth of real time a control step takes five seconds.
MAX_STANDING_NS = 10_000_000_000


@dataclass(frozen=True)
class Moment:
    """Both clocks, read together.

    Attributes:
        ros_ns: the node's clock: ROS time, simulated or not.
        steady_ns: the monotonic clock, which nobody sets.
    """

    ros_ns: int
    steady_ns: int

    @property
    def offset_ns(self) -> int:
        """ROS time minus steady time."""
        return self.ros_ns - self.steady_ns


@dataclass(frozen=True)
class ClockStep:
    """How far the ROS clock jumped against the steady clock, seconds; negative: back."""

    step_s: float


class Timeline:
    """Maps moments and stamps to the time on which motions are kept, and notices clock steps."""

    def __init__(self, *, simulated: bool) -> None:
        """simulated: the timeline is the ROS clock; otherwise it is the steady clock."""
        self._simulated = simulated
        self._last: Moment | None = None
        # When the ROS clock moved last, by the steady clock.
        self._moved_ns = 0
        self._expected_offset_ns = 0.0

    def time_ns(self, moment: Moment) -> int:
        """The timeline's time of a moment."""
        return moment.ros_ns if self._simulated else moment.steady_ns

    def seconds(self, moment: Moment) -> float:
        """The same in seconds, for deadlines: those of a slow simulation are its own."""
        return self.time_ns(moment) / NANOSECONDS

    def has_stopped(self, moment: Moment) -> bool:
        """Whether a simulated clock has stood for so long that no deadline on it counts."""
        return self._simulated and moment.steady_ns - self._moved_ns > MAX_STANDING_NS

    def stamp_ns(self, time_ns: int, moment: Moment) -> int:
        """The ROS time of `time_ns`, by the clocks as they were read at `moment`."""
        return time_ns if self._simulated else time_ns + moment.offset_ns

    def of_stamp(self, stamp_ns: int, moment: Moment) -> int:
        """The timeline's time of a ROS stamp; the inverse of stamp_ns()."""
        return stamp_ns if self._simulated else stamp_ns - moment.offset_ns

    def advance(self, moment: Moment) -> ClockStep | None:
        """Look at the clocks; the step, if the ROS clock has made one since the last look."""
        last, self._last = self._last, moment
        if last is None or last.ros_ns != moment.ros_ns:
            self._moved_ns = moment.steady_ns
        if last is None:
            self._expected_offset_ns = moment.offset_ns
            return None
        if self._simulated:
            return _simulated_step(last, moment)
        return self._divergence(last, moment)

    def _divergence(self, last: Moment, moment: Moment) -> ClockStep | None:
        apart_ns = moment.offset_ns - self._expected_offset_ns
        most_ns = _FOLLOWED_SLEW * (moment.steady_ns - last.steady_ns)
        # The expected offset may still be on its way after a smaller step to the other side.
        jump_ns = moment.offset_ns - last.offset_ns
        if abs(jump_ns) - most_ns > max(MAX_DIVERGENCE_NS, abs(apart_ns)):
            apart_ns = jump_ns
        if abs(apart_ns) > MAX_DIVERGENCE_NS:
            self._expected_offset_ns = moment.offset_ns
            return ClockStep(apart_ns / NANOSECONDS)
        self._expected_offset_ns += min(max(apart_ns, -most_ns), most_ns)
        return None


def _simulated_step(last: Moment, moment: Moment) -> ClockStep | None:
    ros_ns = moment.ros_ns - last.ros_ns
    apart_ns = ros_ns - (moment.steady_ns - last.steady_ns)
    if ros_ns < 0 or apart_ns > MAX_SIMULATED_LUMP_NS:
        return ClockStep(apart_ns / NANOSECONDS)
    return None
