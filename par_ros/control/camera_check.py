# SPDX-License-Identifier: Apache-2.0
"""Checks that the camera is alive and shows a scene. The policy gets no picture that fails.

Looks at every picture as it comes: its raw bytes, its stamp and where the arm was measured then.
Age, encoding and size are judged elsewhere (ObservationAssembler, messages.py, the checkpoint's
camera rule); a size that changes during an episode is judged here.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.observation_assembler import ImageArray, Refusal
from par_ros.control.settings import parameter

# Kinds of refusal that are the camera's: the words of /diagnostics' camera_fault.
CAMERA_FAULTS = (
    "silent", "stalled", "frozen", "black", "size", "encoding", "stale", "future", "unstamped",
    "two_cameras", "views",
)  # fmt: skip
# Pictures of two publishers that came in turn count as mixed for this long.
_MIXED_S = 3.0


@dataclass(frozen=True)
class CameraCheckSettings:
    """Limits of what a camera may do. A time of None: no limit (physics waits)."""

    max_silence_s: float | None = parameter(
        1.0, "realtime: longest time without a picture before the camera counts as silent",
        unit="s", minimum=0.05, maximum=60.0,
    )  # fmt: skip
    max_stall_s: float | None = parameter(
        0.3, "realtime: longest time in which pictures come whose stamps do not go on",
        unit="s", minimum=0.02, maximum=60.0,
    )  # fmt: skip
    # A camera's noise makes every two pictures differ.
    frozen_motion_rad: float = parameter(
        0.1, "pictures may be equal byte by byte while no joint of the arm moves further than this",
        unit="rad", minimum=0.001, maximum=10.0,
    )  # fmt: skip
    # Mean over all pixels and channels.
    min_brightness: float = parameter(
        8.0, "mean brightness below which a picture is black; of depth: 255 times the share of "
        "pixels with a measurement; 0 takes any", unit="of 255",
        minimum=0.0, maximum=255.0,
    )  # fmt: skip


class CameraCheck:
    """One camera since the last reset(). Times are the monotonic clock's, in seconds."""

    def __init__(
        self,
        settings: CameraCheckSettings,
        now_s: float,
        topic_name: str = "camera/image_raw",
        *,
        is_depth: bool = False,
    ) -> None:
        """topic_name: of its pictures, as the node knows it; is_depth: they are levels of depth, 0
        where nothing was measured."""
        self._settings, self._topic_name = settings, topic_name
        self._is_depth = is_depth
        self.reset(now_s)

    def reset(self, now_s: float) -> None:
        """Forget the pictures: an episode begins."""
        self._heard_s = now_s
        self._has_heard = False
        self._stamp_ns: int | None = None
        self._went_on_s = now_s
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._still_from: FloatArray | None = None
        self._moved_rad = 0.0
        # Of the pictures that were answered, and of the one that was looked at last.
        self._size: tuple[int, int] | None = None
        self._size_seen_s = now_s
        self._size_looked_at = (0, 0)
        self._looked_s = now_s
        self._source: str | None = None
        self._sources_seen_s: dict[str, float] = {}
        self._mixed_since_s = -np.inf

    def see(
        self,
        pixels: npt.NDArray[np.uint8],
        stamp_ns: int,
        arm_positions: FloatArray | None,
        now_s: float,
        source: str = "",
    ) -> None:
        """Take one picture as it came.

        Args:
            pixels: uint8 [N], the picture's bytes; kept until the next one, and not written into.
            arm_positions: float64 [J], the arm's newest measured joints without the gripper; None
                before any have come.
            source: who published it; empty where that is not known.
        """
        self._see_source(source, now_s)
        self._heard_s = now_s
        self._has_heard = True
        # A stamp that steps back is no progress, but the next one is measured from it.
        if self._stamp_ns is None or stamp_ns > self._stamp_ns:
            self._went_on_s = now_s
        self._stamp_ns = stamp_ns
        if self._pixels is None or not np.array_equal(pixels, self._pixels):
            self._pixels, self._still_from, self._moved_rad = pixels, arm_positions, 0.0
        elif self._still_from is None:
            self._still_from = arm_positions
        elif arm_positions is not None:
            moved_rad = float(np.abs(arm_positions - self._still_from).max())
            self._moved_rad = max(self._moved_rad, moved_rad)

    def _see_source(self, source: str, now_s: float) -> None:
        """A publisher that comes back after another one has not been replaced by it."""
        if not source:
            return
        seen_s = self._sources_seen_s.get(source, -np.inf)
        if self._source not in (None, source) and now_s - seen_s <= _MIXED_S:
            self._mixed_since_s = now_s
        self._source = source
        self._sources_seen_s[source] = now_s

    def check_stream(self, now_s: float) -> Refusal | None:
        """Why the pictures are not usable (mixed, stalled or frozen); None if they are."""
        if now_s - self._mixed_since_s <= _MIXED_S:
            names = sorted(
                name for name, seen_s in self._sources_seen_s.items() if now_s - seen_s <= _MIXED_S
            )
            return Refusal(
                "two_cameras",
                f"pictures must come from one publisher, they come from {' and '.join(names)} on "
                "one topic; end one of them, or start each with a topic of its own and name the "
                "camera's with camera_topic:= or further_cameras:= (./par real_arm), or by "
                f"remapping {self._topic_name}.",
            )
        limit_s = self._settings.max_stall_s
        stalled_s = now_s - self._went_on_s
        if limit_s is not None and self._has_heard and stalled_s > limit_s:
            return Refusal(
                "stalled",
                f"the stamps of pictures must go on at least every {limit_s:g} s, they have not "
                f"for {stalled_s:.2f} s although pictures come; check the camera's driver and its "
                "clock.",
            )
        if self._moved_rad > self._settings.frozen_motion_rad:
            return Refusal(
                "frozen",
                "the camera sends one and the same picture although a joint has moved "
                f"{self._moved_rad:.2f} rad ({self._settings.frozen_motion_rad:g} rad are allowed);"
                " check the camera's driver.",
            )
        return None

    def check_silence(self, now_s: float) -> Refusal | None:
        """Why there is no picture to answer; None if one came recently."""
        limit_s = self._settings.max_silence_s
        silence_s = now_s - self._heard_s
        if limit_s is None or silence_s <= limit_s:
            return None
        since = f"for {silence_s:.1f} s" if self._has_heard else "at all"
        return Refusal(
            "silent",
            f"a picture must come at least every {limit_s:g} s, none has come {since}; check the "
            f"camera, and which topic is mapped to {self._topic_name}.",
        )

    def check_size(self, height: int, width: int, now_s: float) -> Refusal | None:
        """Whether a picture has the size, in pixels, of those that were answered in this episode.

        Another size is right once none of the old size has been looked at for `max_silence_s`.
        """
        size = self._size_looked_at = (height, width)
        self._looked_s = now_s
        limit_s = self._settings.max_silence_s
        if self._size in (None, size):
            self._size_seen_s = now_s
            return None
        if limit_s is not None and now_s - self._size_seen_s > limit_s:
            return None
        assert self._size is not None
        return Refusal(
            "size",
            f"the camera's pictures were {self._size[1]} x {self._size[0]} before and are "
            f"{width} x {height} now; check for two cameras on one topic, or call the policy's "
            "~/reset after a change of mode.",
        )

    def accept_size(self) -> bool:
        """The picture whose size was checked last is answered; True where its size is another."""
        is_other = self._size not in (None, self._size_looked_at)
        self._size, self._size_seen_s = self._size_looked_at, self._looked_s
        return is_other

    def check_brightness(self, picture: ImageArray) -> Refusal | None:
        """Whether a picture, uint8 [H, W, 3], shows anything."""
        if self._is_depth:
            return self._check_measured(picture)
        brightness = float(picture.mean())
        if brightness >= self._settings.min_brightness:
            return None
        return Refusal(
            "black",
            f"a picture must have a mean brightness of {self._settings.min_brightness:g} of 255, "
            f"this one has {brightness:.1f}; check the lens cap, the light and the exposure.",
        )

    def _check_measured(self, picture: ImageArray) -> Refusal | None:
        """The same for depth: a pixel with a measurement is white, one without is black."""
        share, least = float((picture > 0).mean()), self._settings.min_brightness / 255.0
        if share >= least:
            return None
        return Refusal(
            "black",
            f"a depth picture must have measured {least:.1%} of its pixels (min_brightness), this "
            f"one has {share:.1%}; check what covers the camera, and its range.",
        )
