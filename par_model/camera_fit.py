# SPDX-License-Identifier: Apache-2.0
"""How a camera of another size is fitted to a policy's picture: one rule, stored in the checkpoint.

The largest centred window of the policy's aspect is cut out and made smaller by averaging areas.
What a rule does not allow is refused: nothing is padded, stretched or enlarged.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from par_model.json_file import shown

ImageArray = npt.NDArray[np.uint8]

# A window may differ from the policy's aspect by rounding to whole pixels, and by no more.
_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class CameraFit:
    """The rule.

    Attributes:
        crop: "centre" cuts the largest centred window of the policy's aspect; "none" takes the
            whole picture, which must have that aspect.
        max_cropped_share: a camera of which more would be cut away has a wrong aspect; 0.45 takes
            4:3 and 16:9 for a square policy.
        resize: "area" averages; "none" takes cameras whose window has the policy's size only.
    """

    crop: Literal["centre", "none"] = "centre"
    max_cropped_share: float = 0.45
    resize: Literal["area", "none"] = "area"

    def __post_init__(self) -> None:
        known = self.crop in ("centre", "none") and self.resize in ("area", "none")
        if not known or not 0.0 <= self.max_cropped_share < 1.0:
            raise ValueError(
                'a camera rule has crop "centre" or "none", resize "area" or "none" and '
                f"max_cropped_share from 0 to below 1, got {shown(asdict(self), 120)}; "
                "check camera.json."
            )

    def fit(self, picture: ImageArray, height: int, width: int) -> ImageArray:
        """uint8 [height, width, 3] of a picture uint8 [H, W, 3]; not to be written into.

        Raises:
            ValueError: the picture is smaller than the policy's, or has an aspect that the rule
                does not take.
        """
        have_height, have_width = picture.shape[:2]
        if (have_height, have_width) == (height, width):
            return picture
        rows, columns = self._window(have_height, have_width, height, width)
        top, left = (have_height - rows) // 2, (have_width - columns) // 2
        window = picture[top : top + rows, left : left + columns]
        if (rows, columns) == (height, width):
            return window
        if self.resize == "none" or rows < height or columns < width:
            limit = "exactly" if self.resize == "none" else "at least"
            raise ValueError(
                f"the camera's picture is {have_width} x {have_height}, of which the checkpoint's "
                f"rule (crop {self.crop}) keeps {columns} x {rows}; {limit} {width} x {height} is "
                "needed. Choose another camera mode."
            )
        return _mean_of_areas(_mean_of_areas(window, height, 0), width, 1)

    def _window(
        self, have_height: int, have_width: int, height: int, width: int
    ) -> tuple[int, int]:
        """Rows and columns that are kept."""
        rows, columns = have_height, have_width
        if self.crop == "centre":
            scale = min(have_height / height, have_width / width)
            rows, columns = round(height * scale), round(width * scale)
        cropped = 1.0 - rows * columns / (have_height * have_width)
        stretched = abs(rows * width / (columns * height) - 1.0)
        # A window of whole pixels can miss the aspect by half a pixel.
        if cropped > self.max_cropped_share or stretched > _ASPECT_TOLERANCE + 0.5 / rows:
            raise ValueError(
                f"the camera's picture is {have_width} x {have_height}, the policy's is "
                f"{width} x {height}; the checkpoint's rule (crop {self.crop}, at most "
                f"{self.max_cropped_share:.0%}) does not fit that aspect. Choose another camera "
                "mode, or check for a turned or stretched picture."
            )
        return rows, columns

    def to_json(self) -> dict[str, object]:
        """The content of camera.json."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "CameraFit":
        """The rule that `to_json` gave. Raises ValueError for anything else."""
        try:
            return CameraFit(**values)
        except TypeError as error:
            raise ValueError(
                f"camera.json must hold crop, max_cropped_share and resize ({error}); "
                "copy the checkpoint again."
            ) from error


def _mean_of_areas(picture: ImageArray, size: int, axis: int) -> ImageArray:
    """`picture` with `size` rows (axis 0) or columns (axis 1), each the mean of what it covers.

    Borders between the old pixels are cut in proportion: the running sum is read between two of
    its entries.
    """
    old = picture.shape[axis]
    if old == size:
        return picture
    rows = np.moveaxis(picture, axis, 0)
    sums = np.zeros((old + 1, *rows.shape[1:]))
    np.cumsum(rows, axis=0, out=sums[1:])
    borders = np.arange(size + 1) * (old / size)
    below = np.minimum(borders.astype(np.int64), old - 1)
    share = (borders - below).reshape(-1, 1, 1)
    at_borders = sums[below] * (1.0 - share) + sums[below + 1] * share
    means = np.diff(at_borders, axis=0) * (size / old)
    return np.moveaxis(np.rint(means).astype(np.uint8), 0, axis)
