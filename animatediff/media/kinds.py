"""Kinds of media files, told by their first bytes, and the recognition of files that are none."""

from __future__ import annotations

import errno
from pathlib import Path

from animatediff.signatures import BEGINNINGS

STILLS = (b"\xff\xd8\xff", b"BM", b"8BPS", b"P5", b"P6", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
"""First bytes of single images: JPEG, BMP, PSD, PGM and PPM, JPEG 2000."""
ANIMATIONS = (b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
"""First bytes of images that may hold several frames: PNG, GIF, TIFF; WebP and AVIF are told by `is_animation`."""
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
AVIF_BRANDS = {b"avif", b"avis"}

LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
"""Names, in lower case, that systems leave in folders."""


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


def head_of(source: str | Path | bytes) -> bytes:
    """The first 512 bytes of a file. Raises BadMedia where it cannot be read."""
    if isinstance(source, bytes):
        return source[:512]
    try:
        with open(source, "rb") as file:
            return file.read(512)
    except OSError as error:
        raise BadMedia(
            "no such file" if error.errno == errno.ENOENT else f"cannot be read ({reason(error)})"
        ) from error


def sniff(source: str | Path | bytes) -> str | None:
    """Name the kind of a file that should have been a video or an image, if its first bytes tell."""
    try:
        start = head_of(source)
    except BadMedia as error:
        return str(error)
    if not start:
        return "is empty (0 bytes)"
    head = start.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    for beginning, what in BEGINNINGS:
        if head.startswith(beginning):
            return f"is {what}"
    if all(byte >= 32 or byte in (9, 10, 13) for byte in start) and start.isascii():
        return "is a text file"
    if not any(start):
        return "holds nothing but zeros: its download or its copy was not finished"
    return None


def brands(head: bytes) -> set[bytes]:
    """Brands of a file of the MP4 kind (ISO/IEC 14496-12, 4.3), the major one and the compatible ones."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def is_heic(head: bytes) -> bool:
    """Whether a file that begins so is a HEIC photo or sequence, as iPhones make them."""
    found = brands(head)
    return bool(found & HEIC_BRANDS) and not found & AVIF_BRANDS


def is_animation(head: bytes) -> bool:
    """Whether a file that begins so is an image that may hold several frames: PNG, GIF, TIFF, WebP, AVIF."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(ANIMATIONS) or webp or bool(brands(head) & AVIF_BRANDS)


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image, one that may hold several frames included."""
    return head.startswith(STILLS) or is_animation(head) or is_heic(head)


def stated_size(head: bytes) -> int | None:
    """Number of bytes that a file which begins so should have: of Matroska, WebM and AVI, where they say."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return int.from_bytes(head[4:8], "little") + 8
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return None
    length, at = _number(head, 4)
    at += length or 0
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return None
    length, at = _number(head, at + 4)
    return None if length is None else at + length


def _number(head: bytes, at: int) -> tuple[int | None, int]:
    """A number of variable length of EBML (RFC 8794, section 4), None for "unknown", and the place after it."""
    first = head[at] if at < len(head) else 0
    count = 9 - first.bit_length()
    if count > 8:
        return None, at
    value = int.from_bytes(head[at : at + count], "big") & ((1 << 7 * count) - 1)
    return (None if value == (1 << 7 * count) - 1 else value), at + count


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name was left by a system beside those of its user, or is hidden."""
    return name.startswith(".") or name.lower() in LITTER
