# SPDX-License-Identifier: Apache-2.0
"""Which pictures of several views belong together: those whose stamps lie nearest to each other.

A picture of the first view is taken together with the picture of every other view that lies nearest
to it among those that have come, within `max_skew_s`, and is taken once. With one view every
picture is taken as it comes. Stamps are integer nanoseconds.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from par_ros.control.joint_trajectory import NANOSECONDS

PictureType = TypeVar("PictureType")

# A second at 30 Hz.
_NUM_WAITING = 30


@dataclass(frozen=True)
class MatchedPictures(Generic[PictureType]):
    """A picture of each view, in the order of the views, and their stamps."""

    pictures: tuple[PictureType, ...]
    stamps_ns: tuple[int, ...]


class ViewMatch(Generic[PictureType]):
    """The newest pictures of each view since the last reset()."""

    def __init__(self, names: tuple[str, ...], max_skew_s: float) -> None:
        self._names = names
        self._max_skew_ns = round(max_skew_s * NANOSECONDS)
        self.reset()

    def reset(self) -> None:
        """Forget the pictures."""
        self._waiting: dict[str, deque[tuple[int, PictureType]]] = {
            view: deque(maxlen=_NUM_WAITING) for view in self._names
        }

    def forget(self, view: str) -> None:
        """Forget those of one view."""
        self._waiting[view].clear()

    def take(
        self, view: str, picture: PictureType, stamp_ns: int
    ) -> MatchedPictures[PictureType] | None:
        """The newest picture of the first view that now has a partner in every other one, once;
        None where it waits for one."""
        first, *others = self._names
        if not others:
            return MatchedPictures((picture,), (stamp_ns,))
        self._waiting[view].append((stamp_ns, picture))
        for main in reversed(self._waiting[first]):
            partners = [self._partner(other, main[0]) for other in others]
            found = [partner for partner in partners if partner is not None]
            if len(found) == len(others):
                # Older ones are not taken any more.
                newer = [kept for kept in self._waiting[first] if kept[0] > main[0]]
                self._waiting[first] = deque(newer, _NUM_WAITING)
                chosen = (main, *found)
                return MatchedPictures(tuple(p for _, p in chosen), tuple(s for s, _ in chosen))
        return None

    def lacking(self) -> tuple[str, int | None] | None:
        """A view without a partner for the first one's newest picture that waits, and how far its
        nearest picture is from that, ns, None without any; None where there is no such view."""
        first, *others = self._names
        if not self._waiting[first]:
            return None
        stamp_ns = self._waiting[first][-1][0]
        for view in others:
            if self._partner(view, stamp_ns) is None:
                nearest = self._nearest(view, stamp_ns)
                return view, None if nearest is None else nearest[0] - stamp_ns
        return None

    def _partner(self, view: str, stamp_ns: int) -> tuple[int, PictureType] | None:
        nearest = self._nearest(view, stamp_ns)
        if nearest is None or abs(nearest[0] - stamp_ns) > self._max_skew_ns:
            return None
        return nearest

    def _nearest(self, view: str, stamp_ns: int) -> tuple[int, PictureType] | None:
        return min(
            self._waiting[view], key=lambda waiting: abs(waiting[0] - stamp_ns), default=None
        )
