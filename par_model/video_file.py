# SPDX-License-Identifier: Apache-2.0
"""Videos to H.264 in mp4 and back, with PyAV: every mp4 of this package is written and read here.

T frames, H rows, W columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

try:
    import av
except ImportError as error:
    raise ImportError(
        f"videos need the extra `sim` or `train` ({error}): pip install 'par_ros[train]', or run "
        "the command as ./par python -m ..., which installs it."
    ) from error

CODEC = "h264"
KEYFRAME_DISTANCE = 20

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Encoding:
    """How a video is compressed.

    Attributes:
        pixel_format: FFmpeg's name. Browsers play yuv420p only, which needs an even H and W.
        options: x264's.
        container_options: the mp4 file's.
    """

    pixel_format: str
    options: dict[str, str]
    container_options: dict[str, str]


# For data sets: lossless in YUV 4:4:4 (x264 at quantiser 0, key frame every second, no B-frames).
# Measured on 128x128 ManiSkill frames: mean absolute error 0.37 of 255, 99% of the values off by at
# most 1 (all of it the rounding of RGB to YUV and back), against 1.2 at crf 10 for 4/5 of the size
# and 4.1 in 4:2:0, which halves the colour resolution of a cube that is 8 pixels wide.
LOSSLESS = Encoding(
    "yuv444p",
    {
        "qp": "0",
        "preset": "medium",
        "g": str(KEYFRAME_DISTANCE),
        "keyint_min": str(KEYFRAME_DISTANCE),
        "sc_threshold": "0",
        "bf": "0",
        # One thread: equal frames give equal bytes.
        "threads": "1",
    },
    {},
)
# For figures: good enough that an edge looks the same; a browser can play it while it loads.
FIGURE = Encoding(
    "yuv420p", {"crf": "16", "preset": "medium", "threads": "1"}, {"movflags": "faststart"}
)
# For reports: written between two episodes.
FAST = Encoding("yuv420p", {"crf": "20", "preset": "veryfast"}, {})


def write_video(
    path: Path, frames: Iterable[Frames], rate_hz: int | float | Fraction, encoding: Encoding
) -> None:
    """Encode uint8 [H, W, 3] frames of one size, at least one, to an mp4 file of a steady rate.

    A [T, H, W, 3] array is an iterable of its frames.
    """
    rate = Fraction(rate_hz).limit_denominator(1000)
    options = encoding.container_options
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options=encoding.options)
        stream.pix_fmt = encoding.pixel_format
        stream.time_base = 1 / rate
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def concatenate_videos(path: Path, parts: Sequence[Path], fps: int) -> list[int]:
    """Join videos that `write_video` wrote LOSSLESS, without encoding again; frames per part."""
    num_frames = []
    with av.open(str(path), "w", format="mp4") as container:
        with av.open(str(parts[0])) as first:
            stream = container.add_stream_from_template(first.streams.video[0])
        start = 0
        for part in parts:
            count = 0
            with av.open(str(part)) as source:
                for packet in source.demux(source.streams.video[0]):
                    if packet.pts is None:
                        continue
                    packet.time_base = Fraction(1, fps)
                    packet.pts = packet.dts = start + count
                    packet.duration = 1
                    packet.stream = stream
                    container.mux(packet)
                    count += 1
            num_frames.append(count)
            start += count
    return num_frames


def read_video(
    path: Path,
    first_frame: int,
    num_frames: int,
    fps: float,
    fit: Callable[[Frames], Frames] = lambda picture: picture,
) -> Frames:
    """Frames first_frame .. first_frame + num_frames - 1, uint8 [T, H, W, 3], each through `fit`.

    Raises ValueError for a file that cannot be decoded or has too few frames.
    """
    try:
        with av.open(str(path)) as container:
            frames = [fit(f) for f in _frames_from(container, first_frame, num_frames, fps)]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(
            f"video {path} cannot be decoded ({error}); check that the data set was copied whole."
        ) from error
    if len(frames) != num_frames:
        raise ValueError(
            f"video {path} holds {len(frames)} of the {num_frames} frames from frame "
            f"{first_frame} on; check that the data set was copied whole."
        )
    return np.stack(frames)


def read_keyframes(path: Path) -> Frames:
    """Only the key frames, uint8 [T, H, W, 3]: one a second, cheap to decode."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def _frames_from(
    container: "av.container.InputContainer", first_frame: int, num_frames: int, fps: float
) -> Iterator[Frames]:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    assert stream.time_base is not None
    if first_frame > 0:
        # Seeks to the key frame at or before that time.
        container.seek(round(first_frame / fps / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        assert frame.pts is not None
        index = round(frame.pts * stream.time_base * fps)
        if index >= first_frame + num_frames:
            return
        if index >= first_frame:
            yield frame.to_ndarray(format="rgb24")
