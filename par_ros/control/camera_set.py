# SPDX-License-Identifier: Apache-2.0
"""The cameras of a policy, one a view: each one's checks, their pictures matched by stamp, and the
image that the policy is shown.

A picture of the first view is answered together with those of the other views that ViewMatch finds.
A picture that finds no partner is not answered; where none has for as long as a camera may be
silent, the view that is missing is named.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import numpy as np
import numpy.typing as npt

from par_ros.control.camera_check import CameraCheck, CameraCheckSettings
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.observation_assembler import ImageArray, Refusal
from par_ros.control.settings import parameter
from par_ros.control.view_match import MatchedPictures, PictureType, ViewMatch

DEFAULT_VIEWS = ("front",)


@dataclass(frozen=True)
class ViewSettings:
    """The views, and how far apart in time their pictures may be."""

    names: tuple[str, ...] = DEFAULT_VIEWS
    max_skew_s: float = parameter(
        0.03, "realtime: most time between the pictures of two views that are answered together",
        unit="s", minimum=0.0, maximum=1.0,
    )  # fmt: skip

    # Of the names, those whose pictures are levels of depth.
    depth: tuple[str, ...] = ()

    def image_topic(self, view: str) -> str:
        """Under which name the node knows a view's topic."""
        return "camera/image_raw" if view == self.names[0] else f"camera/{view}/image_raw"


class CameraSet(Generic[PictureType]):
    """The cameras since the last reset(). Times are the monotonic clock's, in seconds."""

    def __init__(
        self,
        views: ViewSettings,
        settings: CameraCheckSettings,
        read_picture: Callable[[PictureType, str], ImageArray],
        fit_picture: Callable[[ImageArray, str], ImageArray],
        now_s: float,
    ) -> None:
        """read_picture and fit_picture: as PolicyTurn's."""
        self._views, self._settings = views, settings
        self._match = ViewMatch[PictureType](views.names, views.max_skew_s)
        self._read_picture, self._fit_picture = read_picture, fit_picture
        self._checks = {
            view: CameraCheck(
                settings, now_s, views.image_topic(view), is_depth=view in views.depth
            )
            for view in views.names
        }
        self.reset(now_s)

    def reset(self, now_s: float) -> None:
        """Forget the pictures: an episode begins."""
        for check in self._checks.values():
            check.reset(now_s)
        self._match.reset()
        self._matched_s = now_s

    def see(
        self,
        view: str,
        pixels: npt.NDArray[np.uint8],
        stamp_ns: int,
        arm_positions: FloatArray | None,
        now_s: float,
        source: str,
    ) -> Refusal | None:
        """Take one picture as it came, as CameraCheck.see; why it is not usable, None if it is."""
        check = self._checks[view]
        check.see(pixels, stamp_ns, arm_positions, now_s, source)
        refusal = check_stamped(stamp_ns) or check.check_stream(now_s)
        return None if refusal is None else self.named(refusal, view)

    def forget(self, view: str) -> None:
        """A view's pictures are not to be trusted."""
        self._match.forget(view)

    def match(
        self, view: str, picture: PictureType, stamp_ns: int, now_s: float
    ) -> MatchedPictures[PictureType] | Refusal | None:
        """As ViewMatch.take; a refusal where a picture has waited for its partner for too long."""
        matched = self._match.take(view, picture, stamp_ns)
        if matched is None:
            return self.check_silence(now_s)
        self._matched_s = now_s
        return matched

    def check_silence(self, now_s: float) -> Refusal | None:
        """Why there is nothing to answer: a camera is silent, or no pictures match; None where
        something came lately."""
        for view, check in self._checks.items():
            if (refusal := check.check_silence(now_s)) is not None:
                return self.named(refusal, view)
        limit_s = self._settings.max_silence_s
        if len(self._checks) == 1 or limit_s is None or now_s - self._matched_s <= limit_s:
            return None
        return self._mismatch()

    def _mismatch(self) -> Refusal | None:
        """Which view has no partner for the first one's newest picture."""
        lacking = self._match.lacking()
        if lacking is None:
            return None
        view, apart_ns = lacking
        away = "there is none"
        if apart_ns is not None:
            away = f"the nearest is {apart_ns / NANOSECONDS:+.3f} s away"
        return Refusal(
            "views",
            f"view {view!r}: a picture must be within {self._views.max_skew_s:g} s of view "
            f"{self._views.names[0]!r}'s, {away}; check both cameras' rates and clocks, or raise "
            "max_view_skew_s.",
        )

    def image(self, pictures: tuple[PictureType, ...], now_s: float) -> ImageArray | Refusal:
        """What the policy is shown: the views in its size, one above the other."""
        images = []
        for view, picture in zip(self._views.names, pictures, strict=True):
            image = self.fitted(picture, now_s, view)
            if isinstance(image, Refusal):
                return image
            refusal = self._checks[view].check_brightness(image)
            if refusal is not None:
                return self.named(refusal, view)
            images.append(image)
        return images[0] if len(images) == 1 else np.concatenate(images)

    def fitted(
        self, picture: PictureType, now_s: float, view: str | None = None
    ) -> ImageArray | Refusal:
        """A picture of a view (None: the first) in the policy's size."""
        view = view or self._views.names[0]
        try:
            image = self._read_picture(picture, view)
        except ValueError as error:
            return self.named(Refusal("encoding", str(error)), view)
        try:
            fitted = self._fit_picture(image, view)
        except ValueError as error:
            return self.named(Refusal("size", str(error)), view)
        height, width = image.shape[:2]
        refusal = self._checks[view].check_size(height, width, now_s)
        return fitted if refusal is None else self.named(refusal, view)

    def accept_sizes(self) -> bool:
        """The pictures that were looked at last are answered; True where the size of one is
        another."""
        accepted = [check.accept_size() for check in self._checks.values()]
        return any(accepted)

    def named(self, refusal: Refusal, view: str) -> Refusal:
        """The refusal with the name of its view, where there are several."""
        if len(self._checks) == 1:
            return refusal
        return dataclasses.replace(refusal, reason=f"view {view!r}: {refusal.reason}")


def check_stamped(stamp_ns: int) -> Refusal | None:
    """Whether a picture has a stamp at all."""
    if stamp_ns != 0:
        return None
    return Refusal(
        "unstamped",
        "a picture must be stamped with the time at which it was taken, this one's stamp is 0; "
        "check the camera's driver.",
    )
