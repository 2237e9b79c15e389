# SPDX-License-Identifier: Apache-2.0
"""When the motion of the last chunk sent is over. An arm that moves goes on through a reset of the
policy, so this outlives episodes. Times are integer nanoseconds of ROS time.
"""


class LastMotion:
    """Of the last chunk that one policy sent, in any episode."""

    def __init__(self, longest_ns: int) -> None:
        """longest_ns: after this time from its stamp, a chunk without a report is over."""
        self._longest_ns = longest_ns
        self._stamp_ns: int | None = None
        self._rests_ns = 0

    def send(self, stamp_ns: int) -> None:
        """A chunk of this stamp was sent."""
        self._stamp_ns, self._rests_ns = stamp_ns, stamp_ns + self._longest_ns

    def is_of(self, stamp_ns: int) -> bool:
        """Whether a report of this stamp is about it."""
        return stamp_ns == self._stamp_ns

    def take_report(self, stamp_ns: int, rests_ns: int) -> None:
        """The guard reported when the arm comes to rest; of an earlier chunk this says nothing."""
        if self.is_of(stamp_ns):
            self._rests_ns = rests_ns

    def is_over(self, time_ns: int) -> bool:
        """Whether the arm stands from this time on, as far as it is known; without a chunk, yes."""
        return self._stamp_ns is None or time_ns >= self._rests_ns
