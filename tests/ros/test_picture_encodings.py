# SPDX-License-Identifier: Apache-2.0
"""Known pictures, written as a camera would write them and read back.

Sizes up to 12 x 12, rows padded by up to 7 bytes, both byte orders. Where neighbours share their
colour (YUV), the picture is made of blocks that do; BT.601 in eight bits is exact to 3 of 255.
"""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from par_ros import messages
from par_ros.picture_encodings import LAYOUTS, RawPicture, compressed_to_rgb, is_grey, raw_to_rgb

PACKED = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2, 3),
    "bgra8": (2, 1, 0, 3),
    "rgb16": (0, 1, 2),
    "bgr16": (2, 1, 0),
    "rgba16": (0, 1, 2, 3),
    "bgra16": (2, 1, 0, 3),
}
YUV_TOLERANCE = 3


def yuv(colours: np.ndarray) -> list[np.ndarray]:
    """BT.601, limited range; uint8 each."""
    red, green, blue = (colours[..., index].astype(float) for index in range(3))
    luma = 16 + (65.738 * red + 129.057 * green + 25.064 * blue) / 256
    first = 128 + (-37.945 * red - 74.494 * green + 112.439 * blue) / 256
    second = 128 + (112.439 * red - 94.154 * green - 18.285 * blue) / 256
    planes = (luma, first, second)
    return [np.clip(np.round(plane), 0, 255).astype(np.uint8) for plane in planes]


def packed_rows(colours: np.ndarray, encoding: str, big: bool) -> np.ndarray:
    """uint8 [H, bytes] of [H, W, 4] colours with alpha."""
    samples = colours[:, :, list(PACKED[encoding])]
    if encoding.endswith("16"):
        samples = (samples.astype(np.uint16) * 257).astype(">u2" if big else "<u2")
    return np.ascontiguousarray(samples).reshape(len(colours), -1).view(np.uint8)


def raw(rows: np.ndarray, encoding: str, size: tuple[int, int], pad: int, big: bool) -> RawPicture:
    """`rows` with so many bytes of padding behind each."""
    padded = np.pad(rows, ((0, 0), (0, pad)), constant_values=0xAB)
    return RawPicture(padded.reshape(-1), encoding, *size, padded.shape[1], big)


sizes = st.tuples(st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 2**32 - 1)
pads = st.integers(0, 7)


@given(st.sampled_from(sorted(PACKED)), sizes, seeds, pads, st.booleans())
def test_packed_colours(
    encoding: str, size: tuple[int, int], seed: int, pad: int, big: bool
) -> None:
    colours = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    picture = raw(packed_rows(colours, encoding, big), encoding, size, pad, big)
    np.testing.assert_array_equal(raw_to_rgb(picture), colours[:, :, :3])


@given(st.sampled_from(["mono8", "mono16"]), sizes, seeds, pads, st.booleans())
def test_grey(encoding: str, size: tuple[int, int], seed: int, pad: int, big: bool) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    rows = grey
    if encoding == "mono16":
        rows = (grey.astype(np.uint16) * 257).astype(">u2" if big else "<u2").view(np.uint8)
    read = raw_to_rgb(raw(rows, encoding, size, pad, big))
    np.testing.assert_array_equal(read, np.repeat(grey[:, :, None], 3, axis=2))
    assert is_grey(encoding)


