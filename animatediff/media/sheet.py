"""Sheet of keyframes: the images given, above the frames rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PADDING = 4
MIN_CELL = 96
"""Pixels that an image is at least wide here, so that the words fit."""
PAPER, INK = (24, 24, 24), (235, 235, 235)


def keyframe_sheet(
    given: Sequence[np.ndarray], clip: np.ndarray | Mapping[int, np.ndarray], frames: Sequence[int]
) -> np.ndarray:
    """An image with one column a keyframe: its frame, the image given, the frame rendered. uint8 (h, w, 3).

    given: uint8 (h, w, 3) each, as the encoder saw them; clip: uint8 (f, h, w, 3), or the frames that are shown alone,
    by their numbers; frames: from 0.
    """
    height, width = clip[frames[0]].shape[:2]
    zoom = max(1, -(-MIN_CELL // width))
    cell = (width * zoom, height * zoom)
    font = ImageFont.load_default()
    line = 14
    rows = [PADDING + line, PADDING + line + cell[1] + PADDING + line]
    sheet = Image.new("RGB", (PADDING + len(frames) * (cell[0] + PADDING), rows[1] + cell[1] + PADDING), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, (frame, image) in enumerate(zip(frames, given, strict=True)):
        left = PADDING + column * (cell[0] + PADDING)
        for top, words, pixels in ((rows[0], f"frame {frame}", image), (rows[1], "rendered", clip[frame])):
            draw.text((left, top - line + 1), words, fill=INK, font=font)
            sheet.paste(Image.fromarray(pixels).resize(cell, Image.Resampling.NEAREST), (left, top))
    return np.asarray(sheet)
