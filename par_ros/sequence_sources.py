# SPDX-License-Identifier: Apache-2.0
"""Publishers of one topic, told apart by their sequence numbers.

rclpy of Jazzy does not say who published a message. A publisher's numbers rise from
message to message, so a number that does not rise is another publisher's, or that of a publisher
that was started again.
"""


class SequenceSources:
    """Names the publisher of each message, as far as its number tells."""

    def __init__(self) -> None:
        self._last: list[int] = []
        self._recent = 0
        self._names: dict[int, str] = {}

    def index(self, number: int) -> int:
        """Which publisher, counted from 0: the one whose last number is the nearest below."""
        below = [index for index, last in enumerate(self._last) if last < number]
        if below:
            nearest = min(below, key=lambda i: (number - self._last[i], i != self._recent))
            self._last[nearest] = number
        else:
            nearest = len(self._last)
            self._last.append(number)
        self._recent = nearest
        return nearest

    def name(self, index: int, publishers: set[str]) -> str:
        """One of the topic's publishers, another one for each index; empty while nobody is known.

        Where no name is left, a publisher was started again, or the graph does not know it yet: it
        has the first name for the moment, and is not named.
        """
        if index not in self._names and publishers:
            free = sorted(publishers - set(self._names.values()))
            if not free:
                return min(publishers)
            self._names[index] = free[0]
        return self._names.get(index, "")

    def is_named(self, index: int) -> bool:
        """Whether `name` needs no look at the graph."""
        return index in self._names
