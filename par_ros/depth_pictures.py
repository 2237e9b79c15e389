# SPDX-License-Identifier: Apache-2.0
"""A depth camera's bytes as distances: 16UC1 (mm), 32FC1 (m), and compressed_depth_image_transport.

No measurement is 0 or NaN, as the camera says it. Shapes: H, W image; distances along the optical
axis (REP 118).
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from par_ros.picture_encodings import (
    DEPTH_LAYOUTS,
    RawPicture,
    checked_rows,
    decoded,
    is_whole,
    opencv,
)

Distances = npt.NDArray[np.float32]

MM = np.float32(1e-3)
# compressed_depth_image_transport's ConfigHeader in front of the PNG: a number of the format, and
# the two parameters of its inverse depth (used for 32FC1).
_CONFIG = struct.Struct("<iff")


def raw_to_metres(picture: RawPicture) -> Distances:
    """float32 [H, W], m.

    Raises ValueError for an encoding that is not depth, and for a size, step or length that
    contradict each other.
    """
    layout = DEPTH_LAYOUTS.get(picture.encoding)
    if layout is None:
        raise ValueError(_not_depth(picture.encoding))
    order = ">" if picture.is_bigendian else "<"
    kind: Any = np.uint16 if layout.sample_bytes == 2 else np.float32
    samples = checked_rows(picture, layout).view(np.dtype(kind).newbyteorder(order))
    distances = samples.astype(np.float32)
    return distances * MM if kind is np.uint16 else distances


def compressed_to_metres(data: npt.NDArray[np.uint8], form: str) -> Distances:
    """float32 [H, W], m, of a CompressedImage of the format "16UC1; compressedDepth png" or
    "32FC1; compressedDepth png", uint8 [N].

    Raises ValueError for another format (RVL, or a colour one), and for a file that is damaged.
    """
    encoding, _, how = (part.strip() for part in form.partition(";"))
    if encoding not in DEPTH_LAYOUTS or "compresseddepth" not in how.lower():
        raise ValueError(_not_depth(form))
    if "rvl" in how.lower():
        raise ValueError(
            f"compressed depth of format {form!r} is not read; set the camera driver's "
            "compressedDepth format to png, or map the raw depth topic."
        )
    file = data[_CONFIG.size :]
    samples = None
    if len(data) > _CONFIG.size and is_whole(file.tobytes()):
        samples = decoded(file, opencv().IMREAD_UNCHANGED)
    if samples is None or samples.ndim != 2 or samples.dtype != np.uint16:
        raise ValueError(
            f"a compressed picture of format {form!r} must be a header of {_CONFIG.size} bytes and "
            f"a whole PNG file of 16-bit distances, these {len(data)} bytes are not; check the "
            "camera driver and the network."
        )
    if encoding == "16UC1":
        return samples.astype(np.float32) * MM
    _, scale, offset = _CONFIG.unpack(data[: _CONFIG.size].tobytes())
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.float32(scale) / (samples.astype(np.float32) - np.float32(offset))
    return np.where(samples > 0, distances, np.float32(0.0))


def _not_depth(encoding: str) -> str:
    return (
        f"image encoding must be depth (16UC1 in mm, 32FC1 in m, or compressedDepth of them), got "
        f"{encoding!r}: the policy's view is declared as depth; check which topic of the camera is "
        "mapped to it, and the driver's encoding."
    )
