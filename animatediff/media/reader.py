"""What all readers of frames have in common: videos, animated images, folders, frames in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from animatediff.media.kinds import BadMedia
from animatediff.media.timing import DEFAULT_FPS, Steady, shown_at, steady

if TYPE_CHECKING:
    from typing_extensions import Self


class Reader(ABC):
    """Frames read by their number, one in memory at a time. A context."""

    num_frames: int
    fps: float = float(DEFAULT_FPS)
    """Frames per second, on average."""
    has_audio: bool = False
    tick: float = 0.0
    """Seconds that times are rounded to."""
    clear: bool = False
    """Whether frames have opacity as a fourth channel: where the reader is to keep it, and the file has it."""
    notes: list[str]
    """What a user should know of this file; complete once a frame was read."""

    def __init__(self) -> None:
        self.notes = []
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._opened.close()

    def name(self, index: int) -> str:
        """Name of a frame in messages."""
        return f"frame {index}"

    def times(self) -> list[float]:
        """When each frame is shown, in seconds after the first one."""
        return [index / self.fps for index in range(self.num_frames)]

    def end(self) -> float:
        """When the last frame ends, in seconds after the first one begins."""
        return self.times()[-1] + 1 / self.fps

    def steady(self) -> Steady:
        """All frames at a constant rate, by the times they are shown at."""
        return steady(self.times(), self.end(), self.fps, self.tick)

    def at_rate(self, fps: float) -> tuple[int, ...]:
        """Numbers of the frames that are shown at so many times a second; repeated where the file has fewer."""
        own = self.steady()
        if abs(own.fps - fps) < fps * 1e-3:
            return own.indices
        times, near = self.times(), max(0.001, self.tick / 2) + 1e-4  # formats round times
        return tuple(shown_at(times, number / fps, near) for number in range(max(1, int(self.end() * fps + 1e-3))))

    @abstractmethod
    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The number and the image of these frames one after another, as they come: uint8 RGB (h, w, 3).

        indices: ascending, each once. Raises BadMedia for a frame that cannot be read.
        """

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The frames of these numbers, in this order: uint8 RGB (f, h, w, 3)."""
        found = dict(self.each(sorted(set(indices))))
        if len(sizes := {image.shape for image in found.values()}) > 1:
            shown = " and ".join(sorted(f"{shape[1]}x{shape[0]}" for shape in sizes))
            raise BadMedia(f"its frames are of different sizes ({shown})")
        return np.stack([found[index] for index in indices])
