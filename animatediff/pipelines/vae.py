"""Through the VAE: from latents to frames, a few at a time, and from pictures to latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from animatediff.pipelines.tiles import in_tiles

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


def decode(
    vae: Any,
    latents: Tensor,
    *,
    chunk_size: int,
    output_type: str,
    after_chunk: Callable[[int, int], None],
) -> Any:
    """Frames of latents (b, c, f, h, w) as `output_type`; `after_chunk(frames done, of how many)` follows each chunk.

    Each chunk leaves the device as soon as it is decoded, as bytes for `"pil"`.
    """
    num_clips = latents.shape[0]
    flat = rearrange(latents, "b c f h w -> (b f) c h w")
    pictures: list[Tensor] = []
    with wide_enough(vae):
        for chunk in flat.split(chunk_size):
            picture = decode_pictures(vae, chunk)
            pictures.append(to_bytes(picture) if output_type == "pil" else picture.float().cpu())
            after_chunk(sum(map(len, pictures)), len(flat))
    if output_type == "pil":
        from PIL import Image

        frames = [Image.fromarray(frame) for frame in torch.cat(pictures).numpy()]
        per_clip = len(frames) // num_clips
        return [frames[i : i + per_clip] for i in range(0, len(frames), per_clip)]
    clips = rearrange(torch.cat(pictures), "(b f) c h w -> b f c h w", b=num_clips)
    if output_type == "pt":
        return clips
    return np.ascontiguousarray(rearrange(clips, "b f c h w -> b f h w c").numpy())


def decode_pictures(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in 0..1 of scaled latents (n, c, h, w), in the VAE's precision; tiled if that is on."""

    def run(latents: Tensor) -> Tensor:
        return vae.decode(latents, return_dict=False)[0]

    latents = latents.to(vae.dtype) / vae.config["scaling_factor"]
    return (in_tiles(vae, run, latents, grow=pixels_per_latent(vae)) / 2 + 0.5).clamp(0, 1)


def encode_pictures(
    vae: Any, pictures: Tensor, device: torch.device, after_picture: Callable[[int, int], None] | None = None
) -> Tensor:
    """Scaled latents (n, c, h, w), float32, of pictures (n, 3, H, W) in 0..1; `after_picture(done, of how many)`.

    The mean of what the VAE would draw from, so that a picture has the same latents every time; the original draws.
    """

    def run(ahead: Tensor) -> Tensor:
        return vae.encode(ahead, return_dict=False)[0].mode()

    latents: list[Tensor] = []
    with wide_enough(vae):
        for picture in pictures.split(1):
            # how a picture lies in memory must not decide the last bits of its latents
            ahead = (picture * 2 - 1).to(device, vae.dtype).contiguous()
            mean = in_tiles(vae, run, ahead, shrink=pixels_per_latent(vae))
            latents.append(mean.float() * vae.config["scaling_factor"])
            if after_picture is not None:
                after_picture(len(latents), len(pictures))
    return torch.cat(latents)


def pixels_per_latent(vae: Any) -> int:
    """How many, each way: 8 for Stable Diffusion."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures (n, c, h, w) in 0..1 as uint8 (n, h, w, c) on the CPU, rounded."""
    return rearrange((pictures.float() * 255).round().to(torch.uint8), "n c h w -> n h w c").cpu()
