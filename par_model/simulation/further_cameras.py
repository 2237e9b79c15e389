# SPDX-License-Identifier: Apache-2.0
"""Cameras beside the one that ManiSkill makes itself, and what a camera of it has drawn."""

from typing import Any

import numpy as np
import numpy.typing as npt

from par_model.interface import ImageArray
from par_model.simulation.camera_view import CameraView

_NEAR_M, _FAR_M = 0.01, 100.0

# uint16 [H, W], millimetres along the optical axis, 0 where nothing is: as ROS's 16UC1.
Millimetres = npt.NDArray[np.uint16]
# RGB, uint8 [H, W, 3], or the distances of a depth view.
DrawnPicture = ImageArray | Millimetres


class FurtherCameras:
    """The cameras `views` in a ManiSkill environment; they are made anew where its scene is."""

    def __init__(self, environment: Any, views: tuple[CameraView, ...]) -> None:
        self._environment, self._views = environment, views
        self._scene: Any = None
        self._cameras: list[Any] = []

    def cameras(self) -> list[Any]:
        """ManiSkill's own objects, in the order of the views."""
        scene = self._environment.scene
        if scene is not self._scene:
            self._cameras = [add_camera(scene, view) for view in self._views]
            self._scene = scene
        return self._cameras

    def pictures(self) -> list[DrawnPicture]:
        """Wait for what each camera's last `take_picture` began, as `drawn`."""
        pairs = zip(self._cameras, self._views, strict=True)
        return [drawn(camera, view) for camera, view in pairs]


def drawn(camera: Any, view: CameraView) -> DrawnPicture:
    """Wait for what `take_picture` of ManiSkill's camera began: RGB, uint8 [H, W, 3]; of a depth
    view the distances, uint16 [H, W] in mm."""
    if view.depth_range_m is None:
        (colour,) = camera.get_picture(["Color"])
        return np.array(colour[0, ..., :3].numpy(), dtype=np.uint8)
    # The shader "minimal" has positions in whole millimetres, z against the viewing direction.
    (position,) = camera.get_picture(["PositionSegmentation"])
    return np.maximum(-position[0, ..., 2].numpy(), 0).astype(np.uint16)


def shown(picture: DrawnPicture, view: CameraView) -> ImageArray:
    """The picture that a policy sees, uint8 [H, W, 3], of what was `drawn`."""
    depth = view.depth_view
    return picture if depth is None else depth.to_grey(picture * 1e-3)


def add_camera(scene: Any, view: CameraView) -> Any:
    """A camera at the view's place; ManiSkill's own object."""
    from mani_skill.utils.sapien_utils import look_at

    return scene.add_camera(
        name=view.name,
        pose=look_at(view.eye_m, view.target_m),
        width=view.width,
        height=view.height,
        near=_NEAR_M,
        far=_FAR_M,
        fovy=view.fov_rad,
    )
