# SPDX-License-Identifier: Apache-2.0
"""Named deadlines, in seconds of one clock that the caller reads (Timeline.seconds)."""


class Watchdog:
    """Named deadlines. A name that was never fed, or was stopped, does not expire."""

    def __init__(self) -> None:
        self._deadlines_s: dict[str, float] = {}

    def feed(self, name: str, now_s: float, timeout_s: float) -> None:
        """Expect the next feed of `name` within `timeout_s` of `now_s`."""
        self._deadlines_s[name] = now_s + timeout_s

    def stop(self, name: str) -> None:
        """Expect nothing of `name` any more."""
        self._deadlines_s.pop(name, None)

    def expired(self, name: str, now_s: float) -> bool:
        """True once the deadline of `name` has passed."""
        return now_s > self._deadlines_s.get(name, float("inf"))
