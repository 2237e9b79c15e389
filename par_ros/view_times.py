# SPDX-License-Identifier: Apache-2.0
"""The time axis of the live view: seconds since the first stamp.

A stamp of 0 is none: a sender whose clock has not begun, or a message without a stamp.
"""

from collections import deque

from par_ros.control.joint_trajectory import NANOSECONDS

Event = tuple[str, str]

# Events that are kept until there is a stamp.
_MAX_WAITING = 100


class ViewTimes:
    """Stamps in ns, as they come."""

    def __init__(self) -> None:
        # The first one, the last one, and the newest joint state's; 0 before there is one.
        self._first_ns = self._last_ns = self._joints_ns = 0
        self._waiting: deque[Event] = deque(maxlen=_MAX_WAITING)

    def note(self, stamp_ns: int) -> None:
        """A message of this stamp came."""
        self._first_ns = self._first_ns or stamp_ns
        self._last_ns = stamp_ns or self._last_ns

    def note_joints(self, stamp_ns: int) -> None:
        """A joint state of this stamp came."""
        self.note(stamp_ns)
        self._joints_ns = max(self._joints_ns, stamp_ns)

    def since_start_s(self, stamp_ns: int) -> float:
        """Seconds from the first stamp to this one, which may be it; without one to the last."""
        self.note(stamp_ns)
        return ((stamp_ns or self._last_ns) - self._first_ns) / NANOSECONDS

    def add_event(self, event: Event) -> None:
        """An event without a stamp of its own: level and text."""
        self._waiting.append(event)

    def take_events(self) -> list[tuple[float, Event]]:
        """Time and event of those that were not taken yet: that of the newest joint state, before
        the first one of the last stamp. Without a stamp none, and they are kept."""
        if not self._first_ns:
            return []
        time_s = self.since_start_s(self._joints_ns)
        events = [(time_s, event) for event in self._waiting]
        self._waiting.clear()
        return events
