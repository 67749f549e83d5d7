"""The video formats this project writes, by file name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from animatediff.errors import UserError, did_you_mean

FORMATS = {
    ".mp4": "mp4",
    ".webm": "webm",
    ".gif": "gif",
    ".webp": "webp",
    ".apng": "apng",
    ".png": "apng",  # an APNG is a PNG, and is commonly named so
}
FOLDER = "folder"
"""A folder of numbered PNG files."""

FASTEST = {"gif": 50, "webp": 90, "apng": 90}
"""Frames per second, by format: browsers play frames of 10 ms and less as if they lasted 100 ms, and GIF counts in
hundredths of a second."""

METADATA_KEY = "animatediff"
"""Keyword of the text chunk that holds the request in PNG files."""


def format_of(path: str | Path) -> str:
    """The format that a path asks for: one of the values of FORMATS, or FOLDER where the name has no suffix.

    Raises UserError for a suffix that is not written here.
    """
    text = str(path)
    path = Path(path)
    if text.endswith(("/", "\\")) or path.is_dir() or not path.suffix:
        return FOLDER
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f"{path}: cannot write {suffix!r}; {did_you_mean(suffix, FORMATS)}known are {', '.join(FORMATS)}, or a "
            "name without a dot for a folder of PNG"
        )
    return FORMATS[suffix]


def frame_rate(fps: float | Fraction) -> Fraction:
    """Frames per second as a fraction that every container can hold. Raises UserError unless 0 < fps <= 240."""
    if not 0 < fps <= 240:
        raise UserError(f"fps={fps}: expected more than 0 and at most 240 frames per second")
    return Fraction(fps).limit_denominator(1001)


def num_frames_at(num_frames: int, ratio: Fraction) -> int:
    """Frames of a clip of `num_frames` at a rate `ratio` times as high; it lasts as long, to half a frame.

    >>> num_frames_at(16, Fraction(24, 8)), num_frames_at(1, Fraction(1, 8))
    (48, 1)
    """
    return max(1, round(num_frames * ratio))


def shown_rate(video_format: str, fps: Fraction) -> Fraction:
    """The most frames per second, up to `fps`, that players of the format show at their speed."""
    return min(fps, Fraction(FASTEST.get(video_format, fps)))


def check_quality(quality: int) -> int:
    """`quality` itself. Raises UserError unless it is from 0 to 100."""
    if not 0 <= quality <= 100:
        raise UserError(f"quality={quality}: expected 0 (smallest file) to 100 (best image)")
    return quality
