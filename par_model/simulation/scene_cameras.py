# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one scene, each with a count of the pixels that show each object.

Shapes: H, W pixels of a view.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from par_model.interface import FloatArray, ImageArray
from par_model.simulation.camera_view import CameraView
from par_model.simulation.further_cameras import add_camera, drawn, shown
from par_model.simulation.maniskill_env import ManiSkillArm

# A texture of ManiSkill's shader "minimal"; its last channel is the object's id.
_IDS = ["PositionSegmentation"]


@dataclass(frozen=True)
class Blob:
    """The pixels that show one object.

    Attributes:
        num_pixels: how many; 0 where it is hidden or outside.
        column, row: their mean place, pixels; NaN where there is none.
    """

    num_pixels: int
    column: float
    row: float


@dataclass(frozen=True)
class Look:
    """One picture: uint8 [H, W, 3], RGB (of a depth view its grey levels), and what it shows of the
    task's objects, by name."""

    image: ImageArray
    blobs: dict[str, Blob]


class SceneCameras:
    """The cameras `views` in the scene of `arm`; `arm.reset` must have been called.

    `capture` equals the arm's own picture, bit for bit, for the view that the arm has.
    """

    def __init__(self, arm: ManiSkillArm, views: tuple[CameraView, ...]) -> None:
        self._views = views
        self._arm = arm
        self._scene: Any = None
        self._cameras: list[Any] = []

    def capture(self) -> list[Look]:
        """The scene as it is now, through each view; 5 to 10 ms a view."""
        scene = self._arm.maniskill_env.scene
        if scene is not self._scene:
            # The scene was rebuilt, and the cameras went with the old one.
            self._cameras = [add_camera(scene, view) for view in self._views]
            self._scene = scene
        scene.update_render(update_sensors=False, update_human_render_cameras=True)
        ids = {
            name: int(self._arm.scene_object(name)._objs[0].per_scene_id)
            for name in self._arm.task.position_names
        }
        pairs = zip(self._cameras, self._views, strict=True)
        return [_look(camera, view, ids) for camera, view in pairs]


def pixel_blob(is_object_HW: npt.NDArray[np.bool_]) -> Blob:
    """The blob of a mask."""
    rows, columns = np.nonzero(is_object_HW)
    if not len(rows):
        return Blob(0, float("nan"), float("nan"))
    return Blob(len(rows), float(columns.mean()), float(rows.mean()))


def projected(view: CameraView, points_m: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(columns, rows, distances along the optical axis in metres) of points [..., 3] in the world
    frame."""
    forward = np.subtract(view.target_m, view.eye_m)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    offsets_m = np.subtract(points_m, view.eye_m)
    depths_m = offsets_m @ forward
    columns = view.width / 2 + view.focal_px * (offsets_m @ right) / depths_m
    rows = view.height / 2 - view.focal_px * (offsets_m @ np.cross(right, forward)) / depths_m
    return columns, rows, depths_m


def _look(camera: Any, view: CameraView, ids: dict[str, int]) -> Look:
    camera.take_picture()
    (segmentation,) = camera.get_picture(_IDS)
    id_HW = segmentation[0, ..., 3].numpy()
    blobs = {name: pixel_blob(id_HW == number) for name, number in ids.items()}
    return Look(shown(drawn(camera, view), view), blobs)
