"""Kinds of media files, single images, and the recognition of files that are neither."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np

from animatediff.errors import UserError

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull` there"),
    (b"<!doctype html", "a web page, not the file itself: the download needs a login or another address"),
    (b"<html", "a web page, not the file itself: the download needs a login or another address"),
    (b"<?xml", "an XML text, not the file itself: often the error message of a download"),
    (b"pk\x03\x04", "a ZIP archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
)
"""First bytes, in lower case, of files that often bear a video's name -> the kind of file."""


class BadMedia(Exception):  # noqa: N818 - a finding about a file, counted and reported, not a failure of the program
    """A file that is no video or image, or of no use; the message says why and does not name the file."""

    def __init__(self, why: str, kind: str = "unreadable") -> None:
        super().__init__(why)
        self.kind = kind
        """Key under which such files are counted."""

    def __reduce__(self) -> tuple[type[BadMedia], tuple[str, str]]:
        return BadMedia, (str(self), self.kind)


def reason(error: BaseException) -> str:
    """Describe an error in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def sniff(source: str | Path | bytes) -> str | None:
    """Name the kind of a file that should have been a video or an image, if its first bytes tell."""
    if isinstance(source, bytes):
        start, size = source[:512], len(source)
    else:
        try:
            size = Path(source).stat().st_size
            with open(source, "rb") as file:
                start = file.read(512)
        except OSError as error:
            return "no such file" if error.errno == errno.ENOENT else f"cannot be read ({reason(error)})"
    if not size:
        return "is empty (0 bytes)"
    head = start.lstrip().lower()
    for beginning, what in BEGINNINGS:
        if head.startswith(beginning):
            return f"is {what}"
    if all(byte >= 32 or byte in (9, 10, 13) for byte in start) and start.isascii():
        return "is a text file"
    return None


def read_image(source: str | Path | bytes) -> np.ndarray:
    """Read an image as uint8 RGB (h, w, 3), turned upright by its EXIF data; transparent pixels become white.

    Raises BadMedia for what is no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                image = Image.alpha_composite(white, image)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise BadMedia(sniff(source) or f"cannot be opened as an image ({reason(error)})") from error
