"""Single images in files: upright, in RGB, and whether they are whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.limits import MAX_PIXELS
from animatediff.media.kinds import BadMedia, head_of, is_heic, reason, sniff
from animatediff.media.pixels import PILLOW_ERRORS, has_transparency, in_srgb, on_white, upright, with_alpha

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "MPO", "PPM", "PSD", "TGA", "ICO")
"""Those of Pillow that are read; others start programs (EPS) or are no images."""


def rgb(source: str | Path | bytes, *, alpha: bool = False) -> Image.Image:
    """Read an image file, RGB of 8 bits, upright, transparent pixels white; RGBA with `alpha`.

    Raises BadMedia for what is no image.
    """
    with opened(source) as image, reading(source):
        image.load()
        return decoded(image, source, alpha=alpha)


def decoded(image: Image.Image, source: str | Path | bytes, *, alpha: bool = False) -> Image.Image:
    """An image that Pillow has loaded, as `rgb` gives it."""
    name = "image" if isinstance(source, bytes) else str(source)
    return (with_alpha if alpha else on_white)(in_srgb(upright(image, name), name), name)


def read_image(source: str | Path | bytes, *, alpha: bool = False) -> np.ndarray:
    """The same as uint8 (h, w, 3), or (h, w, 4) with `alpha`."""
    return np.array(rgb(source, alpha=alpha))


def is_clear(path: Path) -> bool:
    """Whether an image has transparency, by its header; False where it cannot be read."""
    try:
        with opened(path) as image:
            return has_transparency(image)
    except BadMedia:
        return False


def open_image(path: str | Path) -> Image.Image:
    """Read an image file as `rgb` does. Raises UserError, naming the file."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected an image")
    if not path.exists():
        raise UserError(f"{path}: no such file; expected an image (png, jpg, webp, ...)")
    try:
        return rgb(path)
    except BadMedia as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from error


def check_image(path: Path) -> None:
    """Raise BadMedia for a file that is no image, or damaged, in less time than it takes to read it."""
    with opened(path) as image, reading(path):
        if image.format == "PNG":
            image.verify()  # checksums, without decompression
        else:
            if image.format == "JPEG":
                image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()


@contextmanager
def reading(source: str | Path | bytes) -> Iterator[None]:
    """Turn Pillow's errors about a damaged file into BadMedia."""
    try:
        yield
    except BadMedia:
        raise
    except PILLOW_ERRORS as error:
        raise BadMedia(f"is damaged or cut off: {reason(error)}") from error
    except MemoryError as error:  # Pillow reads as many bytes as a chunk claims
        raise BadMedia("is damaged, or too large for the memory of this machine") from error


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[Image.Image]:
    """A context with the opened image file, not yet decoded. Raises BadMedia for what is no image that is read here."""
    head = head_of(source)
    if is_heic(head):
        yield _heic(source)
        return
    with _limit_of_pillow(None):  # whose message names another limit
        try:
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        except PILLOW_ERRORS as error:
            raise BadMedia(sniff(source) or _unknown(head, error)) from error
    with image, _limit_of_pillow(MAX_PIXELS.value):
        check_size(*image.size)
        yield image


def check_size(width: int, height: int) -> None:
    """Raise BadMedia for an image or a frame beyond `max_pixels`; before it is decoded."""
    MAX_PIXELS.check(width * height, f"has {width} x {height} = {width * height:,} pixels", BadMedia)


@contextmanager
def _limit_of_pillow(pixels: int | None) -> Iterator[None]:
    """Pillow's own limit, which it asks for parts of files too, in place of its default."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _unknown(head: bytes, error: BaseException) -> str:
    if b"avif" in head[4:32] or b"avis" in head[4:32]:
        return "is an AVIF image, or cut off; AVIF takes Pillow 11.3 or newer"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image, or damaged"
    return f"is damaged or cut off: {reason(error)}"


def _heic(source: str | Path | bytes) -> Image.Image:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadMedia(
            "is a HEIC photo; `pip install pillow-heif` lets it be read, or save it as JPEG or PNG first"
        ) from None
    try:
        photo = pillow_heif.open_heif(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        check_size(*photo.size)
        image = photo.to_pillow()
    except PILLOW_ERRORS as error:
        raise BadMedia(f"is a HEIC photo, damaged or cut off: {reason(error)}") from error
    image.info.pop("exif", None)  # turned by its decoder: turning it by EXIF as well would be once too often
    return image
