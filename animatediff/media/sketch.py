"""Sketches from images: white lines on black, as scribble encoders were trained on. NumPy alone, so always there."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Method = Literal["none", "scribble", "canny"]
METHODS: tuple[Method, ...] = ("none", "scribble", "canny")

FINE_SIGMA = 1.0
"""Pixels of blur before edges are looked for: `canny`."""
COARSE_SIGMA = 2.0
"""The same for `scribble`, in an image of 512 pixels, so that only what a pen would draw is left."""
REFERENCE_SIZE = 512
WEAK, STRONG = 0.1, 0.25
"""Fractions of the steepest edge: a pixel above STRONG is a line, one above WEAK where it goes on from a line."""
FLAT = 0.02
"""Steps in brightness per pixel below which nothing is an edge, in 0..1."""


def sketch(image: Image.Image, method: Method) -> Image.Image:
    """White lines on black: `scribble` draws bold outlines, `canny` thin edges, `none` leaves the image as it is.

    A drawing of dark lines on white is not traced, which would double its lines, but inverted.
    """
    if method == "none":
        return image
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    if is_drawing(image):
        return _as_image(1 - pixels.min(axis=-1))
    if method == "canny":
        return _as_image(edges(pixels, FINE_SIGMA).astype(np.float32))
    size = min(pixels.shape[:2]) / REFERENCE_SIZE
    lines = edges(pixels, max(FINE_SIGMA, COARSE_SIGMA * size)).astype(np.float32)
    pen = max(0.5, 1.5 * size)  # half the width of a stroke, in pixels
    return _as_image(np.clip(blur(lines, pen) / blur_peak(pen) * 2, 0, 1))


def is_drawing(image: Image.Image) -> bool:
    """Whether this is dark lines on white paper: most of it nearly white, hardly anything in colour."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    paper = pixels.min(axis=-1) > 0.9
    colourful = np.ptp(pixels, axis=-1) > 0.2
    return bool(paper.mean() > 0.6 and colourful.mean() < 0.05 and not paper.all())


def edges(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Canny's edge detector (IEEE PAMI 1986): thin lines, bool (h, w), in an image (h, w, c) in 0..1.

    Of the channels the steepest counts, so that colours of one brightness have an edge between them.
    """
    smooth = blur(pixels, sigma)
    dy, dx = np.gradient(smooth, axis=(0, 1))
    steepest = np.hypot(dx, dy).argmax(axis=-1)[..., None]
    dx, dy = (np.take_along_axis(d, steepest, axis=-1)[..., 0] for d in (dx, dy))
    slope = np.hypot(dx, dy)
    top = float(slope.max())
    if top < FLAT:
        return np.zeros(slope.shape, dtype=bool)
    ridge = slope * _is_ridge(slope, dx, dy)
    # An edge of one step, blurred, is at most 0.4 / sigma steep; measured against it, a faint image stays empty.
    weak, strong = ridge > max(WEAK * top, FLAT / 2), ridge > max(STRONG * top, FLAT)
    return _connected(strong, weak)


def _is_ridge(slope: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Mark pixels whose slope is not less than at both neighbours along the gradient."""
    h, w = slope.shape
    around = np.pad(slope, 1)
    # one of four directions: 0 across, 1 down right, 2 down, 3 down left
    direction = np.round(np.arctan2(dy, dx) / (np.pi / 4)).astype(int) % 4
    keep = np.zeros((h, w), dtype=bool)
    for number, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[1 + y : 1 + y + h, 1 + x : 1 + x + w]
        behind = around[1 - y : 1 - y + h, 1 - x : 1 - x + w]
        # strictly more on one side only, or a plateau of two pixels would lose both
        keep |= (direction == number) & (slope >= ahead) & (slope > behind)
    return keep


def _connected(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """The weak pixels that a path of weak pixels joins to a strong one, and the strong ones."""
    found = strong
    while True:
        around = np.pad(found, 1)
        h, w = found.shape
        grown = np.logical_or.reduce([around[y : y + h, x : x + w] for y in range(3) for x in range(3)])
        grown = (grown & weak) | strong
        if grown.sum() == found.sum():
            return found
        found = grown


def _kernel(sigma: float) -> np.ndarray:
    radius = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (h, w) or (h, w, c), the border continued outwards."""
    kernel = _kernel(sigma)
    radius = len(kernel) // 2
    for axis in (0, 1):
        around = np.pad(pixels, [(radius, radius) if a == axis else (0, 0) for a in range(pixels.ndim)], mode="edge")
        length = pixels.shape[axis]
        pixels = sum(
            (share * np.take(around, range(i, i + length), axis) for i, share in enumerate(kernel)),
            start=np.zeros_like(pixels),
        )
    return pixels


def blur_peak(sigma: float) -> float:
    """Brightness of a line of one pixel after `blur`."""
    return float(_kernel(sigma).max())


def _as_image(grey: np.ndarray) -> Image.Image:
    return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")
