# SPDX-License-Identifier: Apache-2.0
"""Depth images as messages: 0.5 m and 1.25 m, a pixel without measurement, in every encoding."""

import struct

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from par_model.camera_fit import CameraFit
from par_model.depth_view import DepthView
from par_ros import messages
from par_ros.view_reader import ViewReader, picture_to_show

pytestmark = pytest.mark.ros

METRES = np.array([[0.5, 1.25, 0.0], [1.25, 0.5, 0.7]], np.float32)
READER = ViewReader((DepthView("front_depth", 0.3, 1.8),), CameraFit(), 2, 3)


def raw(encoding: str, *, is_bigendian: bool = False, padding: int = 0) -> Image:
    kind = np.uint16 if encoding == "16UC1" else np.float32
    values = np.rint(METRES * 1000) if kind is np.uint16 else METRES
    samples = values.astype(np.dtype(kind).newbyteorder(">" if is_bigendian else "<"))
    rows = samples.view(np.uint8).reshape(2, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return Image(
        height=2, width=3, encoding=encoding, is_bigendian=int(is_bigendian),
        step=data.shape[1], data=data.tobytes(),
    )  # fmt: skip


def compressed(form: str, samples: np.ndarray, scale: float = 0.0, offset: float = 0.0):
    file = cv2.imencode(".png", samples)[1].tobytes()
    header = struct.pack("<iff", 0, scale, offset)
    return CompressedImage(format=form, data=header + file)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
@pytest.mark.parametrize("is_bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
def test_raw_depth_in_metres(encoding: str, is_bigendian: bool, padding: int) -> None:
    message = raw(encoding, is_bigendian=is_bigendian, padding=padding)
    np.testing.assert_allclose(messages.image_to_metres(message), METRES, atol=1e-6)
    grey = READER.read(message, "front_depth")
    np.testing.assert_array_equal(grey[:, :, 0], [[221, 94, 0], [94, 221, 187]])
    np.testing.assert_array_equal(picture_to_show(message), grey)


def test_nan_and_inf_are_no_measurement() -> None:
    message = raw("32FC1")
    message.data = np.array([[np.nan, np.inf, -np.inf], [0, -1, 1.8]], np.float32).tobytes()
    assert READER.read(message, "front_depth")[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 1]]


def test_compressed_depth() -> None:
    """16UC1 is a PNG of millimetres; 32FC1 one of inverse depth, scale / distance + offset."""
    millimetres = np.rint(METRES * 1000).astype(np.uint16)
    message = compressed("16UC1; compressedDepth png", millimetres)
    np.testing.assert_allclose(messages.image_to_metres(message), METRES, atol=1e-6)
    scale, offset = 2000.0, -30.0
    with np.errstate(divide="ignore"):
        inverse = np.where(METRES > 0, scale / METRES + offset, 0).astype(np.uint16)
    message = compressed("32FC1; compressedDepth", inverse, scale, offset)
    np.testing.assert_allclose(messages.image_to_metres(message), METRES, atol=1e-3)
    np.testing.assert_array_equal(
        picture_to_show(message) == 0, READER.read(message, "front_depth") == 0
    )


def test_what_is_damaged_or_unknown_is_refused() -> None:
    good = compressed("16UC1; compressedDepth png", np.ones((2, 3), np.uint16))
    cut = CompressedImage(format=good.format, data=good.data[:-20])
    grey = compressed("16UC1; compressedDepth png", np.ones((2, 3), np.uint8))
    short = raw("16UC1")
    short.data = short.data[:-1]
    for message, sentence in (
        (CompressedImage(format="16UC1; compressedDepth rvl", data=good.data), "format to png"),
        (cut, "a whole PNG file of 16-bit distances"),
        (grey, "a whole PNG file of 16-bit distances"),
        (CompressedImage(format=good.format, data=b"\x00" * 12), "these 12 bytes are not"),
        (short, "needs 12 bytes of data, got 11"),
    ):
        with pytest.raises(ValueError, match=sentence):
            READER.read(message, "front_depth")


def test_colour_where_depth_is_declared_and_the_reverse_is_refused_by_encoding() -> None:
    colour = messages.array_to_image(np.zeros((2, 3, 3), np.uint8), "rgb8", 1, "camera")
    jpeg = CompressedImage(format="rgb8; jpeg compressed bgr8")
    for message, found in ((colour, "'rgb8'"), (jpeg, "'rgb8; jpeg compressed bgr8'")):
        with pytest.raises(ValueError, match=rf"must be depth \(16UC1 .*got {found}: .*declared"):
            READER.read(message, "front_depth")
    packed = compressed("16UC1; compressedDepth png", np.ones((2, 3), np.uint16))
    for message, found in (
        (raw("16UC1"), "'16UC1'"),
        (raw("32FC1"), "'32FC1'"),
        (packed, "'16UC1; c"),
    ):
        with pytest.raises(
            ValueError, match=rf"must be a colour encoding .*got {found}.*depth_views"
        ):
            READER.read(message, "front")
