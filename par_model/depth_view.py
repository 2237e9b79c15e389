# SPDX-License-Identifier: Apache-2.0
"""A view whose pictures are depth images: distances as grey levels, the same everywhere.

A distance becomes one of 255 levels in three equal channels, so that codec, tokens, videos and
stamps treat it as any picture. Levels are linear in the distance: an error of a level is equally
many millimetres in all of the range. Inverse depth, the other usual choice, has finer levels close
to the camera and coarser ones where the objects are (docs/reference/views.md has the figures).

Shapes: H, W image.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from par_model.camera_fit import CameraFit, ImageArray
from par_model.value_ranges import Range

_FAR_LEVEL, _NEAR_LEVEL = 1, 255

# Where half of an area has no measurement, the area has none.
_LEAST_MEASURED = 128


@dataclass(frozen=True)
class DepthView:
    """The name of a view that is depth, and the distances of its levels.

    Level 255 is `near_m` and everything nearer, level 1 is `far_m` and everything further; level 0
    is a pixel without measurement. Distances are those along the optical axis.
    """

    name: str
    near_m: Annotated[float, Range(0.0, 1000.0)]
    far_m: Annotated[float, Range(0.0, 1000.0)]

    def validate(self) -> None:
        """Raise ValueError for an empty range."""
        if not self.near_m < self.far_m:
            raise ValueError(
                f"depth view {self.name!r}: near_m must be below far_m, got {self.near_m:g} and "
                f"{self.far_m:g}; check the range of depth."
            )

    @property
    def level_m(self) -> float:
        """Metres from a level to the next."""
        return (self.far_m - self.near_m) / (_NEAR_LEVEL - _FAR_LEVEL)

    def to_grey(self, distances_m: npt.NDArray[np.floating[Any]]) -> ImageArray:
        """uint8 [H, W, 3] of distances [H, W]; 0, negative, NaN and Inf are no measurement."""
        is_measured = np.isfinite(distances_m) & (distances_m > 0.0)
        near_to_far_m = np.clip(
            np.where(is_measured, distances_m, self.far_m), self.near_m, self.far_m
        )
        levels = _NEAR_LEVEL - np.rint((near_to_far_m - self.near_m) / self.level_m)
        grey = np.where(is_measured, np.maximum(levels, _FAR_LEVEL), 0).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    def to_metres(self, grey: ImageArray) -> npt.NDArray[np.float32]:
        """float32 [H, W], NaN where there is no measurement, of a picture [H, W, 3]."""
        levels = grey[:, :, 0].astype(np.float32)
        distances_m = self.near_m + (_NEAR_LEVEL - levels) * self.level_m
        return np.where(levels > 0, distances_m, np.nan).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.name} (depth, {self.near_m:g} to {self.far_m:g} m)"


def fit_grey(rule: CameraFit, picture: ImageArray, height: int, width: int) -> ImageArray:
    """A depth view's picture [H, W, 3] in another size, as `rule.fit`; pixels without measurement
    are left out of the means."""
    if picture.shape[:2] == (height, width):
        return picture
    grey = picture[:, :, :1]
    is_measured = np.where(grey > 0, 255, 0).astype(np.uint8)
    means, shares = rule.fit(grey, height, width), rule.fit(is_measured, height, width)
    levels = np.rint(means * (255.0 / np.maximum(shares, 1))).clip(_FAR_LEVEL, _NEAR_LEVEL)
    fitted = np.where(shares >= _LEAST_MEASURED, levels, 0).astype(np.uint8)
    return np.repeat(fitted, 3, axis=2)


def depth_view_of(views: tuple[DepthView, ...], name: str) -> DepthView | None:
    """The depth view of this name; None for a colour view."""
    return next((view for view in views if view.name == name), None)


def require_depth_views(
    what: str, got: tuple[DepthView, ...], expected: tuple[DepthView, ...]
) -> None:
    """Raise ValueError naming the first view that is depth in one place and colour, or of another
    range, in the other."""
    for name in dict.fromkeys(view.name for view in (*expected, *got)):
        found, wanted = depth_view_of(got, name), depth_view_of(expected, name)
        if found != wanted:
            raise ValueError(
                f"{what}: view {name!r} is {_words(found)} and the policy takes {_words(wanted)}; "
                "record with the policy's encoding and range, or train on these pictures."
            )


def _words(view: DepthView | None) -> str:
    return "colour" if view is None else f"depth of {view.near_m:g} to {view.far_m:g} m"
