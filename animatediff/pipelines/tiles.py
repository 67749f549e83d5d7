"""Through the VAE in tiles: pictures larger than it was trained on, at the memory of one tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from animatediff.motion.windows import plan_windows

SMALLEST_TILE = 64
"""Latents. The norms of a VAE take their mean over a tile: in small tiles each gets colours of its own."""


def in_tiles(vae: Any, run: Callable[[Tensor], Tensor], given: Tensor, *, grow: int = 1, shrink: int = 1) -> Tensor:
    """`run` over `given` (n, c, h, w): (n, c', h * grow / shrink, w * grow / shrink), in tiles if tiling is on.

    run: encoder (`shrink` pixels a latent) or decoder (`grow` pixels a latent) of the VAE. Tiles overlap by the share
    that the VAE says, and blend. All have the full size, the last of a row shifted back; diffusers leaves a narrow rest
    there, whose norms see so little that its colours are off.
    """
    if not getattr(vae, "use_tiling", False):
        return run(given)
    vae.disable_tiling()  # else it cuts our tiles into its own
    try:
        return _in_tiles(vae, run, given, grow, shrink)
    finally:
        vae.enable_tiling()


def _in_tiles(vae: Any, run: Callable[[Tensor], Tensor], given: Tensor, grow: int, shrink: int) -> Tensor:
    latents = max(SMALLEST_TILE, vae.tile_latent_min_size)
    length, overlap = latents * grow, int(latents * vae.tile_overlap_factor) * grow
    height, width = (side // shrink * grow for side in given.shape[-2:])
    rows, columns = (plan_windows(side, length, overlap, blend="overlap-linear") for side in (height, width))
    if len(rows) == len(columns) == 1:
        return run(given)
    result: Tensor | None = None
    for row in rows:
        for column in columns:
            (top, bottom), (left, right) = ((part.frames[0], part.frames[-1] + 1) for part in (row, column))
            part = given[
                ..., top // grow * shrink : bottom // grow * shrink, left // grow * shrink : right // grow * shrink
            ]
            tile = run(part.contiguous()).float()
            if result is None:
                result = tile.new_zeros(*tile.shape[:2], height, width)
            result[..., top:bottom, left:right] += tile * (row.share[:, None] * column.share).to(tile.device)
    assert result is not None
    return result
