# SPDX-License-Identifier: Apache-2.0
"""Whether an arm under ros2_control is ready, and when the guard must disengage."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

# A rate is known after so many joint states, or so much time.
_RATE_WINDOW = 50
_RATE_TIME_S = 1.0
# A publisher of the least rate is now and then a little late.
_RATE_SHARE = 0.95
_ACTIVE = "active"
# Of answers of the controller manager, which is asked every two seconds.
_MAX_CONTROLLERS_SILENCE_S = 7.0
_MAX_CLOCK_STANDING_S = 5.0


@dataclass(frozen=True)
class CommandTopics:
    """Publishers and subscribers of the command topics.

    Attributes:
        listeners: subscribers of each command topic, this node left out.
        publishers: names of the nodes that publish on each.
        joint_states: why none can come as the graph is; empty where they can.
    """

    listeners: Mapping[str, int]
    publishers: Mapping[str, tuple[str, ...]]
    joint_states: str = ""


class Supervision:
    """Collects what is heard of arm and guard; times are monotonic seconds."""

    def __init__(
        self,
        *,
        min_joint_state_rate_hz: float,
        max_guard_silence_s: float,
        dry_run: bool,
        use_sim_time: bool = False,
    ) -> None:
        self._use_sim_time = use_sim_time
        self._clock_ns = 0
        self._clock_moved_s: float | None = None
        self._missing_joints = ""
        self._min_rate_hz = min_joint_state_rate_hz
        self._max_silence_s = max_guard_silence_s
        self._dry_run = dry_run
        self._joint_state_times_s: deque[float] = deque(maxlen=_RATE_WINDOW)
        self._joint_fault = ""
        self._guard_heard_s: float | None = None
        self._guard_engaged = False
        self._controllers: Mapping[str, str] = {}
        self._controllers_heard_s: float | None = None
        self._blends_from_measured = False

    def on_joint_state(self, monotonic_s: float) -> None:
        """A complete joint state came."""
        self._joint_fault = ""
        self._missing_joints = ""
        self._joint_state_times_s.append(monotonic_s)

    def on_bad_joint_state(self, reason: str) -> None:
        """An unusable joint state came."""
        self._joint_fault = reason

    def on_missing_joints(self, reason: str) -> None:
        """A part of a joint state came."""
        self._missing_joints = reason

    def on_clock(self, ros_ns: int, monotonic_s: float) -> None:
        """The node's clock was read."""
        if ros_ns != self._clock_ns:
            self._clock_ns, self._clock_moved_s = ros_ns, monotonic_s

    def on_guard(self, engaged: bool, monotonic_s: float) -> None:
        """The guard reported."""
        self._guard_engaged = engaged
        self._guard_heard_s = monotonic_s

    def on_controllers(self, states: Mapping[str, str], monotonic_s: float) -> None:
        """controller_manager's states of the arm's controllers."""
        self._controllers = states
        self._controllers_heard_s = monotonic_s

    def on_interpolation(self, from_desired_state: bool) -> None:
        """The arm controller's interpolate_from_desired_state."""
        self._blends_from_measured = not from_desired_state

    @property
    def controllers_known(self) -> bool:
        """True once the controller manager has answered."""
        return self._controllers_heard_s is not None

    def problems(self, view: CommandTopics, guard: str, monotonic_s: float) -> tuple[str, ...]:
        """Why the arm is not ready, one clause a reason; empty if it is ready."""
        found = (
            self.clock_problem(monotonic_s),
            self.joint_problem(view, monotonic_s),
            self._guard_problem(monotonic_s),
        )
        return tuple(filter(None, found)) + self.command_problems(view, guard, monotonic_s)

    def command_problems(
        self, view: CommandTopics, guard: str, monotonic_s: float
    ) -> tuple[str, ...]:
        """The part of problems() that is about controllers and who publishes commands."""
        found = []
        if not self._dry_run:
            found += [
                f"no controller listens on {topic}"
                for topic, count in view.listeners.items()
                if count < 1
            ]
        for topic, names in view.publishers.items():
            strangers = sorted(set(names) - {guard})
            if strangers:
                found.append(f"{', '.join(strangers)} publishes on {topic}, only {guard} may")
            if names.count(guard) > 1:
                found.append(f"{names.count(guard)} guards publish on {topic}")
        if self._blends_from_measured and not self._dry_run:
            found.append(
                "the arm controller's interpolate_from_desired_state is false, so each trajectory "
                "would begin with a step of the arm's lag; set it to true in the controllers file"
            )
        if not self._dry_run:
            found += [
                f"controller {name} is {state}"
                for name, state in self._controllers.items()
                if state != _ACTIVE
            ]
            found.append(self._manager_problem(monotonic_s))
        return tuple(problem for problem in found if problem)

    def must_disengage(self, problems: tuple[str, ...]) -> bool:
        """True once for each time that an engaged guard's arm stops being ready."""
        if not problems or not self._guard_engaged:
            return False
        # Until the guard reports again: one call is enough.
        self._guard_engaged = False
        return True

    def clock_problem(self, monotonic_s: float) -> str:
        """The part of problems() that is about simulated time."""
        if not self._use_sim_time:
            return ""
        if self._clock_moved_s is None:
            return "use_sim_time is true and nothing has come on /clock: start what publishes it"
        standing_s = monotonic_s - self._clock_moved_s
        if standing_s <= _MAX_CLOCK_STANDING_S:
            return ""
        return f"/clock has stood for {standing_s:.1f} s; check what publishes it"

    def joint_problem(self, view: CommandTopics, monotonic_s: float) -> str:
        """The part of problems() that is about joint states."""
        if self._joint_fault:
            return self._joint_fault
        times_s = self._joint_state_times_s
        cause = view.joint_states or self._missing_joints
        because = f": {cause}" if cause else ""
        if not times_s:
            return f"no complete joint state has come{because}"
        silence_s = monotonic_s - times_s[-1]
        if silence_s > 5.0 / self._min_rate_hz:
            return f"no joint state for {silence_s:.2f} s{because}"
        elapsed_s = times_s[-1] - times_s[0]
        if (elapsed_s < _RATE_TIME_S and len(times_s) < _RATE_WINDOW) or elapsed_s <= 0.0:
            return ""
        rate_hz = (len(times_s) - 1) / elapsed_s
        if rate_hz >= _RATE_SHARE * self._min_rate_hz:
            return ""
        return f"joint states come at {rate_hz:.0f} Hz, {self._min_rate_hz:g} Hz are needed"

    def _guard_problem(self, monotonic_s: float) -> str:
        if self._guard_heard_s is None:
            return "the guard has not reported"
        silence_s = monotonic_s - self._guard_heard_s
        if silence_s <= self._max_silence_s:
            return ""
        return f"the guard has not reported for {silence_s:.1f} s"

    def _manager_problem(self, monotonic_s: float) -> str:
        if self._controllers_heard_s is None:
            return ""
        silence_s = monotonic_s - self._controllers_heard_s
        if silence_s <= _MAX_CONTROLLERS_SILENCE_S:
            return ""
        return f"controller_manager has not answered for {silence_s:.1f} s"
