"""Colours of frames moved to those of an image, as AnimateLCM-I2V's own program ends.

Hue, saturation and brightness are those of OpenCV in 8 bits (hue 0 to 180), to the same numbers, without OpenCV.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

HUE_SHARE = 0.03
"""Share of the difference in hue that is made up for; of saturation and brightness all is."""
HUES = 180
_BITS = 12
"""Binary digits behind the point of the whole numbers that OpenCV computes in."""


def mean_hsv(image: Image.Image) -> tuple[float, float, float]:
    """Mean hue, saturation and brightness of an image."""
    hue, saturation, value = hsv_of(np.asarray(image.convert("RGB"))).mean((0, 1)).tolist()
    return hue, saturation, value


def matched(images: Tensor, wanted: tuple[float, float, float]) -> Tensor:
    """Frames (n, 3, H, W) in 0..1 with each one's means moved to those wanted; they are of 8 bits then."""
    if images.is_meta:  # where memory is estimated
        return images
    pixels = rearrange((images.float().cpu() * 255).to(torch.uint8), "n c h w -> n h w c").numpy()
    frames = np.stack([_moved(frame, wanted) for frame in pixels])
    return rearrange(torch.from_numpy(frames), "n h w c -> n c h w").to(images) / 255


def _moved(frame: np.ndarray, wanted: tuple[float, float, float]) -> np.ndarray:
    hsv = hsv_of(frame).astype(np.float64)
    difference = (np.array(wanted) - hsv.mean((0, 1))) * (HUE_SHARE, 1.0, 1.0)
    return rgb_of(np.clip(hsv + difference, 0, (HUES, 255, 255)).astype(np.uint8))


def hsv_of(rgb: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) of red, green, blue as hue (0 to 179), saturation and brightness."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    range_ = value - np.minimum(np.minimum(red, green), blue)
    steps = np.arange(256)
    over = np.maximum(steps, 1)
    by_value = np.where(steps > 0, np.rint((255 << _BITS) / over), 0).astype(np.int32)
    by_range = np.where(steps > 0, np.rint((HUES << _BITS) / (6.0 * over)), 0).astype(np.int32)
    half = 1 << (_BITS - 1)
    saturation = (range_ * by_value[value] + half) >> _BITS
    sector = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * range_, red - green + 4 * range_)
    )
    hue = (sector * by_range[range_] + half) >> _BITS
    hue = np.where(hue < 0, hue + HUES, hue)
    return np.stack([hue, saturation, value], axis=-1).clip(0, 255).astype(np.uint8)


def rgb_of(hsv: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) of hue, saturation and brightness as red, green, blue, cut off to whole numbers.

    OpenCV rounds the last pixels of a row instead, up to 31 by the kind of CPU.
    """
    hue = hsv[..., 0].astype(np.float32) * np.float32(6 / HUES)
    saturation, value = (hsv[..., channel].astype(np.float32) * np.float32(1 / 255) for channel in (1, 2))
    sector = np.trunc(hue).astype(np.int32)
    part = hue - sector.astype(np.float32)
    sector = sector % 6

    def less(share: np.ndarray | float) -> np.ndarray:
        """Brightness with so much of the saturation taken away; rounded once, as by a fused multiply-add."""
        return value * (1.0 - saturation.astype(np.float64) * share).astype(np.float32)

    low, falling, rising = less(1.0), less(part), less(np.float32(1) - part)
    red = np.choose(sector, [value, falling, low, low, rising, value])
    green = np.choose(sector, [rising, value, value, falling, low, low])
    blue = np.choose(sector, [low, low, rising, value, value, falling])
    return np.trunc(np.stack([red, green, blue], axis=-1) * np.float32(255)).clip(0, 255).astype(np.uint8)
