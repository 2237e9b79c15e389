# SPDX-License-Identifier: Apache-2.0
"""A camera's message as what a policy's view shows: colours as RGB, distances as grey levels."""

from dataclasses import dataclass

import numpy as np

from par_model.camera_fit import CameraFit
from par_model.depth_view import DepthView, depth_view_of, fit_grey
from par_model.interface import ImageArray, PolicySpec
from par_ros import messages
from par_ros.messages import Picture

# What an episode's video shows of distances; a policy has its own range.
_SHOWN = DepthView("shown", 0.3, 1.8)


@dataclass(frozen=True)
class ViewReader:
    """The rule of one policy: which views are depth, and its picture's size in pixels."""

    depth_views: tuple[DepthView, ...]
    camera_fit: CameraFit
    image_height: int
    image_width: int

    @staticmethod
    def of(spec: PolicySpec) -> "ViewReader":
        """The reader of a policy's pictures."""
        return ViewReader(spec.depth_views, spec.camera_fit, spec.image_height, spec.image_width)

    def read(self, message: Picture, view: str) -> ImageArray:
        """uint8 [H, W, 3] in the camera's size; not to be written into.

        Raises ValueError for an encoding that is colour where the view is depth or the reverse, and
        for a message whose size, step or length contradict each other.
        """
        depth = depth_view_of(self.depth_views, view)
        if depth is None:
            return messages.image_to_rgb(message)
        return depth.to_grey(messages.image_to_metres(message))

    def fit(self, picture: ImageArray, view: str) -> ImageArray:
        """uint8 [image_height, image_width, 3] of what `read` gave. Raises ValueError for a size
        that the checkpoint's rule does not take."""
        size = self.image_height, self.image_width
        if depth_view_of(self.depth_views, view) is None:
            return np.ascontiguousarray(self.camera_fit.fit(picture, *size))
        return fit_grey(self.camera_fit, picture, *size)


def picture_to_show(message: Picture) -> ImageArray:
    """uint8 [H, W, 3] for people, of any camera: RGB, or distances as grey levels."""
    if messages.is_depth(message):
        return _SHOWN.to_grey(messages.image_to_metres(message))
    return messages.image_to_rgb(message)
