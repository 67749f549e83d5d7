"""Decoded video frames as RGB of 8 bits: matrices, ranges, more bits, transparency, HDR, pixel shapes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from animatediff.media.pixels import RGB_OF_16_BITS, blend

BT709, UNSPECIFIED, BT2020 = 1, 2, 9
PQ, HLG = 16, 18
P3 = 12
"""Code points of ITU-T H.273, tables 2 to 4."""
SD_WIDTH, SD_HEIGHT = 1024, 576
"""Videos up to this size that do not say are BT.601, larger ones BT.709, as players take them."""

STRIP_PIXELS = 2**20
"""Pixels that are brought to 8 bits at a time: what is between has up to 50 bytes a pixel."""

WHITE_NITS = 203.0
"""Luminance of diffuse white in HDR (ITU-R BT.2408): what becomes white in the result."""
PEAK_NITS = 1000.0
"""Luminance of the brightest light that is told apart; HLG is made for displays of that."""
TO_BT709 = {
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),  # ITU-R BT.2087
    P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}
"""Linear RGB of wider primaries -> linear RGB of BT.709."""
LUMINANCE = (0.2627, 0.6780, 0.0593)
"""Of linear BT.2020 (ITU-R BT.2100)."""


def rgb_of(frame: Any, aspect: Fraction | None = None, *, alpha: bool = False) -> np.ndarray:
    """One frame of PyAV as uint8 RGB (h, w, 3): upright, on white, square pixels, the light of HDR brought to SDR.

    aspect: width of a pixel by its height; alpha: RGBA (h, w, 4) in place of white.
    """
    size = square_size(frame.width, frame.height, aspect)
    matrix = frame.colorspace
    if matrix == UNSPECIFIED and (frame.width > SD_WIDTH or frame.height > SD_HEIGHT):
        matrix = BT709
    deep = any(component.bits > 8 for component in frame.format.components)
    clear = alpha or has_alpha(frame)
    layout = ("rgba64le" if clear else "rgb48le") if deep else ("rgba" if clear else "rgb24")
    colors = {} if matrix == frame.colorspace else {"src_colorspace": matrix}
    pixels = frame.reformat(*size, format=layout, threads=1, **colors).to_ndarray()
    if clear or pixels.dtype != np.uint8 or is_hdr(frame) or _primaries(frame) in TO_BT709:
        rows = max(1, STRIP_PIXELS // pixels.shape[1])
        shown = np.empty((*pixels.shape[:2], 4 if alpha else 3), np.uint8)
        for top in range(0, len(pixels), rows):
            part = pixels[top : top + rows]
            if alpha:
                shown[top : top + rows, :, 3] = _eighth(part[..., 3])
                part = part[..., :3]
            shown[top : top + rows, :, :3] = _in_eight_bits(part, frame, clear and not alpha)
        pixels = shown
    return turned(pixels, display_matrix(frame))


def _in_eight_bits(pixels: np.ndarray, frame: Any, clear: bool) -> np.ndarray:
    """Rows of a frame as uint8 RGB on white, in standard range. clear: whether they have transparency."""
    if clear:
        pixels = blend(pixels)
    if is_hdr(frame) or _primaries(frame) in TO_BT709:
        pixels = _to_sdr(pixels, frame)
    return _eighth(pixels)


def _eighth(values: np.ndarray) -> np.ndarray:
    """Values of 8 or 16 bits in 8 bits."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + RGB_OF_16_BITS // 2) // RGB_OF_16_BITS).astype(np.uint8)


def has_alpha(frame: Any) -> bool:
    """Whether frames of this format have transparency."""
    return is_clear_layout(frame.format.name)


def is_clear_layout(name: str) -> bool:
    """The same by FFmpeg's name of the format."""
    return name.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbra", "ya8", "ya16", "pal8", "ayuv", "vuya"))


def is_hdr(frame: Any) -> bool:
    """Whether the frame is in high dynamic range: perceptual quantizer (HDR10, Dolby Vision) or hybrid log-gamma."""
    return getattr(frame, "color_trc", UNSPECIFIED) in (PQ, HLG)


