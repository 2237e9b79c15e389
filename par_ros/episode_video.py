# SPDX-License-Identifier: Apache-2.0
"""One mp4 an episode: the cameras, beside what the model expected to see next and where its actions
looked."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from par_model.interface import ImageArray
from par_model.video_file import FAST, write_video

PANEL_PX = 384
CAPTION_PX = 32
_NO_PREDICTION = (40, 40, 40)
_CAPTION_BACKGROUND = (20, 20, 20)
_CAPTION_FONT_PX = 15


def write_episode_video(
    path: Path,
    pictures: Mapping[str, Mapping[int, ImageArray]],
    predictions: Mapping[int, ImageArray],
    attention: Mapping[int, ImageArray],
    caption: str,
) -> None:
    """Write the pictures (view -> stamp in ns -> uint8 [H, W, 3]) in the order of the first view's
    stamps; of the other views those that were taken last.

    Behind them stands the prediction for the same or the next later stamp of `predictions`; without
    any predictions there is one panel a view. The last panel is the newest of `attention`, where
    there is any. Plays at the pictures' own pace.
    """
    first, *others = pictures
    stamps = sorted(pictures[first])
    beside = {view: pictures[view] for view in others}
    frames = (
        np.concatenate(
            (
                _frame(
                    stamp_ns, stamps[0], pictures[first][stamp_ns], beside, predictions, caption
                ),
                *_attention_panel(stamp_ns, stamps[0], attention),
            ),
            axis=1,
        )
        for stamp_ns in stamps
    )
    write_video(path, frames, _frame_rate(stamps), FAST)


def _frame_rate(stamps: list[int]) -> Fraction:
    if len(stamps) < 2:
        return Fraction(20)
    period_ns = int(np.median(np.diff(stamps)))
    return Fraction(1_000_000_000, period_ns)


def _frame(
    stamp_ns: int,
    start_ns: int,
    picture: ImageArray,
    beside: Mapping[str, Mapping[int, ImageArray]],
    predictions: Mapping[int, ImageArray],
    caption: str,
) -> ImageArray:
    time_s = (stamp_ns - start_ns) / 1e9
    panels = [_panel(picture, f"{caption}   camera, {time_s:.2f} s")]
    for view, seen in beside.items():
        newest_ns = _newest(seen, stamp_ns)
        panels.append(_panel(None if newest_ns is None else seen[newest_ns], f"view {view}"))
    if predictions:
        later = [predicted for predicted in predictions if predicted >= stamp_ns]
        if later:
            predicted_s = (min(later) - start_ns) / 1e9
            panels.append(_panel(predictions[min(later)], f"predicted for {predicted_s:.2f} s"))
        else:
            panels.append(_panel(None, "no prediction"))
    return np.concatenate(panels, axis=1)


def _attention_panel(
    stamp_ns: int, start_ns: int, attention: Mapping[int, ImageArray]
) -> tuple[ImageArray, ...]:
    """Where the newest chunk's actions looked; nothing without any attention."""
    if not attention:
        return ()
    newest_ns = _newest(attention, stamp_ns)
    if newest_ns is None:
        return (_panel(None, "attention"),)
    time_s = (newest_ns - start_ns) / 1e9
    return (_panel(attention[newest_ns], f"attention of the chunk at {time_s:.2f} s"),)


def _newest(stamps_ns: Mapping[int, ImageArray], until_ns: int) -> int | None:
    return max((stamp_ns for stamp_ns in stamps_ns if stamp_ns <= until_ns), default=None)


def _panel(picture: ImageArray | None, caption: str) -> ImageArray:
    """uint8 [PANEL_PX + CAPTION_PX, PANEL_PX, 3]."""
    panel = Image.new("RGB", (PANEL_PX, PANEL_PX + CAPTION_PX), _CAPTION_BACKGROUND)
    if picture is None:
        panel.paste(_NO_PREDICTION, (0, CAPTION_PX, PANEL_PX, PANEL_PX + CAPTION_PX))
    else:
        scaled = Image.fromarray(picture).resize((PANEL_PX, PANEL_PX), Image.Resampling.BICUBIC)
        panel.paste(scaled, (0, CAPTION_PX))
    font = ImageFont.load_default(_CAPTION_FONT_PX)
    ImageDraw.Draw(panel).text((8, CAPTION_PX // 2), caption, "white", font, anchor="lm")
    return np.array(panel)
