"""Kinds of files, by their first bytes and by the suffix of their name."""

from __future__ import annotations

BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull` there"),
    (b"<!doctype html", "a web page, not the file itself: the download needs a login or another address"),
    (b"<html", "a web page, not the file itself: the download needs a login or another address"),
    (b"<svg", "an SVG drawing; save it as PNG first"),
    (b"<?xml", "an XML text, not the file itself: often the error message of a download"),
    (b"pk\x03\x04", "a ZIP archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"rar!", "a RAR archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"%pdf", "a PDF; save its pages as PNG first"),
    (b"%!ps", "PostScript; save it as PNG first"),
    (b"\x00\x05\x16\x07", "what macOS puts beside a file (AppleDouble); the file itself has the name without `._`"),
    (b"\xff\x0a", "a JPEG XL image; save it as PNG or JPEG first"),
    (b"\x00\x00\x00\x0cjxl ", "a JPEG XL image; save it as PNG or JPEG first"),
    (b"v/1\x01", "an OpenEXR image; save it as 16-bit PNG first"),
    (b"#?radiance", "a Radiance HDR image; save it as PNG first"),
)
"""First bytes, in lower case, of files that often bear the name of an image or a video -> the kind of file."""
_NO_TEXT = (
    (b"PK\x03\x04", "a ZIP archive, as .xlsx and .ods are: save a table as CSV, unpack anything else"),
    (b"\xd0\xcf\x11\xe0", "a file of an old Excel or Word: save it as CSV or as plain text"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"GIF87a", "a GIF"),
    (b"GIF89a", "a GIF"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x1aE\xdf\xa3", "a video (WebM or Matroska)"),
    (b"OggS", "a video or sound (Ogg)"),
    (b"FLV\x01", "a video (FLV)"),
    (b"\x00\x00\x01\xba", "a video (MPEG)"),
    (b"SQLite format 3\x00", "a database (SQLite)"),
    (b"\x80\x02", "a pickle of Python, as .ckpt and .pt files are"),
)
"""First bytes of files that are no text -> the kind of file, before those of `BEGINNINGS`."""
_RIFF = {b"WEBP": "a WebP image", b"AVI ": "a video (AVI)", b"WAVE": "a sound (WAV)"}
_BRANDS = {b"heic": "a HEIC photo", b"heix": "a HEIC photo", b"mif1": "a HEIC photo", b"avif": "an AVIF image"}


def no_text(head: bytes) -> str | None:
    """Name the kind of a file that should have been a text of ours, if its first bytes tell; None for a text.

    >>> no_text(b"GIF89a..."), no_text(b"id,prompt")
    ('a GIF', None)
    """
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video (MP4 or MOV)")
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[8:10] == b'{"' and not any(head[5:8]):
        return "a file of weights (safetensors)"
    if head and not any(head):
        return "nothing but zeros: its download or its copy was not finished"
    found = next((what for beginning, what in _NO_TEXT if head.startswith(beginning)), None)
    start = head.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return found or next((what for beginning, what in BEGINNINGS if start.startswith(beginning)), None)


VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv",
    ".3gp", ".ogv", ".vob", ".mxf", ".y4m", ".ivf", ".h264", ".264", ".h265", ".hevc", ".265", ".mjpeg", ".mjpg",
    ".apng",
}  # fmt: skip
IMAGE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
    ".jp2", ".tga", ".ppm", ".pgm",
}  # fmt: skip
