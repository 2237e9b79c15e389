# SPDX-License-Identifier: Apache-2.0
"""Videos: 45 pictures of 64 x 96 that move, at 20 and 2.5 a second; one file knows PyAV."""

import ast
from pathlib import Path

import av
import numpy as np
import pytest

import par_model
import par_ros
from par_model.video_file import FAST, FIGURE, LOSSLESS, read_video, write_video

PICTURES = np.stack(
    [np.roll(np.kron(np.arange(24).reshape(4, 6), np.ones((16, 16))), i, 0) for i in range(45)]
)
PICTURES = (PICTURES[..., None] * (10, 5, 2)).astype(np.uint8)


def test_a_lossless_video_is_read_back_within_the_rounding_of_its_colours(tmp_path):
    write_video(tmp_path / "x.mp4", PICTURES, 20, LOSSLESS)
    read = read_video(tmp_path / "x.mp4", 0, 45, 20)
    assert np.abs(read.astype(int) - PICTURES).max() <= 3
    np.testing.assert_array_equal(read_video(tmp_path / "x.mp4", 30, 5, 20), read[30:35])


def test_equal_frames_give_equal_bytes(tmp_path):
    for name in ("x.mp4", "y.mp4"):
        write_video(tmp_path / name, PICTURES, 20, LOSSLESS)
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "y.mp4").read_bytes()


@pytest.mark.parametrize("encoding", [FIGURE, FAST])
def test_what_people_look_at_has_the_rate_and_a_format_that_browsers_play(encoding, tmp_path):
    write_video(tmp_path / "x.mp4", iter(PICTURES), 2.5, encoding)
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, float(stream.average_rate)) == (45, 2.5)
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.codec_context.height, stream.codec_context.width) == (64, 96)


def test_one_file_knows_pyav():
    files = [
        file
        for package in (par_model, par_ros)
        for file in Path(package.__file__).parent.rglob("*.py")
        if any(
            "av" in [alias.name for alias in node.names]
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
        )
    ]
    assert [file.name for file in files] == ["video_file.py"]
