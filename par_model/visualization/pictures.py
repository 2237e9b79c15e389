# SPDX-License-Identifier: Apache-2.0
"""Rows of pictures with words beside them, as one PNG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from par_model.interface import ImageArray

_GAP_PX = 4
_LABEL_WIDTH_PX = 230
_LINE_PX = 18
_FONT_PX = 13
_BACKGROUND = (255, 255, 255)
_INK = (20, 20, 20)


@dataclass(frozen=True)
class PictureRow:
    """A row of a sheet.

    Attributes:
        label: lines of words to the left; a heading is a row without pictures.
        frames: uint8 [N, H, W, 3], all rows of the same size.
        captions: words under each picture; may be empty.
    """

    label: str
    frames: Sequence[ImageArray] = ()
    captions: Sequence[str] = ()


def draw_sheet(rows: Sequence[PictureRow]) -> Image.Image:
    """All rows under each other on white."""
    sizes = [frame.shape[:2] for row in rows for frame in row.frames]
    height, width = sizes[0] if sizes else (0, 0)
    num_columns = max((len(row.frames) for row in rows), default=0)
    heights = [_row_height(row, height) for row in rows]
    sheet = Image.new(
        "RGB",
        (_LABEL_WIDTH_PX + num_columns * (width + _GAP_PX), sum(heights) + _GAP_PX),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_PX)
    top = _GAP_PX
    for row, row_height in zip(rows, heights, strict=True):
        draw.multiline_text((_GAP_PX, top), row.label, fill=_INK, font=font, spacing=3)
        for column, frame in enumerate(row.frames):
            left = _LABEL_WIDTH_PX + column * (width + _GAP_PX)
            sheet.paste(Image.fromarray(frame), (left, top))
            if column < len(row.captions):
                place = (left + 2, top + height + 1)
                draw.text(place, row.captions[column], fill=_INK, font=font)
        top += row_height
    return sheet


def _row_height(row: PictureRow, picture_height: int) -> int:
    if not row.frames:
        return _LINE_PX * (row.label.count("\n") + 1) + _GAP_PX
    return picture_height + (_LINE_PX if row.captions else 0) + _GAP_PX


def enlarge(frame: ImageArray, factor: int) -> ImageArray:
    """Each pixel as a square: nothing is invented."""
    return np.repeat(np.repeat(frame, factor, axis=0), factor, axis=1)


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices of 0 .. count - 1, evenly spread, first and last included."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))
