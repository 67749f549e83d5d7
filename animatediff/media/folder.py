"""Folders of images as the frames of a video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from animatediff.errors import UserError
from animatediff.limits import MAX_VIDEO_FRAMES
from animatediff.media.kinds import BadMedia, is_litter, reason
from animatediff.media.pixels import PILLOW_ERRORS
from animatediff.media.reader import Reader
from animatediff.media.stills import check_image, is_clear, opened, read_image
from animatediff.media.timing import DEFAULT_FPS
from animatediff.signatures import IMAGE_SUFFIXES

MOST_FPS = 1e6
"""Frames per second that a file may state."""
NAMED = 3
"""Files that a message names, of those left out."""


def images_in(folder: Path) -> tuple[list[Path], str | None]:
    """The images of a folder in natural order (2.png comes before 10.png), and what is left out, in words.

    Raises UserError where the folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: natural(entry.name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({reason(error)})") from error
    images = [e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and not is_litter(e.name) and not e.is_dir()]
    taken = set(images)
    others = [entry.name for entry in entries if entry not in taken]
    if not images or not others:
        return images, None
    names = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    return images, f"{len(images)} images are read; left out, as no images: {names}"


def natural(name: str) -> tuple[list[str | int], str]:
    """Key for sorting names as people do: numbers in them by value, letters without regard to case.

    >>> sorted(["f10", "F9", "f1"], key=natural)
    ['f1', 'F9', 'f10']
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


class ImageFolder(Reader):
    """The images of a folder; `fps` is how fast they play where the folder does not say.

    Raises UserError for a folder without images.
    """

    def __init__(self, folder: Path, fps: float | None = None, *, alpha: bool = False) -> None:
        super().__init__()
        self.files, left_out = images_in(folder)
        self.notes += [left_out] if left_out else []
        if not self.files:
            inside = next((entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()), None)
            hint = f"; it holds a folder {inside}: is that the one?" if inside else ""
            raise UserError(
                f"{folder}: no images in this folder, no numbered frames (00000.png, ...) either{hint}; expected "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self.num_frames = len(self.files)
        MAX_VIDEO_FRAMES.check(self.num_frames, f"{folder}: holds {self.num_frames:,} images")
        self.fps = _stated(self.files[0]) or fps or float(DEFAULT_FPS)
        self.clear = alpha and any(map(is_clear, self.files))

    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in sorted(set(indices)):
            try:
                yield index, read_image(self.files[index], alpha=self.clear)
            except BadMedia as error:
                raise BadMedia(f"{self.name(index)}: cannot be read as an image ({error})") from error

    def name(self, index: int) -> str:
        return self.files[index].name

    def check(self, indices: Sequence[int]) -> None:
        """Raise BadMedia for the first of these that is no image, or damaged; cheaper than to read them."""
        for index in sorted(set(indices)):
            try:
                check_image(self.files[index])
            except BadMedia as error:
                raise BadMedia(f"{self.name(index)}: cannot be read as an image ({error})") from error


def _stated(file: Path) -> float | None:
    """The frame rate inside a frame that this project wrote."""
    try:
        with opened(file) as image:
            fps = float(Fraction(str(image.info["fps"])[:40])) if image.format == "PNG" else 0.0
            return fps if 0 < fps < MOST_FPS else None
    except (BadMedia, *PILLOW_ERRORS, ArithmeticError):
        return None
