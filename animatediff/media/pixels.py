"""Images of every mode that Pillow knows, in RGB of 8 bits: nothing clipped, nothing hidden shown."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

logger = logging.getLogger(__name__)

PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, OverflowError, RuntimeError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for damaged files."""
WHITE = (255, 255, 255, 255)
RGB_OF_16_BITS = 257
"""65,535 / 255."""


def on_white(image: Image.Image, name: str = "image") -> Image.Image:
    """The image in RGB of 8 bits, white where it was transparent; more bits are scaled, never clipped.

    name: of the image, in warnings.
    """
    image = _eight_bits(image, name)
    if has_transparency(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("RGB")


def has_transparency(image: Image.Image) -> bool:
    """Whether an image has transparency, by its mode and its palette; the WebUIs have a Pillow that does not say it."""
    stated = getattr(image, "has_transparency_data", None)
    if stated is not None:
        return stated
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def with_alpha(image: Image.Image, name: str = "image") -> Image.Image:
    """The image in RGBA of 8 bits."""
    return _eight_bits(image, name).convert("RGBA")


def blend(pixels: np.ndarray) -> np.ndarray:
    """RGBA (h, w, 4), uint8 or uint16, on white: (h, w, 3) of the same kind."""
    top = int(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., 3:].astype(np.uint64)
    shown = (pixels[..., :3] * alpha + top * (top - alpha) + top // 2) // top
    return shown.astype(pixels.dtype)


def upright(image: Image.Image, name: str) -> Image.Image:
    """The image turned and mirrored as its EXIF data say; as it is where these cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except PILLOW_ERRORS as error:
        logger.warning("%s: its EXIF data cannot be read (%s); shown as it lies", name, error)
        return image


def in_srgb(image: Image.Image, name: str) -> Image.Image:
    """The colours of an image with a colour profile, such as Display P3 or a printer's CMYK, in those of screens."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "LAB"):
        return image
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower():
            return image
        mode = "RGB" if image.mode == "RGBA" else image.mode
        srgb = ImageCms.createProfile("sRGB")
        changed = ImageCms.profileToProfile(image.convert(mode), given, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError) as error:
        logger.warning("%s: its colour profile cannot be used (%s); its colours are left as they are", name, error)
        return image
    assert changed is not None
    if image.mode == "RGBA":
        changed.putalpha(image.getchannel("A"))
    elif "transparency" in image.info and image.mode == "RGB":  # one colour, which is another now
        changed.putalpha(image.convert("RGBA").getchannel("A"))
    return changed


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """The image in a mode of 8 bits that Pillow brings to RGB."""
    if image.mode.startswith("I;16"):
        return _of_16_bits(image)
    if image.mode in ("I", "F"):
        return Image.fromarray(_scaled(np.asarray(image).astype(np.float64), image, name))
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        transform: Any = ImageCms.buildTransform(lab, ImageCms.createProfile("sRGB"), "LAB", "RGB")
        changed = ImageCms.applyTransform(image, transform)
        assert changed is not None
        return changed
    if image.mode in ("La", "RGBa"):  # premultiplied
        return image.convert("LA" if image.mode == "La" else "RGBA")
    return image


def _of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((values + RGB_OF_16_BITS // 2) // RGB_OF_16_BITS).astype(np.uint8))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _scaled(values: np.ndarray, image: Image.Image, name: str) -> np.ndarray:
    """Numbers without a stated range as uint8: 0..1, 0..255, 16 bits, or else from the smallest to the largest."""
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    whole = image.mode == "I"
    if low >= 0 and ((whole and high <= 65_535) or (image.format == "PNG")):
        factor, low = 1 / RGB_OF_16_BITS, 0.0
    elif not whole and low >= 0 and high <= 1:
        factor, low = 255.0, 0.0
    else:
        factor = 255 / (high - low) if high > low else 0.0
        logger.warning(
            "%s: its numbers go from %g to %g, no range of images; the smallest is made black and the largest white",
            name,
            low,
            high,
        )
    return ((values - low) * factor).round().clip(0, 255).astype(np.uint8)
