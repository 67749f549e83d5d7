"""A video, or a folder of images, that a clip starts from or follows: which of its frames, at what size."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.limits import MAX_VIDEO_FRAMES
from animatediff.media.folder import ImageFolder
from animatediff.media.images import Resize, as_image, shaped
from animatediff.media.open import open_media
from animatediff.media.read import naming, say
from animatediff.media.reader import Reader
from animatediff.media.timing import late, shown_at
from animatediff.ranges import Range

logger = logging.getLogger(__name__)

NEAR_S = 1e-4
"""Seconds by which a time may miss a frame and still mean it: times in files are rounded."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Frames chosen from a file or a folder; what they show is read later, at the size that is wanted then."""

    path: Path
    """Of frames from memory: the setting that holds them."""
    indices: tuple[int, ...]
    """Ascending; a frame comes several times where more are wanted a second than there are."""
    fps: float
    """Frames per second of the chosen ones."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    has_audio: bool = False
    frames: Sequence[Any] | None = None
    """Frames from memory: PIL images, arrays or tensors."""
    held: bool = False
    """A single image, which is shown as long as the clip lasts: it says nothing of the clip's length or rate."""

    def check(self, num_frames: int | None = None) -> None:
        """Raise UserError if one of the first `num_frames` images of a folder is damaged; without reading them all."""
        if self.frames is None and self.path.is_dir():
            with naming(self.path), ImageFolder(self.path, self.fps) as folder:
                folder.check(self.indices[:num_frames])

    def read(self, num_frames: int, width: int, height: int, resize: Resize = "crop") -> np.ndarray:
        """The first `num_frames` of them, uint8 (f, height, width, 3). Raises UserError for a damaged file.

        One frame of the file's own size is in memory at a time.
        """
        wanted = self.indices * num_frames if self.held else self.indices[:num_frames]
        if len(wanted) < num_frames:
            raise UserError(f"{self.path}: has {len(wanted)} frames to give, but the clip has {num_frames}")
        found: dict[int, np.ndarray] = {}
        sizes = set()
        with naming(self.path), _reader(self.path, self.fps, self.frames) as reader:
            for index, frame in reader.each(sorted(set(wanted))):
                sizes.add((frame.shape[1], frame.shape[0]))
                found[index] = np.asarray(shaped(Image.fromarray(frame), width, height, resize))
        if len(sizes) > 1:
            shown = ", ".join(f"{w} x {h}" for w, h in sorted(sizes)[:3])
            logger.warning("%s: images of %d sizes (%s); each is brought to the clip's", self.path, len(sizes), shown)
        return np.stack([found[index] for index in wanted])


def open_source(
    given: str | Path | Sequence[Any],
    *,
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    setting: str = "video",
    hold: bool = False,
) -> Source:
    """Look into a video, an animated image, a folder of images, or frames from memory.

    From memory: PIL images, arrays (h, w, 3) or tensors (3, h, w) in a sequence, or stacked; `setting` is what messages
    call them.
    fps: frames to take a second; None is all of them, those of a file with unequal times at a constant rate (of a
    folder without a rate: how fast it plays); start and duration: seconds; hold: take a single image for every frame of
    a clip. Raises UserError for what is missing, damaged, no video, a single frame without `hold`, or shorter than
    `start`.
    """
    if fps is not None:
        Range(gt=0, unit="frames a second").check("`fps`", fps)
    if duration is not None:
        Range(gt=0, unit="seconds").check("`duration`", duration)
    Range(ge=0, unit="seconds").check("`start`", start)
    frames = None if isinstance(given, (str, Path)) else _several(given)
    path = Path(given) if isinstance(given, (str, Path)) else Path(setting)
    if frames is None and not path.exists():
        raise UserError(f"{path}: no such file; expected a video, or a folder of images")
    with naming(path), _reader(path, fps, frames) as reader:
        held = reader.num_frames == 1 and hold
        if reader.num_frames < 2 and not held:
            raise UserError(f"{path}: holds a single frame, expected a video; for one image there is `image`")
        indices, rate = ([0], reader.fps) if held else _chosen(path, reader, fps, start, duration)
        _, first = next(iter(reader.each([indices[0]])))  # a video that cannot be decoded is refused now
        say(path, reader)
        return Source(
            path=path,
            indices=tuple(indices),
            fps=rate,
            size=(first.shape[1], first.shape[0]),
            has_audio=reader.has_audio,
            frames=frames,
            held=held,
        )


def _chosen(
    path: Path, reader: Reader, fps: float | None, start: float, duration: float | None
) -> tuple[list[int], float]:
    """Numbers of the frames of a part of a video, and their rate: the frame shown at a time comes at that time."""
    times, length = reader.times(), reader.end()
    if start >= length:
        raise UserError(f"{path}: is {length:.2f} s long, so there is nothing after a start of {start:g} s")
    end = length if duration is None else min(length, start + duration)
    all_of_them = reader.steady()
    rate = all_of_them.fps if fps is None else fps
    if rate == all_of_them.fps and all_of_them.indices == tuple(range(len(times))):
        indices = [index for index, time in enumerate(times) if start - NEAR_S <= time < end - NEAR_S]
    else:
        near = late(rate) if fps is None else NEAR_S
        count = max(1, int((end - start) * rate + 1e-3))
        what = f"{path}: {end - start:,.0f} s at {rate:g} a second come to {count:,} frames"
        MAX_VIDEO_FRAMES.check(count, what)
        indices = [shown_at(times, start + number / rate, near) for number in range(count)]
        if fps is None:
            say(path, reader, all_of_them)
    if len(indices) < 2:
        raise UserError(
            f"{path}: {len(indices)} frames between {start:g} s and {end:g} s at {rate:g} a second, at least 2 are "
            "needed; take a longer part"
        )
    return indices, rate


class _Memory(Reader):
    """Frames from memory."""

    def __init__(self, frames: Sequence[Any], fps: float | None) -> None:
        super().__init__()
        self._frames, self.num_frames = frames, len(frames)
        self.fps = fps or self.fps

    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            yield index, np.asarray(as_image(self._frames[index], "video"))


def _several(given: Any) -> Sequence[Any]:
    """Frames in a sequence; a single image is one of them."""
    if isinstance(given, Image.Image) or getattr(given, "ndim", 4) < 4:
        return [given]
    return given


@contextmanager
def _reader(path: Path, fps: float | None, frames: Sequence[Any] | None) -> Iterator[Reader]:
    with open_media(path, fps) if frames is None else _Memory(frames, fps) as reader:
        yield reader
