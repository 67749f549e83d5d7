"""Several clips side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np


class Frames(Protocol):
    """Frames by number, uint8 (h, w, 3): an array (f, h, w, 3), or frames on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def grid_frames(clips: Sequence[Frames], columns: int = 4, padding: int = 2) -> Iterator[np.ndarray]:
    """Frames (h, w, 3) of `make_grid`, one after the other: no more than one of each clip is in memory."""
    if not clips:
        raise ValueError("make_grid needs at least one clip")
    num_frames = max(len(clip) for clip in clips)
    height, width = (max(clip[0].shape[axis] for clip in clips) for axis in range(2))
    columns = min(columns, len(clips))
    rows = -(-len(clips) // columns)
    for number in range(num_frames):
        grid = np.zeros((rows * (height + padding) + padding, columns * (width + padding) + padding, 3), dtype=np.uint8)
        for index, clip in enumerate(clips):
            top = padding + index // columns * (height + padding)
            left = padding + index % columns * (width + padding)
            frame = clip[min(number, len(clip) - 1)]
            grid[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        yield grid


def make_grid(clips: Sequence[np.ndarray], columns: int = 4, padding: int = 2) -> np.ndarray:
    """Clips side by side on black, `columns` to a row, as one clip: uint8 (f, h, w, 3).

    clips: uint8 (f, h, w, 3) each; a shorter clip holds its last frame, a smaller one sits upper left in its cell.
    """
    return np.stack(list(grid_frames(clips, columns, padding)))
