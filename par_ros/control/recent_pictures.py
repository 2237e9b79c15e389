# SPDX-License-Identifier: Apache-2.0
"""The pictures on the way from one observation to the next, for a policy that sees in clips.

Such a policy was trained on evenly spaced pictures; a gap is a refusal, never filled up.
"""

from collections import deque
from typing import Generic, TypeVar

from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.control.observation_assembler import Refusal

PictureType = TypeVar("PictureType")


class RecentPictures(Generic[PictureType]):
    """Keeps the newest pictures with their stamps, in whatever form they come."""

    def __init__(
        self, *, num_pictures: int, spacing_s: float, max_skew_s: float, num_kept: int
    ) -> None:
        """num_pictures, spacing_s: of a clip, the observation's own picture counted.

        max_skew_s: how far a picture may lie from where it should.
        """
        self._num_pictures = num_pictures
        self._spacing_ns = round(spacing_s * NANOSECONDS)
        self._max_skew_ns = round(max_skew_s * NANOSECONDS)
        self._kept: deque[tuple[int, PictureType]] = deque(maxlen=num_kept)

    def reset(self) -> None:
        """Forget the pictures."""
        self._kept.clear()

    def add(self, stamp_ns: int, picture: PictureType) -> None:
        """Take a picture; one with the stamp of the newest takes its place."""
        if self._kept and self._kept[-1][0] == stamp_ns:
            self._kept.pop()
        self._kept.append((stamp_ns, picture))

    def choose(self, end_ns: int, newest_ns: int) -> tuple[tuple[int, PictureType], ...] | Refusal:
        """(stamp, picture) nearest to every `spacing_s` up to `end_ns`; the last is `newest_ns`.

        end_ns: when the actions before this observation end; newest_ns: the observation's own
        picture, which must have been added.
        """
        chosen: list[tuple[int, PictureType]] = []
        for left in range(self._num_pictures - 1, 0, -1):
            wanted_ns = end_ns - left * self._spacing_ns
            candidates = [
                kept
                for kept in self._kept
                if kept[0] < newest_ns and (not chosen or kept[0] > chosen[-1][0])
            ]
            nearest = min(candidates, key=lambda kept: abs(kept[0] - wanted_ns), default=None)
            if nearest is None or abs(nearest[0] - wanted_ns) > self._max_skew_ns:
                return Refusal("clip", self._why_not(nearest, wanted_ns))
            chosen.append(nearest)
        newest = [kept for kept in self._kept if kept[0] == newest_ns]
        return (*chosen, *newest)

    def _why_not(self, nearest: tuple[int, PictureType] | None, wanted_ns: int) -> str:
        away = "there is none"
        if nearest is not None:
            away = f"the nearest is {(nearest[0] - wanted_ns) / NANOSECONDS:+.3f} s away"
        return (
            f"this policy sees in clips and needs a picture every "
            f"{self._spacing_ns / NANOSECONDS:g} s, within {self._max_skew_ns / NANOSECONDS:g} s; "
            f"{away}. Check the camera's rate, or image_every in simulation."
        )
