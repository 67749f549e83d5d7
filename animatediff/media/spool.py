"""Frames kept on disk for writers that read them twice, and how long each of them lasts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np


def ticks(count: int, fps: Fraction, per_second: int) -> list[int]:
    """Whole-numbered lengths of `count` frames whose running sum is never off by more than half a tick.

    >>> ticks(4, Fraction(8), 100)
    [12, 13, 13, 12]
    """
    ends = [round(i * per_second / fps) for i in range(count + 1)]
    return [end - start for start, end in pairwise(ends)]


AfterFrame = Callable[[int, int], None]
"""(frames encoded, of how many)."""


class Spool:
    """Frames on disk, for writers that read them twice; memory stays that of one frame.

    size: (height, width); channels: 3, or 4 with transparency.
    """

    def __init__(self, size: tuple[int, int], channels: int = 3) -> None:
        self.shape = (*size, channels)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, frame: np.ndarray) -> None:
        self._file.write(frame.tobytes())
        self.count += 1

    def __getitem__(self, index: int) -> np.ndarray:
        length = int(np.prod(self.shape))
        self._file.seek(index * length)
        return np.frombuffer(self._file.read(length), np.uint8).reshape(self.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(self.count))

    def close(self) -> None:
        self._file.close()
