# SPDX-License-Identifier: Apache-2.0
"""Whether an arm under ros2_control is ready, and when the guard must disengage."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

_RATE_WINDOW = 50
_ACTIVE = "active"
# Of answers of the controller manager, which is asked every two seconds.
_MAX_CONTROLLERS_SILENCE_S = 7.0


@dataclass(frozen=True)
class CommandTopics:
    """Publishers and subscribers of the command topics.

    Attributes:
        listeners: subscribers of each command topic, this node left out.
        publishers: names of the nodes that publish on each.
    """

    listeners: Mapping[str, int]
    publishers: Mapping[str, tuple[str, ...]]


class Supervision:
    """Collects what is heard of arm and guard; times are monotonic seconds."""

    def __init__(
        self, *, min_joint_state_rate_hz: float, max_guard_silence_s: float, dry_run: bool
    ) -> None:
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
        self._joint_state_times_s.append(monotonic_s)

    def on_bad_joint_state(self, reason: str) -> None:
        """An unusable joint state came."""
        self._joint_fault = reason

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
        found = [self._joint_problem(monotonic_s), self._guard_problem(monotonic_s)]
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

    def _joint_problem(self, monotonic_s: float) -> str:
        if self._joint_fault:
            return self._joint_fault
        times_s = self._joint_state_times_s
        if not times_s:
            return "no complete joint state has come"
        silence_s = monotonic_s - times_s[-1]
        if silence_s > 5.0 / self._min_rate_hz:
            return f"no joint state for {silence_s:.2f} s"
        elapsed_s = times_s[-1] - times_s[0]
        if len(times_s) < _RATE_WINDOW or elapsed_s <= 0.0:
            return ""
        rate_hz = (len(times_s) - 1) / elapsed_s
        if rate_hz >= self._min_rate_hz:
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