def _primaries(frame: Any) -> int:
    stated = getattr(frame, "color_primaries", UNSPECIFIED)
    return BT2020 if stated == UNSPECIFIED and is_hdr(frame) else stated


def square_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) of a frame in square pixels, by the width. aspect: width of a pixel by its height."""
    return (max(1, round(width * aspect)) if aspect else width), height


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Where a pixel is shown: x' = a x + c y, y' = b x + d y, as (a, b, c, d) in -1, 0, 1 (ISO/IEC 14496-12, 6.2.2)."""
    for data in frame.side_data:
        if getattr(data.type, "name", data.type) == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if abs(a) + abs(d) >= abs(b) + abs(c):  # the nearest right angle
                return int(np.sign(a)) or 1, 0, 0, int(np.sign(d)) or 1
            return 0, int(np.sign(b)) or 1, int(np.sign(c)) or 1, 0
    return 1, 0, 0, 1


def turned(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """An image (h, w, 3) as a display matrix shows it."""
    a, b, c, d = matrix
    if not a:
        pixels = pixels.transpose(1, 0, 2)
    if min(a, c) < 0:
        pixels = pixels[:, ::-1]
    if min(b, d) < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


# -- high dynamic range and wide colour -------------------------------------------------------------------------------


def _to_sdr(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """RGB of HDR, or of wider primaries, uint8 or uint16, as uint8 RGB of sRGB."""
    transfer = getattr(frame, "color_trc", UNSPECIFIED) if is_hdr(frame) else BT709
    light = _light(transfer, int(np.iinfo(pixels.dtype).max))[pixels]  # 1 is diffuse white
    if transfer == HLG:  # the system gamma of a display of 1000 nits (ITU-R BT.2100, table 5)
        scene = light @ np.asarray(LUMINANCE, np.float32)
        light *= (np.maximum(scene, 1e-6) ** 0.2)[..., None] * (PEAK_NITS / WHITE_NITS)
    if transfer != BT709:
        brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)  # one factor for all three keeps the hue
        light *= _compressed(brightest) / brightest
    if (matrix := TO_BT709.get(_primaries(frame))) is not None:
        light = light @ np.asarray(matrix, np.float32).T
    light = light.clip(0, 1)
    return (
        (np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255).round().astype(np.uint8)
    )


@cache
def _light(transfer: int, top: int) -> np.ndarray:
    """Linear light of each value up to `top`, float32: PQ and SDR by diffuse white, HLG of the scene in 0..1."""
    signal = np.arange(top + 1) / top
    if transfer == PQ:
        return (_nits(signal) / WHITE_NITS).astype(np.float32)
    if transfer == HLG:  # ITU-R BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4).astype(np.float32)


M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
"""Constants of the perceptual quantizer (ITU-R BT.2100, table 4)."""


def _nits(signal: np.ndarray) -> np.ndarray:
    root = signal ** (1 / M2)
    return 10_000 * (np.maximum(root - C1, 0) / (C2 - C3 * root)) ** (1 / M1)


def _signal(nits: np.ndarray | float) -> np.ndarray:
    power = (np.asarray(nits) / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def _compressed(light: np.ndarray) -> np.ndarray:
    """Light of up to PEAK_NITS in that of up to WHITE_NITS, in units of the latter; the darker half stays as it is.

    The curve of ITU-R BT.2390-11, section 5.4.1, with blacks left alone.
    """
    peak = float(_signal(PEAK_NITS))
    e1 = (_signal(light.astype(np.float64) * WHITE_NITS) / peak).clip(0, 1)
    most = float(_signal(WHITE_NITS)) / peak
    knee = 1.5 * most - 0.5
    t = ((e1 - knee) / (1 - knee)).clip(0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    e2 = np.where(e1 < knee, e1, spline)
    return (_nits(e2 * peak) / WHITE_NITS).astype(np.float32)
