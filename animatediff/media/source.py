"""A video, or a folder of images, that a clip starts from or follows: which of its frames, at what size."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.media.decode import DEFAULT_FPS, VideoFile
from animatediff.media.images import Resize, as_image, shaped
from animatediff.media.kinds import IMAGE_SUFFIXES, BadMedia
from animatediff.media.read import read_video

BY_PILLOW = (".gif", ".webp", ".png", ".apng")
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

    def read(self, num_frames: int, width: int, height: int, resize: Resize = "crop") -> np.ndarray:
        """The first `num_frames` of them, uint8 (f, height, width, 3). Raises UserError for a damaged file.

        One frame of the file's own size is in memory at a time.
        """
        wanted = self.indices[:num_frames]
        if len(wanted) < num_frames:
            raise UserError(f"{self.path}: has {len(wanted)} frames to give, but the clip has {num_frames}")
        with _named(self.path), _reader(self.path, self.fps, self.frames) as reader:
            found = {
                index: np.asarray(shaped(Image.fromarray(frame), width, height, resize))
                for index, frame in reader.each(sorted(set(wanted)))
            }
        return np.stack([found[index] for index in wanted])


def open_source(
    given: str | Path | Sequence[Any],
    *,
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    setting: str = "video",
) -> Source:
    """Look into a video, an animated image, a folder of images, or frames from memory.

    From memory: PIL images, arrays (h, w, 3) or tensors (3, h, w) in a sequence, or stacked; `setting` is what messages
    call them.
    fps: frames to take a second, None is all of them (of a folder without a rate: how fast it plays); start and
    duration: seconds. Raises UserError for what is missing, damaged, no video, a single frame, or shorter than `start`.
    """
    frames = None if isinstance(given, (str, Path)) else given
    path = Path(given) if isinstance(given, (str, Path)) else Path(setting)
    if frames is None and not path.exists():
        raise UserError(f"{path}: no such file; expected a video, or a folder of images")
    with _named(path), _reader(path, fps, frames) as reader:
        times = reader.times()
        if len(times) < 2:
            raise UserError(f"{path}: holds a single frame, expected a video; for one image there is `image`")
        length = times[-1] + 1 / reader.fps
        if start >= length:
            raise UserError(f"{path}: is {length:.2f} s long, so there is nothing after a start of {start:g} s")
        end = length if duration is None else min(length, start + duration)
        rate = reader.fps if fps is None else fps
        if fps is None or fps == reader.fps:
            indices = [index for index, time in enumerate(times) if start - NEAR_S <= time < end - NEAR_S]
        else:
            count = max(1, int((end - start) * fps + NEAR_S))
            indices = [max(0, bisect_right(times, start + i / fps + NEAR_S) - 1) for i in range(count)]
        if len(indices) < 2:
            raise UserError(
                f"{path}: {len(indices)} frames between {start:g} s and {end:g} s at {rate:g} a second, at least 2 are "
                "needed; take a longer part"
            )
        _, first = next(iter(reader.each([indices[0]])))  # a video that cannot be decoded is refused now
        return Source(
            path=path,
            indices=tuple(indices),
            fps=rate,
            size=(first.shape[1], first.shape[0]),
            has_audio=isinstance(reader, VideoFile) and reader.has_audio,
            frames=frames,
        )


class _Images:
    """Frames that need no search: those of an animated image, or the files of a folder."""

    def __init__(self, frames: Sequence[Any], fps: float) -> None:
        self._frames, self.fps = frames, fps

    def times(self) -> list[float]:
        return [index / self.fps for index in range(len(self._frames))]

    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            yield index, np.asarray(as_image(self._frames[index], "video"))


@contextmanager
def _reader(path: Path, fps: float | None, frames: Sequence[Any] | None) -> Iterator[VideoFile | _Images]:
    if frames is not None:
        yield _Images(frames, fps or float(DEFAULT_FPS))
    elif path.is_dir():
        yield _folder(path, fps)
    elif path.suffix.lower() in BY_PILLOW:
        found, rate = read_video(path)
        yield _Images(list(found), rate)
    else:
        with VideoFile(path) as video:
            yield video


def _folder(path: Path, fps: float | None) -> _Images:
    """Images in the order of their names, numbers in them by value: 2.png comes before 10.png."""
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UserError(f"{path}: no images in this folder; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    files.sort(key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])
    with Image.open(files[0]) as first:
        stated = first.info.get("fps")  # in folders of frames of ours
    try:
        rate = float(stated) if stated else fps or float(DEFAULT_FPS)
    except ValueError:
        rate = fps or float(DEFAULT_FPS)
    return _Images(files, rate)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before messages about it."""
    try:
        yield
    except BadMedia as error:
        raise UserError(f"{path}: {error}") from error
