"""The VAE: latents to frames, a few at a time, images to latents, and large images in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from animatediff.motion.windows import plan_windows
from animatediff.sampling.latents import encode_images as encode_chunks
from animatediff.sampling.latents import for_vae, latent_means, latent_posterior, scaled, unscaled

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@contextmanager
def wide_enough(vae: Any) -> Iterator[None]:
    """Run the VAE in float32 where its configuration says that it overflows in float16, as SDXL's own does."""
    upcast = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(torch.float16)


def decode_images(vae: Any, latents: Tensor) -> Tensor:
    """Images (n, 3, H, W) in 0..1 of scaled latents (n, c, h, w), in the VAE's precision; tiled if that is on.

    A CPU decodes one at a time, whatever n: more of a frame's feature maps stay in its cache.
    """

    def run(latents: Tensor) -> Tensor:
        return vae.decode(for_vae(latents), return_dict=False)[0]

    if latents.device.type == "cpu" and len(latents) > 1:
        return torch.cat([decode_images(vae, one) for one in latents.split(1)])
    latents = unscaled(vae, latents.to(vae.dtype))
    return (in_tiles(vae, run, latents, grow=pixels_per_latent(vae)) / 2 + 0.5).clamp(0, 1)


def encode_images(
    vae: Any, images: Tensor, device: torch.device, after_image: Callable[[int, int], None] | None = None
) -> Tensor:
    """Scaled latents (n, c, h, w), float32, of images (n, 3, H, W) in 0..1; `after_image(done, of how many)`.

    One image at a time, tiled if that is on.
    """

    def encode(vae: Any, image: Tensor) -> Tensor:
        return in_tiles(vae, partial(latent_means, vae), image, shrink=pixels_per_latent(vae))

    with wide_enough(vae):
        return encode_chunks(
            vae, images, device=device, chunk_size=1, unit_range=True, encode=encode, after_chunk=after_image
        )


def drawn_latents(vae: Any, image: Tensor, device: torch.device, generators: Sequence[torch.Generator]) -> Tensor:
    """Scaled latents (1 or b, c, h, w), float32, of an image (1, 3, H, W) in 0..1, drawn from the VAE's posterior.

    One draw for each of b generators, in order; clips of one generator have one draw together.
    """

    def run(image: Tensor) -> Tensor:
        return latent_posterior(vae, image)

    with wide_enough(vae):
        pixels = (image * 2 - 1).to(device, vae.dtype).contiguous()
        found = in_tiles(vae, run, pixels, shrink=pixels_per_latent(vae))
    mean, spread = found.float().chunk(2, dim=1)
    same = all(generator is generators[0] for generator in generators)
    draws = [torch.randn(mean.shape, generator=g, device=g.device).to(mean) for g in generators[: 1 if same else None]]
    return scaled(vae, torch.cat([mean + spread * noise for noise in draws]))


def pixels_per_latent(vae: Any) -> int:
    """Pixels per latent along each side: 8 for Stable Diffusion."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def to_bytes(images: Tensor) -> Tensor:
    """Images (n, c, h, w) in 0..1 as uint8 (n, h, w, c) on the CPU, rounded."""
    return rearrange((images.float() * 255).round().to(torch.uint8), "n c h w -> n h w c").cpu()


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
