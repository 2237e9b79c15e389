# SPDX-License-Identifier: Apache-2.0
"""The moments of a recording at which all its views have a picture, matched as policy_node matches
them (par_ros/control/view_match.py). Times are integer nanoseconds; N moments, V views."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from par_ros.control.view_match import MatchedPictures, ViewMatch
from par_ros.dataset.resampling import NANOSECONDS, TimeArray


@dataclass(frozen=True)
class Moments:
    """Pictures that belong together.

    Attributes:
        times_ns: [N], stamps of the first view's pictures.
        pictures: [N, V], number of the picture among those of its view, in the order in which they
            were written.
    """

    times_ns: TimeArray
    pictures: TimeArray


class MomentFinder:
    """Takes the stamps of a recording's pictures in the order in which they were written."""

    def __init__(
        self, views: tuple[str, ...], topics: Mapping[str, str], max_skew_s: float
    ) -> None:
        """topics: which view a topic's pictures are of."""
        self._views, self._topics, self._max_skew_s = views, topics, max_skew_s
        self._match = ViewMatch[int](views, max_skew_s)
        self._found: list[MatchedPictures[int]] = []
        self._num_pictures: Counter[str] = Counter()

    def add(self, topic: str, stamp_ns: int) -> None:
        """Take the next picture."""
        view = self._topics[topic]
        found = self._match.take(view, self._num_pictures[view], stamp_ns)
        self._num_pictures[view] += 1
        if found is not None:
            self._found.append(found)

    def moments(self) -> Moments:
        """Raises ValueError, without a full stop, naming a view that has no pictures, or none that
        match."""
        for view in self._views:
            if not self._num_pictures[view]:
                topics = " or ".join(t for t, shown in self._topics.items() if shown == view)
                raise ValueError(
                    f"nothing was recorded of view {view!r} (topic {topics}); check that its "
                    "camera ran, and the topic's name"
                )
        if not self._found:
            raise ValueError(self._why_none())
        return Moments(
            np.array([found.stamps_ns[0] for found in self._found], np.int64),
            np.array([found.pictures for found in self._found], np.int64),
        )

    def unmatched(self) -> str:
        """How many pictures of which views are in no moment; empty where all are in one."""
        used = [set(numbers) for numbers in zip(*(f.pictures for f in self._found), strict=True)]
        parts = [
            f"{total - len(numbers)} of {total} pictures of view {view!r}"
            for view, numbers in zip(self._views, used, strict=True)
            if (total := self._num_pictures[view]) > len(numbers)
        ]
        if not parts:
            return ""
        return (
            f"{' and '.join(parts)} have no partner within {self._max_skew_s:g} s, and are not used"
        )

    def _why_none(self) -> str:
        lacking = self._match.lacking()
        assert lacking is not None
        view, apart_ns = lacking
        away = "" if apart_ns is None else f", the nearest is {apart_ns / NANOSECONDS:+.3f} s away"
        return (
            f"no picture of view {view!r} is within {self._max_skew_s:g} s of one of view "
            f"{self._views[0]!r}{away}; check both cameras' rates and clocks, and max_view_skew_s"
        )
