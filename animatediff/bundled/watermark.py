"""A stock footage mark for the sprite world: what a domain adapter is to keep out of a motion module."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.bundled.world import SIZE

LOGO = (
    "....####..................",
    "...######.................",
    "..########....###...###...",
    "..########....###...###...",
    "..########....###...###...",
    "..########....###...###...",
    "...######.....###...###...",
    "....####......###...###...",
)
"""White on a dark box. Strokes are no thinner than the bundled autoencoder's latents can hold (4 pixels apart)."""
BORDER = 3
MARGIN = 2
HEIGHT, WIDTH = len(LOGO) + 2 * BORDER, len(LOGO[0])
TOP, LEFT = SIZE - MARGIN - HEIGHT, SIZE - MARGIN - WIDTH
"""The mark's corner, at the lower right."""
OPACITY = 0.7
NOISE = 0.04


@cache
def logo() -> Tensor:
    """The mark: a dark box (0) with white shapes (1), (HEIGHT, WIDTH)."""
    shapes = torch.tensor([[float(pixel == "#") for pixel in line] for line in LOGO])
    return functional.pad(shapes, (0, 0, BORDER, BORDER))


def add_watermark(pictures: Tensor, seed: int) -> Tensor:
    """The mark and noise, drawn by `seed` and different in each, on pictures (n, 3, 64, 64) in 0..1."""
    pictures = pictures.clone()
    place = pictures[:, :, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    pictures[:, :, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = place * (1 - OPACITY) + logo() * OPACITY
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))
    return (pictures + NOISE * noise).clamp(0, 1)


def watermark_score(pictures: Tensor) -> Tensor:
    """How much each picture (n, 3, 64, 64) shows the mark: the correlation of its corner with the logo, (n,) in -1..1.

    The corner is compared after its slow changes are taken away, so that a plain background gives about 0.
    """
    grey = pictures.mean(1, keepdim=True)
    padded = functional.pad(grey, (4, 4, 4, 4), mode="replicate")
    detail = (grey - functional.avg_pool2d(padded, 9, stride=1))[:, 0, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    found = detail.flatten(1) - detail.flatten(1).mean(1, keepdim=True)
    wanted = logo().flatten() - logo().mean()
    # A flat corner has no detail but rounding: the small constant keeps that from counting.
    return found @ wanted / (found.norm(dim=1) * wanted.norm() + 1e-2)
