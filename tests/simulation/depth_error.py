# SPDX-License-Identifier: Apache-2.0
"""Errors of depth views in mm, as docs/reference/views.md has them:
`python -m tests.simulation.depth_error`.

Of the 8 bits, over all distances; and of 40 pictures of PickCube while the arm moves, through
several videos, against the simulator's whole millimetres.
"""

import tempfile
from pathlib import Path

import numpy as np

from par_model.depth_view import DepthView
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.video_file import FAST, FIGURE, LOSSLESS, Encoding, read_video, write_video

VIEW = DepthView("front_depth", 0.3, 1.8)
WORST = Encoding("yuv420p", {"crf": "30", "threads": "1"}, {})
VIDEOS = {"lossless": LOSSLESS, "crf 16": FIGURE, "crf 20, veryfast": FAST, "crf 30": WORST}


def inverse_and_back(distances_m: np.ndarray) -> np.ndarray:
    """Through 255 levels of inverse depth, which are not used."""
    level = (1 / VIEW.near_m - 1 / VIEW.far_m) / 254
    return 1 / (1 / VIEW.near_m - np.rint((1 / VIEW.near_m - 1 / distances_m) / level) * level)


def rendered_m() -> np.ndarray:
    """[40, 128, 128], m."""
    pictures = []
    with ManiSkillArm("PickCube", views=("front_depth",)) as arm:
        arm.reset(11)
        start, _ = arm.read_joints()
        start[-1] = 0.04
        for step in range(40):
            arm.step(start + 0.01 * step * np.array([1, 1, 0, -0.5, 0, 1, 0, 0]))
            arm.start_capture()
            pictures.append(arm.drawn_pictures()["front_depth"])
    return np.array(pictures) * 1e-3


def main() -> None:
    distances_m = np.linspace(0.3, 1.5, 100_001)[None]
    linear_m = VIEW.to_metres(VIEW.to_grey(distances_m))
    for low, high in ((0.3, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.25), (1.25, 1.5)):
        inside = (distances_m >= low) & (distances_m <= high)
        worst = [
            1e3 * np.abs(back - distances_m)[inside].max()
            for back in (linear_m, inverse_and_back(distances_m))
        ]
        print(f"{low} to {high} m, 8 bits: linear {worst[0]:.1f}, inverse {worst[1]:.1f} mm")
    true_m = rendered_m()
    inside = (true_m >= 0.3) & (true_m <= 1.5)
    grey = np.array([VIEW.to_grey(picture) for picture in true_m])
    with tempfile.TemporaryDirectory() as folder:
        for name, encoding in {"none": None, **VIDEOS}.items():
            shown = grey
            if encoding is not None:
                path = Path(folder) / "depth.mp4"
                write_video(path, grey, 20, encoding)
                shown = np.maximum(read_video(path, 0, len(grey), 20), 1)
            back_m = np.array([VIEW.to_metres(picture) for picture in shown])
            error_mm = 1e3 * np.abs(back_m - true_m)[inside]
            p99, most = np.percentile(error_mm, [99, 100])
            print(f"video {name}: mean {error_mm.mean():.1f}, 99 % {p99:.1f}, most {most:.1f} mm")


if __name__ == "__main__":
    main()
