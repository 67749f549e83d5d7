"""Thumbnail and spritesheet of a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from animatediff.media.grid import make_grid
from animatediff.media.open import open_media

THUMBNAIL, SPRITESHEET = "thumbnail.webp", "spritesheet.jpg"
MAX_CELLS, COLUMNS, CELL = 64, 8, 256
"""Frames of a spritesheet, evenly over the clip; frames in a row; pixels of the longer side of one."""
THUMBNAIL_SIDE = 512


def write_stills(video: Path, folder: Path) -> tuple[int, int, int]:
    """Write both beside a result; returns the number of its frames, their width and height in pixels."""
    with open_media(video) as reader:
        count = reader.num_frames
        wanted = sorted({round(index) for index in np.linspace(0, count - 1, min(count, MAX_CELLS))})
        cells = []
        width = height = 0
        for index, frame in reader.each(wanted):
            image = Image.fromarray(frame)
            width, height = image.size
            if index == wanted[0]:
                thumbnail = image.copy()
                thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
                thumbnail.save(folder / THUMBNAIL, quality=85)
            image.thumbnail((CELL, CELL))
            cells.append(np.asarray(image)[None])
    (sheet,) = make_grid(cells, columns=COLUMNS)
    Image.fromarray(sheet).save(folder / SPRITESHEET, quality=85)
    return count, width, height
