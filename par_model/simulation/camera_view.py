# SPDX-License-Identifier: Apache-2.0
"""Where a camera stands and what it takes in, and the views that are studied by name."""

import math
import re
from dataclasses import dataclass, replace

from par_model.depth_view import DepthView

_NUMBER = r"-?\d+(?:\.\d*)?"
_POINT = rf"{_NUMBER},{_NUMBER},{_NUMBER}"
_SPELLING = re.compile(
    rf"(?P<name>[A-Za-z]\w*)=(?P<eye>{_POINT}):(?P<target>{_POINT}):(?P<fov>{_NUMBER})"
    r"(?::(?P<width>\d+)x(?P<height>\d+))?"
    r"(?::depth=(?P<near>\d+(?:\.\d*)?),(?P<far>\d+(?:\.\d*)?))?"
)
_DEFAULT_PIXELS = 128


@dataclass(frozen=True)
class CameraView:
    """A camera that stands still.

    Attributes:
        name: how tables and data sets call it.
        eye_m, target_m: where it stands and the point in the picture's middle, metres, world frame.
        fov_rad: vertical field of view.
        width, height: pixels.
        depth_range_m: of a camera that measures distances; None: it sees colours.
    """

    name: str
    eye_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    fov_rad: float
    width: int = _DEFAULT_PIXELS
    height: int = _DEFAULT_PIXELS
    depth_range_m: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.fov_rad < 3.0 or self.eye_m == self.target_m:
            raise ValueError(
                f"camera {self.name!r} needs a field of view of 0 to 3 rad and a target away from "
                f"its eye, got {self.fov_rad} rad, eye {self.eye_m}, target {self.target_m}."
            )
        if min(self.width, self.height) < 16 or self.width % 16 or self.height % 16:
            raise ValueError(
                f"the pictures of camera {self.name!r} must be multiples of 16 pixels, got "
                f"{self.width} x {self.height}."
            )
        if self.depth_view is not None:
            self.depth_view.validate()

    @property
    def depth_view(self) -> DepthView | None:
        """How its distances become grey levels; None for colours."""
        return None if self.depth_range_m is None else DepthView(self.name, *self.depth_range_m)

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return 0.5 * self.height / math.tan(0.5 * self.fov_rad)

    def __str__(self) -> str:
        eye, target = (",".join(f"{x:g}" for x in point) for point in (self.eye_m, self.target_m))
        depth = "" if self.depth_range_m is None else ":depth={:g},{:g}".format(*self.depth_range_m)
        return f"{self.name}={eye}:{target}:{self.fov_rad:g}:{self.width}x{self.height}{depth}"


# The included policy's camera.
SHIPPED_VIEW = CameraView("front", (0.6, 0.7, 0.6), (0.0, 0.0, 0.12), 0.65)

# Distances at the included policy's camera: all of the table within the arm's reach.
FRONT_DEPTH = replace(SHIPPED_VIEW, name="front_depth", depth_range_m=(0.3, 1.8))

# What the camera study looks through by default: other places, lenses and sizes.
VIEWS: dict[str, CameraView] = {
    view.name: view
    for view in (
        SHIPPED_VIEW,
        replace(SHIPPED_VIEW, name="front_256", width=256, height=256),
        replace(SHIPPED_VIEW, name="front_narrow", fov_rad=0.5),
        CameraView("front_high", (0.5, 0.55, 0.85), (0.0, 0.0, 0.12), 0.65),
        CameraView("front_low", (0.75, 0.75, 0.35), (0.0, 0.0, 0.14), 0.62),
        CameraView("front_right", (0.6, -0.7, 0.6), (0.0, 0.0, 0.12), 0.65),
        CameraView("ahead", (0.95, 0.0, 0.55), (0.0, 0.0, 0.14), 0.65),
        CameraView("ahead_low", (1.0, 0.0, 0.3), (0.0, 0.0, 0.15), 0.6),
        CameraView("left", (0.0, 1.0, 0.45), (0.0, 0.0, 0.15), 0.62),
        CameraView("right", (0.0, -1.0, 0.45), (0.0, 0.0, 0.15), 0.62),
        CameraView("above", (0.35, 0.0, 1.0), (0.0, 0.0, 0.1), 0.65),
        CameraView("base_camera", (0.3, 0.0, 0.6), (-0.1, 0.0, 0.1), 1.5708),
        CameraView("rdt", (0.6, 0.7, 0.6), (0.0, 0.0, 0.35), 1.0),
    )
}


def read_view(text: str) -> CameraView:
    """A view by its name, or spelt `NAME=EX,EY,EZ:TX,TY,TZ:FOV[:WIDTHxHEIGHT][:depth=NEAR,FAR]`
    (metres, rad, pixels). Raises ValueError for anything else."""
    if text in VIEWS:
        return VIEWS[text]
    if text == FRONT_DEPTH.name:
        return FRONT_DEPTH
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise ValueError(
            f"camera {text!r} is neither one of {', '.join((*VIEWS, FRONT_DEPTH.name))} nor spelt "
            "NAME=EX,EY,EZ:TX,TY,TZ:FOV:WIDTHxHEIGHT, of a depth camera with :depth=NEAR,FAR."
        )
    return CameraView(
        match["name"],
        _point(match["eye"]),
        _point(match["target"]),
        float(match["fov"]),
        int(match["width"] or _DEFAULT_PIXELS),
        int(match["height"] or _DEFAULT_PIXELS),
        None if match["near"] is None else (float(match["near"]), float(match["far"])),
    )


def _point(text: str) -> tuple[float, float, float]:
    x, y, z = (float(number) for number in text.split(","))
    return x, y, z
