"""Frames of driving videos: what ready-made conditions of ControlNets look like, and scenes that are none."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

from animatediff.media.sketch import sketch

JOINTS = {
    "nose": (0.0, -0.42), "neck": (0.0, -0.28), "rs": (-0.12, -0.28), "re": (-0.18, -0.1), "rw": (-0.16, 0.06),
    "ls": (0.12, -0.28), "le": (0.18, -0.1), "lw": (0.16, 0.06), "rh": (-0.07, 0.06), "rk": (-0.08, 0.25),
    "ra": (-0.08, 0.44), "lh": (0.07, 0.06), "lk": (0.08, 0.25), "la": (0.08, 0.44),
}  # fmt: skip
LIMBS = (
    ("neck", "rs"), ("neck", "ls"), ("rs", "re"), ("re", "rw"), ("ls", "le"), ("le", "lw"), ("neck", "rh"),
    ("rh", "rk"), ("rk", "ra"), ("neck", "lh"), ("lh", "lk"), ("lk", "la"), ("neck", "nose"),
)  # fmt: skip


def poses(num: int, size: int = 128) -> np.ndarray:
    """A skeleton that sways: limbs in colours of the whole circle, dimmed, bright joints, on black."""
    frames = []
    for number in range(num):
        image = Image.new("RGB", (size, size))
        draw = ImageDraw.Draw(image)
        sway = 0.1 * math.sin(number)
        at = {name: ((0.5 + x + sway * y) * size, (0.5 + y) * size) for name, (x, y) in JOINTS.items()}
        for index, (a, b) in enumerate(LIMBS):
            colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(index / 18, 1, 0.6))
            draw.line([at[a], at[b]], fill=colour, width=max(2, size // 64))
        for index, (x, y) in enumerate(at.values()):
            colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(index / 18, 1, 1))
            radius = size / 100
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        frames.append(np.asarray(image))
    return np.stack(frames)


def scenes(num: int, size: int = 128, *, grey: bool = False, texture: float = 18.0) -> np.ndarray:
    """A disc that moves over a textured ground, in colour, or like an old film."""
    ground = np.random.default_rng(0).normal(0, texture, (size, size, 1))
    slope = np.linspace(60, 150, size)[:, None, None] * np.array([0.7, 0.9, 1.1])
    frames = []
    for number in range(num):
        image = Image.fromarray((ground + slope).clip(0, 255).astype(np.uint8))
        x = size * (0.25 + 0.5 * number / max(1, num - 1))
        r = size // 6
        ImageDraw.Draw(image).ellipse([x - r, size / 2 - r, x + r, size / 2 + r], fill=(200, 60, 40))
        frames.append(np.asarray(image.convert("L").convert("RGB") if grey else image))
    return np.stack(frames)


def lines(num: int, size: int = 128) -> np.ndarray:
    """Outlines of the scenes, white on black."""
    return np.stack([np.asarray(sketch(Image.fromarray(frame), "scribble")) for frame in scenes(num, size, texture=0)])


def drawings(num: int, size: int = 128) -> np.ndarray:
    """The same, dark on white."""
    return 255 - lines(num, size)


def depths(num: int, size: int = 128) -> np.ndarray:
    """A near ball before a floor that goes away."""
    y, x = np.mgrid[0:size, 0:size] / size
    frames = []
    for number in range(num):
        far = 40 + 120 * y
        bulge = 1 - ((x - 0.3 - 0.4 * number / max(1, num - 1)) ** 2 + (y - 0.5) ** 2) / 0.04
        frames.append(np.where(bulge > 0, 170 + 70 * np.sqrt(bulge.clip(0)), far))
    return np.repeat(np.stack(frames)[..., None], 3, -1).astype(np.uint8)


def normals(num: int, size: int = 128) -> np.ndarray:
    """Normals of that ball before a wall."""
    y, x = np.mgrid[0:size, 0:size] / size
    frames = []
    for number in range(num):
        dx, dy = (x - 0.3 - 0.4 * number / max(1, num - 1)) / 0.25, (y - 0.5) / 0.25
        inside = dx**2 + dy**2 < 1
        z = np.sqrt((1 - dx**2 - dy**2).clip(0))
        vectors = np.stack([np.where(inside, dx, 0), np.where(inside, -dy, 0), np.where(inside, z, 1)], -1)
        frames.append(((vectors + 1) * 127.5).round())
    return np.stack(frames).astype(np.uint8)