@given(
    st.sampled_from(["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "yuy2"]), sizes, seeds, pads
)  # fmt: skip
def test_yuv_of_pairs(encoding: str, size: tuple[int, int], seed: int, pad: int) -> None:
    """Two neighbours share their colour, not their brightness; here they share both."""
    pairs = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    luma, first, second = yuv(pairs)
    order = (first, luma, second, luma)
    if encoding in ("yuv422_yuy2", "yuyv", "yuy2"):
        order = (luma, first, luma, second)
    rows = np.stack(order, axis=2).reshape(size[0], -1)
    read = raw_to_rgb(raw(rows, encoding, (size[0], 2 * size[1]), pad, False))
    wanted = np.repeat(pairs, 2, axis=1).astype(int)
    assert np.abs(read - wanted).max() <= YUV_TOLERANCE


@given(st.sampled_from(["nv12", "nv21"]), sizes, seeds, pads)
def test_yuv_of_squares(encoding: str, size: tuple[int, int], seed: int, pad: int) -> None:
    squares = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    luma, first, second = yuv(squares)
    colours = (first, second) if encoding == "nv12" else (second, first)
    rows = np.concatenate(
        (
            np.repeat(np.repeat(luma, 2, axis=0), 2, axis=1),
            np.stack(colours, axis=2).reshape(size[0], -1),
        )
    )
    read = raw_to_rgb(raw(rows, encoding, (2 * size[0], 2 * size[1]), pad, False))
    wanted = np.repeat(np.repeat(squares, 2, axis=0), 2, axis=1).astype(int)
    assert np.abs(read - wanted).max() <= YUV_TOLERANCE


@given(
    st.sampled_from(["rggb", "bggr", "gbrg", "grbg"]), st.sampled_from([8, 16]),
    st.tuples(st.integers(2, 6), st.integers(2, 6)), seeds, pads, st.booleans(),
)  # fmt: skip
def test_bayer_patterns(
    pattern: str, bits: int, size: tuple[int, int], seed: int, pad: int, big: bool
) -> None:
    """One colour all over: whatever fills up what a pixel lacks, the colour is exact."""
    colour = np.random.default_rng(seed).integers(0, 256, 3, np.uint8)
    square = np.array([colour["rgb".index(letter)] for letter in pattern]).reshape(2, 2)
    rows = np.tile(square, size)
    if bits == 16:
        rows = (rows.astype(np.uint16) * 257).astype(">u2" if big else "<u2").view(np.uint8)
    encoding, sides = f"bayer_{pattern}{bits}", (2 * size[0], 2 * size[1])
    read = raw_to_rgb(raw(rows, encoding, sides, pad, big))
    np.testing.assert_array_equal(read, np.broadcast_to(colour, (*sides, 3)))


def test_every_encoding_is_tried_above() -> None:
    tried = {*PACKED, "mono8", "mono16", "yuv422", "uyvy", "yuv422_yuy2", "yuyv", "yuy2", "nv12"}
    tried |= {"nv21", *(f"bayer_{p}{b}" for p in ("rggb", "bggr", "gbrg", "grbg") for b in (8, 16))}
    assert tried == set(LAYOUTS)


@pytest.mark.parametrize("sides", [(0, 0), (480, 0), (0, 640)])
@pytest.mark.parametrize("encoding", sorted(LAYOUTS))
def test_an_empty_picture_is_refused(encoding: str, sides: tuple[int, int]) -> None:
    empty = RawPicture(np.zeros(0, np.uint8), encoding, *sides, 0, False)
    with pytest.raises(ValueError, match=rf"{sides[1]} x {sides[0]} is empty; check the camera"):
        raw_to_rgb(empty)


@pytest.mark.parametrize("encoding", sorted(LAYOUTS))
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 60), st.integers(0, 400))
def test_whatever_the_step_and_the_length_are_it_is_read_or_refused(
    encoding: str, half_height: int, half_width: int, step: int, length: int
) -> None:
    height, width = 2 * half_height, 2 * half_width
    layout = LAYOUTS[encoding]
    row_bytes = width * layout.samples * layout.sample_bytes
    num_bytes = height * step * (3 if layout.half_plane else 2) // 2
    picture = RawPicture(np.zeros(length, np.uint8), encoding, height, width, step, False)
    if step >= row_bytes and length == num_bytes:
        assert raw_to_rgb(picture).shape == (height, width, 3)
        return
    sentence = (
        rf"needs a step of at least {row_bytes} bytes, got {step}; check"
        if step < row_bytes
        else rf"needs {num_bytes} bytes of data, got {length}; check"
    )
    with pytest.raises(ValueError, match=sentence):
        raw_to_rgb(picture)


