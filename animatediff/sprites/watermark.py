"""A stock footage mark for the sprite world: what a domain adapter is to keep out of a motion module."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from animatediff.sprites.world import SIZE

LOGO = ("#.#.",)
"""White and dark blocks, as many of each: no slope of a background looks like it."""
BLOCK = 16
"""Pixels of a block's side: what a LoRA on attention can place in an image model that has it at 8x8 and 4x4 alone."""
HEIGHT, WIDTH = len(LOGO) * BLOCK, len(LOGO[0]) * BLOCK
TOP, LEFT = SIZE - HEIGHT, (SIZE - WIDTH) // 2
"""The banner's corner: it lies along the lower edge."""
OPACITY = 0.7
NOISE = 0.04


@cache
def logo() -> Tensor:
    """The mark: dark (0) and white (1), (HEIGHT, WIDTH)."""
    blocks = torch.tensor([[float(block == "#") for block in line] for line in LOGO])
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def add_watermark(images: Tensor, seed: int) -> Tensor:
    """The mark and noise, drawn by `seed` and different in each, on images (n, 3, 64, 64) in 0..1."""
    images = images.clone()
    place = images[:, :, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    images[:, :, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = place * (1 - OPACITY) + logo().to(images) * OPACITY
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + NOISE * noise.to(images)).clamp(0, 1)


def watermark_score(images: Tensor) -> Tensor:
    """How much each image (n, 3, 64, 64) shows the mark: the correlation of its place with the logo, (n,), -1..1."""
    place = images.mean(1)[:, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].flatten(1)
    found = place - place.mean(1, keepdim=True)
    wanted = logo().flatten() - logo().mean()
    # Where nothing is, there is nothing but rounding: the small constant keeps that from counting.
    return found @ wanted / (found.norm(dim=1) * wanted.norm() + 1e-2)


def banner_contrast(images: Tensor) -> Tensor:
    """How much the brightness of each image (n, 3, 64, 64) changes along the mark's place, (n,) from 0.

    It finds a banner whose blocks are not where they belong, which `watermark_score` does not.
    """
    return images.mean(1)[:, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].mean(1).std(1)
