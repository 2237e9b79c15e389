# SPDX-License-Identifier: Apache-2.0
"""A camera's bytes as RGB: every colour encoding of sensor_msgs/image_encodings, JPEG and PNG.

Sizes are checked here before anything is converted. OpenCV converts; only rgb8 and bgr8 need no
library. Shapes: H, W image. YUV is BT.601 with limited range, as V4L2 cameras send it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]

_JPEG_SCAN, _JPEG_END, _PNG_END = b"\xff\xda", b"\xff\xd9", b"IEND\xae\x42\x60\x82"
_EIGHT_OF_SIXTEEN_BITS = 255.0 / 65535.0


@dataclass(frozen=True)
class RawPicture:
    """A picture's bytes, uint8 [N], as sensor_msgs/Image describes them."""

    data: npt.NDArray[np.uint8]
    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: bool


@dataclass(frozen=True)
class Layout:
    """How an encoding lies in memory, and OpenCV's name of its conversion.

    Attributes:
        conversion: what follows cv2.COLOR_; empty: no library is needed.
        samples: samples a pixel in each row of the first plane.
        sample_bytes: 1, 2 or 4.
        half_plane: whether a plane of colour, half as high, follows.
        even_width, even_height: whether neighbours share their colour.
    """

    conversion: str
    samples: int
    sample_bytes: int = 1
    half_plane: bool = False
    even_width: bool = False
    even_height: bool = False


_UYVY = Layout("YUV2RGB_UYVY", 2, even_width=True)
_YUYV = Layout("YUV2RGB_YUYV", 2, even_width=True)
_BAYER = {
    f"bayer_{pattern}{8 * size}": Layout(f"Bayer{pattern.upper()}2RGB", 1, size)
    for pattern in ("rggb", "bggr", "gbrg", "grbg")
    for size in (1, 2)
}
LAYOUTS: Mapping[str, Layout] = {
    "rgb8": Layout("", 3),
    "bgr8": Layout("", 3),
    "rgba8": Layout("RGBA2RGB", 4),
    "bgra8": Layout("BGRA2RGB", 4),
    "mono8": Layout("GRAY2RGB", 1),
    "rgb16": Layout("", 3, 2),
    "bgr16": Layout("BGR2RGB", 3, 2),
    "rgba16": Layout("RGBA2RGB", 4, 2),
    "bgra16": Layout("BGRA2RGB", 4, 2),
    "mono16": Layout("GRAY2RGB", 1, 2),
    # The names of image_encodings, and those that drivers use for the same bytes.
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "yuy2": _YUYV,
    "nv12": Layout("YUV2RGB_NV12", 1, half_plane=True, even_width=True, even_height=True),
    "nv21": Layout("YUV2RGB_NV21", 1, half_plane=True, even_width=True, even_height=True),
    **_BAYER,
}
# Distances, not colours: depth_pictures.py reads them.
DEPTH_LAYOUTS: Mapping[str, Layout] = {"16UC1": Layout("", 1, 2), "32FC1": Layout("", 1, 4)}
_GREY = ("mono8", "mono16")


def is_grey(encoding: str) -> bool:
    """Whether a picture of this encoding (of a CompressedImage: its format) has no colour."""
    return encoding.partition(";")[0].strip() in _GREY


def raw_to_rgb(picture: RawPicture) -> ImageArray:
    """uint8 [H, W, 3] RGB; of rgb8 and bgr8 a view of the data, not to be written into.

    16 bits become 8 by their share of the range. Raises ValueError for an encoding that is not
    colour, and for a size, step or length that contradict each other.
    """
    layout = LAYOUTS.get(picture.encoding)
    if layout is None:
        raise ValueError(_unknown_encoding(picture.encoding))
    rows = checked_rows(picture, layout)
    if picture.encoding in ("rgb8", "bgr8"):
        colours = rows.reshape(picture.height, picture.width, 3)
        return colours if picture.encoding == "rgb8" else colours[:, :, ::-1]
    if layout.sample_bytes == 2:
        order = ">" if picture.is_bigendian else "<"
        samples = rows.view(np.dtype(np.uint16).newbyteorder(order)).astype(np.uint16)
        rows = opencv().convertScaleAbs(samples, alpha=_EIGHT_OF_SIXTEEN_BITS)
    if layout.samples > 1:
        rows = rows.reshape(picture.height, picture.width, layout.samples)
    return _converted(rows, layout.conversion) if layout.conversion else rows


