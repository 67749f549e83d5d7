"""GIF and WebP below a size: step after step something is given up, in the order of a table, until the file fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.media.spool import Spool

logger = logging.getLogger(__name__)

MEGABYTE = 1_000_000
"""Bytes, as chat programs and shops count."""
SMALLEST_SIDE = 16


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is given up of a clip; the first step gives up nothing."""

    colors: int = 256
    """Of a GIF."""
    lossy: int = 0
    """Of a GIF by gifsicle: how far runs of equal pixels may be from the frame."""
    quality: int | None = None
    """Of a WebP, 0 to 100."""
    every: int = 1
    """Of so many frames one is kept."""
    scale: float = 1.0
    """Of both sides."""

    def __str__(self) -> str:
        words = [f"{self.colors} colours"] if self.colors < 256 else []
        words += [f"lossy {self.lossy}"] if self.lossy else []
        words += [f"quality {self.quality}"] if self.quality is not None else []
        words += [f"every {'second' if self.every == 2 else 'third'} frame"] if self.every > 1 else []
        words += [f"{self.scale:.0%} of its width and height"] if self.scale < 1 else []
        return ", ".join(words)


_SMALLER = [(every, 1.0) for every in (2, 3)] + [(3, scale) for scale in (0.75, 0.5, 0.35, 0.25)]

GIF = (
    Step(),
    *(Step(colors=colors) for colors in (128, 64)),
    *(Step(colors=64, lossy=lossy) for lossy in (40, 80, 120)),
    *(Step(colors=64, lossy=120, every=every, scale=scale) for every, scale in _SMALLER),
)
"""First fewer colours, then lossy (where gifsicle is installed), then fewer frames, then a smaller image."""
WEBP = (
    Step(),
    *(Step(quality=quality) for quality in (60, 40, 20)),
    *(Step(quality=20, every=every, scale=scale) for every, scale in _SMALLER),
)
"""First a lower quality, then fewer frames, then a smaller image."""


class Reduced(Sequence[np.ndarray]):
    """The frames of a spool as a step leaves them: fewer, or smaller."""

    def __init__(self, spool: Spool, step: Step) -> None:
        self._spool, self._step = spool, step
        height, width = spool.shape[:2]
        small = [min(side, max(SMALLEST_SIDE, round(side * step.scale))) for side in (width, height)]
        self.size = small[0], small[1]
        """(width, height)."""

    def __len__(self) -> int:
        return -(-len(self._spool) // self._step.every)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        frame = self._spool[index * self._step.every]
        if self._step.scale == 1:
            return frame
        return np.asarray(Image.fromarray(frame).resize(self.size, Image.Resampling.LANCZOS))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


def shrink(
    path: Path,
    write: Callable[[Step], None],
    steps: Sequence[Step],
    max_bytes: int | None,
    spool: Spool,
    fps: Fraction,
) -> None:
    """Write `path` by the first of the steps that brings it to `max_bytes`; by the first of all where that is None.

    Steps give up more and more, so the one is found by halving. Raises UserError where the last one is not enough.
    """
    write(steps[0])
    if max_bytes is None or path.stat().st_size <= max_bytes:
        return
    whole = path.stat().st_size
    low, high, written = 1, len(steps) - 1, 0
    sizes = {0: whole}
    while low < high:
        middle = (low + high) // 2
        write(steps[middle])
        written, sizes[middle] = middle, path.stat().st_size
        low, high = (low, middle) if sizes[middle] <= max_bytes else (middle + 1, high)
    if written != low:
        write(steps[low])
        sizes[low] = path.stat().st_size
    if sizes[low] > max_bytes:
        raise UserError(
            f"`max_size` {max_bytes / MEGABYTE:g} MB: the smallest that this clip can be made has "
            f"{sizes[low] / MEGABYTE:.2g} MB; take fewer frames or another format"
        )
    step = steps[low]
    logger.warning(
        "to be below %g MB in place of %.2f, the file has %s (%d x %d, %.3g frames a second)",
        max_bytes / MEGABYTE,
        whole / MEGABYTE,
        step,
        *Reduced(spool, step).size,
        float(fps / step.every),
    )