def test_a_halved_step_is_refused() -> None:
    """640 x 480 yuyv with a step of 640 bytes, which once gave 320 columns."""
    picture = RawPicture(np.zeros(480 * 1280, np.uint8), "yuyv", 480, 640, 640, False)
    with pytest.raises(ValueError, match="needs a step of at least 1280 bytes, got 640"):
        raw_to_rgb(picture)


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("16UC1", "must be a colour encoding .*got '16UC1'; check which camera topic"),
        ("32FC1", "must be a colour encoding .*got '32FC1'; check which camera topic"),
        ("8UC3", "8UC3 does not name the order of its colours; set the camera driver's"),
        ("", "must be a colour encoding .*got ''"),
    ],
)
def test_what_is_not_colour_is_refused_and_what_is_named_is_read(
    encoding: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        raw_to_rgb(RawPicture(np.zeros(60, np.uint8), encoding, 4, 5, 15, False))
    if "must be" in str(caught.value):
        assert all(name in str(caught.value) for name in LAYOUTS)


def test_odd_sides_of_shared_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="nv12 of 4 x 3 must have even sides"):
        raw_to_rgb(RawPicture(np.zeros(18, np.uint8), "nv12", 3, 4, 4, False))
    with pytest.raises(ValueError, match="yuyv of 3 x 4 must have even sides"):
        raw_to_rgb(RawPicture(np.zeros(24, np.uint8), "yuyv", 4, 3, 6, False))


def encoded(colours: np.ndarray, ending: str) -> np.ndarray:
    """A file of an RGB picture, uint8 [N]."""
    is_done, file = cv2.imencode(ending, colours[:, :, ::-1])
    assert is_done
    return file.reshape(-1)


@given(seeds, sizes)
def test_png_is_exact_and_its_colour_order_is_the_format_s(
    seed: int, size: tuple[int, int]
) -> None:
    colours = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = encoded(colours, ".png")
    for form in ("png", "bgr8; png compressed bgr8", "rgb8; png compressed bgr8"):
        np.testing.assert_array_equal(compressed_to_rgb(file, form), colours)
    exchanged = compressed_to_rgb(file, "rgb8; png compressed rgb8")
    np.testing.assert_array_equal(exchanged, colours[:, :, ::-1])


def test_jpeg() -> None:
    """Red left, blue right; JPEG is exact to 6 of 255 inside a flat area."""
    colours = np.zeros((32, 64, 3), np.uint8)
    colours[:, :32, 0], colours[:, 32:, 2] = 200, 150
    file = encoded(colours, ".jpg")
    for form in ("jpeg", "jpg", "rgb8; jpeg compressed bgr8"):
        read = compressed_to_rgb(file, form).astype(int)
        assert np.abs(read - colours)[:, [4, 60]].max() <= 6
    read = compressed_to_rgb(file, "rgb8; jpeg compressed rgb8").astype(int)
    assert np.abs(read[:, :, ::-1] - colours)[:, [4, 60]].max() <= 6
    assert is_grey("mono8; jpeg compressed ") and not is_grey("rgb8; jpeg compressed bgr8")


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_file_that_is_cut_off_anywhere_is_refused(ending: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    file = encoded(colours, ending)
    form = ending.strip(".")
    for length in range(0, len(file) - 1, 7):
        with pytest.raises(ValueError, match=rf"its {length} bytes are cut off"):
            compressed_to_rgb(file[:length], form)


@pytest.mark.parametrize("form", ["", "h264", "rgb8; tiff compressed"])
def test_another_format_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="must be jpeg or png, got format"):
        compressed_to_rgb(np.zeros(9, np.uint8), form)


def test_a_file_that_only_ends_well_is_refused() -> None:
    file = encoded(np.zeros((24, 24, 3), np.uint8), ".png")
    file[:40] = 0
    with pytest.raises(ValueError, match="cannot be decoded; check the camera driver"):
        compressed_to_rgb(file, "png")


def test_messages_of_both_types() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    raw_message = messages.array_to_image(colours, "bgr8", 0, "camera")
    assert isinstance(raw_message, Image)
    np.testing.assert_array_equal(messages.image_to_rgb(raw_message), colours[:, :, ::-1])
    message = CompressedImage(format="png", data=encoded(colours, ".png").tobytes())
    np.testing.assert_array_equal(messages.image_to_rgb(message), colours)
    assert messages.image_encoding(raw_message) == "bgr8"
    assert messages.image_encoding(message) == "png"
