"""Frames of images in one file: GIF, WebP, APNG, AVIF, TIFF of several pages, and single images as one frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.limits import MAX_ANIMATION_PIXELS, MAX_FRAMES
from animatediff.media.kinds import BadMedia
from animatediff.media.pixels import has_transparency
from animatediff.media.reader import Reader
from animatediff.media.stills import check_size, decoded, opened, reading
from animatediff.media.timing import DEFAULT_FPS, whole

ANIMATED = {"GIF", "WEBP", "PNG", "AVIF", "TIFF"}
"""Formats of Pillow whose further frames are frames; those of JPEG are previews, those of PSD layers."""
UNSAID_MS = 100.0
"""Length of a frame that states none among others that do: what browsers make of it."""
QUICK_PIXELS, PIXELS_PER_BYTE = 2**28, 20_000
"""Pixels that are decoded in seconds, and pixels a byte that no real animation of more than these has."""
TICKS_S = {"GIF": 0.01}
"""Seconds in whose multiples a format states lengths; others have milliseconds."""


class AnimatedImage(Reader):
    """An animated image, or a single one. `source` is a path or the bytes of a file.

    Raises BadMedia, at once or while reading, for whatever is no image or cannot be decoded.
    """

    def __init__(self, source: str | Path | bytes, *, alpha: bool = False) -> None:
        super().__init__()
        self._source, self._alpha = source, alpha
        try:
            self._image: Any = self._opened.enter_context(opened(source))
            with reading(source):
                count = getattr(self._image, "n_frames", 1) if self._image.format in ANIMATED else 1
            self._check_limits(count)
        except BaseException:
            self.close()
            raise
        # An APNG may begin with an image for programs that know no APNG, which is no part of the animation.
        self._first = 1 if count > 1 and getattr(self._image, "default_image", False) else 0
        self.num_frames = count - self._first
        self.tick = TICKS_S.get(self._image.format, 0.001)
        self._ends: list[float] = [1 / DEFAULT_FPS]
        if self.num_frames == 1:
            self.clear = alpha and has_transparency(self._image)
        else:
            self._ends = self._scan()
            self.fps = whole(self.num_frames, self._ends[-1], self.tick)

    def _check_limits(self, count: int) -> None:
        """Raise BadMedia for too many frames or pixels: each is decoded to tell how long frames last."""
        if count == 1:
            return
        pixels = count * self._image.width * self._image.height
        MAX_FRAMES.check(count, f"has {count:,} frames", BadMedia)
        MAX_ANIMATION_PIXELS.check(pixels, f"has {pixels:,} pixels in {count:,} frames", BadMedia)
        size = len(self._source) if isinstance(self._source, bytes) else Path(self._source).stat().st_size
        usual = MAX_ANIMATION_PIXELS.value == MAX_ANIMATION_PIXELS.default
        if usual and pixels > max(QUICK_PIXELS, PIXELS_PER_BYTE * size):
            raise BadMedia(
                f"has {pixels:,} pixels in {count:,} frames, in a file of {size:,} bytes, as no animation has; set "
                "`max_animation_pixels` if that is meant"
            )

    def _scan(self) -> list[float]:
        """When each frame ends; every frame is decoded, as WebP and AVIF state lengths only then."""
        lengths = []
        for index in range(self.num_frames):
            self._seek(index)
            lengths.append(float(self._image.info.get("duration") or 0))
            if self._alpha and not self.clear and has_transparency(self._image):
                self.clear = self._image.convert("RGBA").getchannel("A").getextrema()[0] < 255
        if not sum(lengths):  # nothing is stated
            lengths = [1000 / DEFAULT_FPS] * len(lengths)
        return [end / 1000 for end in accumulate(length if length > 0 else UNSAID_MS for length in lengths)]

    def _seek(self, index: int) -> None:
        try:
            with reading(self._source):
                self._image.seek(index + self._first)
                check_size(*self._image.size)  # pages of a TIFF have a size each
                self._image.load()
        except BadMedia as error:
            if self.num_frames == 1:
                raise
            raise BadMedia(f"frame {index} of {self.num_frames}: {error}") from error

    def times(self) -> list[float]:
        return [0.0, *self._ends[:-1]]

    def end(self) -> float:
        return self._ends[-1]

    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in sorted(set(indices)):
            self._seek(index)
            with reading(self._source):
                yield index, np.array(decoded(self._image, self._source, alpha=self.clear))
