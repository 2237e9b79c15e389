# SPDX-License-Identifier: Apache-2.0
"""Cameras beside the one that ManiSkill makes itself."""

from typing import Any

import numpy as np

from par_model.interface import ImageArray
from par_model.simulation.camera_view import CameraView

_NEAR_M, _FAR_M = 0.01, 100.0


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

    def pictures(self) -> list[ImageArray]:
        """Wait for what each camera's last `take_picture` began: uint8 [H, W, 3], RGB."""
        colours = [camera.get_picture(["Color"])[0] for camera in self._cameras]
        return [np.array(colour[0, ..., :3].numpy(), dtype=np.uint8) for colour in colours]


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
