"""Several clips side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def make_grid(clips: Sequence[np.ndarray], columns: int = 4, padding: int = 2) -> np.ndarray:
    """Clips side by side on black, `columns` to a row, as one clip: uint8 (f, h, w, 3).

    clips: uint8 (f, h, w, 3) each; a shorter clip holds its last frame, a smaller one sits upper left in its cell.
    """
    if not clips:
        raise ValueError("make_grid needs at least one clip")
    num_frames, height, width = (max(clip.shape[axis] for clip in clips) for axis in range(3))
    columns = min(columns, len(clips))
    rows = -(-len(clips) // columns)
    grid = np.zeros(
        (num_frames, rows * (height + padding) + padding, columns * (width + padding) + padding, 3), dtype=np.uint8
    )
    for index, clip in enumerate(clips):
        top = padding + index // columns * (height + padding)
        left = padding + index % columns * (width + padding)
        held = clip[np.minimum(np.arange(num_frames), len(clip) - 1)]
        grid[:, top : top + clip.shape[1], left : left + clip.shape[2]] = held
    return grid
