# SPDX-License-Identifier: Apache-2.0
"""Every stop of a soak, and what explains it."""

from collections.abc import Sequence
from dataclasses import dataclass

from par_ros.proof.losses import Loss
from par_ros.wire_records import GuardState

# A lost trajectory is noticed within 0.2 s.
_NOTICED_S = 0.5
# A lost chunk or report is missed a horizon and a slot after its picture, 1.3 s; then an answer.
_MISSED_S = 2.0
# The first chunk after engaging.
_FIRST_CHUNK_S = 2.0
_LATE = "hold late"
_TRAJECTORY = ("trajectory",)
_MESSAGES = ("chunk", "report", "picture")
# What explains a stop of this kind, and within which time before it.
_CAUSES: dict[str, tuple[tuple[str, ...], float]] = {
    "fault not_taken": (_TRAJECTORY, _NOTICED_S),
    "hold unconfirmed": (_TRAJECTORY, _NOTICED_S),
    _LATE: (_MESSAGES, _MISSED_S),
    "fault dead_policy": (_MESSAGES, _MISSED_S),
}


@dataclass(frozen=True)
class Stop:
    """The guard held or disengaged.

    Attributes:
        time_s: ROS seconds.
        kind: "hold" or "fault" and the guard's word for the reason.
        reason: its sentence.
        explained_by: the loss that led to it, "engaging" or "delay"; empty where nothing is known.
    """

    time_s: float
    kind: str
    reason: str
    explained_by: str = ""


class StopList:
    """The stops that guard_state shows, each once."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []
        self._before: GuardState | None = None
        self._engaged_s = float("-inf")

    def note(self, state: GuardState, reason: str, time_s: float) -> None:
        """Take a guard_state and its sentence."""
        before, self._before = self._before, state
        # A state that tells of a fault is that of a guard that was engaged.
        was_engaged = before.engaged if before is not None else bool(state.fault)
        if state.engaged and not was_engaged:
            self._engaged_s = time_s
        if was_engaged and not state.engaged:
            self.stops.append(Stop(time_s, f"fault {state.fault}", reason))
        elif state.engaged and state.holding and (before is None or before.holding == ""):
            by = "engaging" if time_s - self._engaged_s < _FIRST_CHUNK_S else ""
            self.stops.append(Stop(time_s, f"hold {state.holding}", reason, by))

    def explained(self, losses: Sequence[Loss], *, waits: bool = False) -> list[Stop]:
        """The stops with the newest loss that explains each.

        waits: whether the arm waits for each answer, which is delayed.
        """
        return [_explained(stop, losses, waits) for stop in self.stops]


def _explained(stop: Stop, losses: Sequence[Loss], waits: bool) -> Stop:
    kinds, within_s = _CAUSES.get(stop.kind, ((), 0.0))
    for loss in reversed(losses):
        if loss.kind in kinds and 0.0 <= stop.time_s - loss.time_s <= within_s:
            by = f"{loss.kind} lost {stop.time_s - loss.time_s:.2f} s before"
            return Stop(stop.time_s, stop.kind, stop.reason, by)
    if waits and stop.kind == _LATE:
        return Stop(stop.time_s, stop.kind, stop.reason, "delay")
    return stop
