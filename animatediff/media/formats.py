"""The video formats this project writes, by file name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from animatediff.errors import UserError, did_you_mean

FORMATS = {
    ".mp4": "mp4",
    ".webm": "webm",
    ".mov": "mov",
    ".mkv": "mkv",
    ".gif": "gif",
    ".webp": "webp",
    ".apng": "apng",
    ".png": "apng",  # an APNG is a PNG, and is commonly named so
}
FOLDER = "folder"
"""A folder of numbered PNG files."""

CODECS = {
    "mp4": ("h264", "h265", "av1"),
    "webm": ("vp9", "av1"),
    "mov": ("prores", "h264", "h265"),
    "mkv": ("ffv1", "h264", "h265", "av1", "vp9"),
}
"""Codecs of each format, the first one if none is asked for."""
CODEC_NAMES = tuple(dict.fromkeys(name for names in CODECS.values() for name in names))
LOSSLESS = ("apng", FOLDER, "ffv1")
"""Codecs, and formats without any, that hold every pixel as it is."""
UNADJUSTABLE = (*LOSSLESS, "gif", "prores")
"""Those without a quality to choose."""
SIZED = ("gif", "webp")
"""Formats that can be brought below a size."""
CLEAR = ("webp", "apng", "gif", FOLDER, "vp9", "prores", "ffv1")
"""Codecs and formats that hold transparency; GIF all of a pixel or nothing."""

FASTEST = {"gif": 50, "webp": 90, "apng": 90}
"""Frames per second, by format: browsers play frames of 10 ms and less as if they lasted 100 ms, and GIF counts in
hundredths of a second."""

LARGEST = {
    **{"h264": (16_384, 16_384), "h265": (65_535, 65_535), "vp9": (65_535, 65_535), "av1": (16_384, 8_704)},
    **{"prores": (65_535, 65_535), "gif": (65_535, 65_535), "webp": (16_383, 16_383)},
}
"""Most pixels a row and a column of what encoders, and sizes in 16 bits, hold."""
SMALLEST = {"h265": 16}
"""Fewest pixels of a side, where they are more than 8."""

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


def codec_of(video_format: str, codec: str | None = None) -> str:
    """The codec of a format, `codec` or its usual one; the name of the format itself where that has none to choose.

    Raises UserError for a codec that the format does not hold.

    >>> codec_of("mp4"), codec_of("mkv", "h265"), codec_of("gif")
    ('h264', 'h265', 'gif')
    """
    known = CODECS.get(video_format)
    if codec is None:
        return video_format if known is None else known[0]
    if known is None or codec not in known:
        others = [f".{name}" for name, codecs in CODECS.items() if codec in codecs]
        place = "a folder of PNG" if video_format == FOLDER else f".{video_format}"
        has = f"has {', '.join(known)}" if known else "has no codec to choose"
        if not others:
            raise UserError(f"codec={codec!r}: {did_you_mean(codec, CODEC_NAMES)}{place} {has}")
        raise UserError(f"codec={codec!r}: {place} {has}; {' and '.join(others)} hold it")
    return codec


def check_sides(path: str | Path, codec: str, width: int, height: int) -> None:
    """Raise UserError for frames that the codec, or format, of `path` does not hold.

    >>> check_sides("fox.mp4", "h264", 1024, 576)
    """
    most, fewest = LARGEST.get(codec, (width, height)), SMALLEST.get(codec, 1)
    if width <= most[0] and height <= most[1] and min(width, height) >= fewest:
        return
    bound = f"at least {fewest} pixels a side" if min(width, height) < fewest else f"at most {most[0]} x {most[1]}"
    raise UserError(
        f"{path}: {codec} holds frames of {bound}, not of {width} x {height} (`width` x `height`); take another size, "
        "or a name without a dot for a folder of PNG"
    )


def frame_rate(fps: float | Fraction, name: str = "fps") -> Fraction:
    """Frames per second as a fraction that every container can hold. Raises UserError unless 0 < fps <= 240.

    name: of the setting, in messages.
    """
    if not 0 < fps <= 240:
        raise UserError(f"{name}={fps}: expected more than 0 and at most 240 frames per second")
    if not (rate := Fraction(fps).limit_denominator(1001)):
        raise UserError(f"{name}={fps}: is a frame in more than a quarter of an hour; expected at least 0.001")
    return rate


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
