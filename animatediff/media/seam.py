"""Loop seam of a clip: its step from the last frame to the first, beside the steps of neighbouring frames."""

from __future__ import annotations

import numpy as np

PERCENT = 100 / 255
"""Brightness levels to percent of full brightness."""


def frame_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two frames, uint8 (h, w, 3), in percent of full brightness."""
    return float(np.abs(first.astype(np.int16) - second).mean()) * PERCENT


class LoopSeam:
    """`loop_seam` of frames that come chunk by chunk: two frames are kept, whatever the length of the clip."""

    def __init__(self) -> None:
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._steps: list[float] = []

    def add(self, frames: np.ndarray) -> None:
        """frames: uint8 (n, h, w, 3), the next of the clip."""
        for frame in frames:
            if self._last is None:
                self._first = frame.copy()
            else:
                self._steps.append(frame_difference(self._last, frame))
            self._last = frame
        if self._last is not None:
            self._last = self._last.copy()  # not a view that keeps the whole chunk

    def value(self) -> float:
        """1 is a seamless loop; 1.0 where all frames are equal."""
        assert self._first is not None and self._last is not None, "no frames were added"
        difference = float(np.mean(self._steps)) if self._steps else 0.0
        return frame_difference(self._last, self._first) / difference if difference > 0 else 1.0


def loop_seam(frames: np.ndarray) -> float:
    """Ratio of the step from the last frame to the first to the other steps: 1 is a seamless loop.

    frames: uint8 (f, h, w, 3). 1.0 where all frames are equal.
    """
    seam = LoopSeam()
    seam.add(frames)
    return seam.value()