def compressed_to_rgb(data: npt.NDArray[np.uint8], form: str) -> ImageArray:
    """uint8 [H, W, 3] RGB of a JPEG or PNG file's bytes, uint8 [N].

    form: CompressedImage's format: "jpeg", "png", or image_transport's "rgb8; jpeg compressed
    bgr8", where "compressed rgb8" means that red and blue of the file are exchanged. Raises
    ValueError for another format, and for a file that is damaged or cut off.
    """
    lowered = form.lower()
    if "compresseddepth" in lowered:
        raise ValueError(_unknown_encoding(form))
    if not any(kind in lowered for kind in ("jpeg", "jpg", "png")):
        raise ValueError(
            f"a compressed picture must be jpeg or png, got format {form!r}; check the camera "
            "driver's image_transport parameters, and which topic is mapped."
        )
    if not is_whole(data.tobytes()):
        raise ValueError(
            f"a compressed picture of format {form!r} must be a whole JPEG or PNG file, its "
            f"{len(data)} bytes are cut off or another format; check the camera driver and the "
            "network."
        )
    cv2 = opencv()
    colours = decoded(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if colours is None:
        raise ValueError(
            f"a compressed picture of format {form!r} and {len(data)} bytes cannot be decoded; "
            "check the camera driver."
        )
    # OpenCV takes a file's colours for BGR.
    is_exchanged = "compressed rgb" in lowered
    picture: ImageArray = colours if is_exchanged else colours[:, :, ::-1]
    return picture


def checked_rows(picture: RawPicture, layout: Layout) -> npt.NDArray[np.uint8]:
    """uint8 [rows, bytes of a row], without the padding of the step.

    Raises ValueError for a size, step or length that contradict each other.
    """
    what = f"image {picture.encoding} of {picture.width} x {picture.height}"
    if not (picture.width and picture.height):
        raise ValueError(f"{what} is empty; check the camera driver.")
    if (layout.even_width and picture.width % 2) or (layout.even_height and picture.height % 2):
        raise ValueError(f"{what} must have even sides; check the camera driver's size.")
    row_bytes = picture.width * layout.samples * layout.sample_bytes
    if picture.step < row_bytes:
        raise ValueError(
            f"{what} needs a step of at least {row_bytes} bytes, got {picture.step}; check the "
            "camera driver."
        )
    num_rows = picture.height * 3 // 2 if layout.half_plane else picture.height
    if len(picture.data) != num_rows * picture.step:
        raise ValueError(
            f"{what} with a step of {picture.step} bytes needs {num_rows * picture.step} bytes of "
            f"data, got {len(picture.data)}; check the camera driver, and whether its encoding is "
            "the true one."
        )
    return np.ascontiguousarray(picture.data.reshape(num_rows, picture.step)[:, :row_bytes])


def _converted(rows: npt.NDArray[Any], conversion: str) -> ImageArray:
    cv2 = opencv()
    picture: ImageArray = cv2.cvtColor(rows, getattr(cv2, f"COLOR_{conversion}"))
    return picture


def is_whole(file: bytes) -> bool:
    """Whether the file's end is there: decoders fill up what is missing in silence."""
    return _PNG_END in file or file.rfind(_JPEG_END) > file.rfind(_JPEG_SCAN) >= 0


def _unknown_encoding(encoding: str) -> str:
    if encoding.startswith("8UC"):
        return (
            f"image encoding {encoding} does not name the order of its colours; set the camera "
            "driver's encoding to rgb8 or bgr8."
        )
    what = "the driver's encoding"
    if encoding.partition(";")[0] in DEPTH_LAYOUTS:
        what = "depth_views in the policy's config.json, where a depth image's view must stand"
    return (
        f"image encoding must be a colour encoding ({', '.join(LAYOUTS)}), got {encoding!r}; check "
        f"which camera topic is mapped to the view, and {what}."
    )


def decoded(file: npt.NDArray[np.uint8], flags: int) -> npt.NDArray[Any] | None:
    """What cv2.imdecode makes of an image file; None for a damaged one, of which the caller tells.
    OpenCV returns nothing for some damage and raises for other."""
    cv2 = opencv()
    try:
        found: npt.NDArray[Any] | None = cv2.imdecode(file, flags)
    except cv2.error:
        return None
    return found


def opencv() -> Any:
    """OpenCV, imported at the first picture that needs it: the guard's process never does."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"this picture needs OpenCV, which cannot be imported ({error}): install opencv-python "
            "(or python3-opencv), or set the camera driver's encoding to rgb8 or bgr8."
        ) from error
    return cv2
