"""From images to the latents that a VAE makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def for_vae(images: Tensor) -> Tensor:
    """Images or latents (n, c, h, w) in the layout in which a VAE is fastest, which its feature maps take from them.

    On a CPU that is channels_last (`python benchmarks/layers.py layout`). The weights stay as they are: other pipelines
    use them too, and have the same images before and after.
    """
    return images.to(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def latent_means(vae: Any, images: Tensor) -> Tensor:
    """Means of the VAE's latents (n, c, h, w), not yet scaled, of images (n, 3, H, W) in -1..1 of its precision."""
    found = vae.encode(for_vae(images), return_dict=False)[0]
    return found if isinstance(found, Tensor) else found.mode()  # a tiny autoencoder has no distribution


def latent_posterior(vae: Any, images: Tensor) -> Tensor:
    """Means and, behind them, standard deviations of the VAE's latents (n, 2*c, h, w), as `latent_means`."""
    found = vae.encode(for_vae(images), return_dict=False)[0]
    if isinstance(found, Tensor):  # of a tiny autoencoder, which has no distribution
        return torch.cat([found, torch.zeros_like(found)], dim=1)
    return torch.cat([found.mean, found.std], dim=1)


def encode_images(
    vae: Any,
    images: Tensor,
    *,
    device: torch.device | str,
    chunk_size: int,
    unit_range: bool = False,
    encode: Callable[[Any, Tensor], Tensor] = latent_means,
    after_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Scaled latents (n, c, h, w), float32, on `device`, of images (n, 3, H, W), `chunk_size` at a time.

    Images are in -1..1, with `unit_range` in 0..1.

    They are means, not draws: the spread of Stable Diffusion's VAE is tiny, and the same image has the same latents
    every time. `encode` stands in for `latent_means` where images are encoded in tiles; `after_chunk(done, of how
    many)` follows each chunk.
    """
    means: list[Tensor] = []
    done = 0
    for chunk in images.split(chunk_size):
        chunk = chunk * 2 - 1 if unit_range else chunk
        # how an image lies in memory must not decide the last bits of its latents
        means.append(encode(vae, chunk.to(device, vae.dtype).contiguous()).float())
        done += len(chunk)
        if after_chunk is not None:
            after_chunk(done, len(images))
    return scaled(vae, torch.cat(means))


def latent_statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation (1, c, 1, 1) of a VAE's latents, if its configuration states both."""
    mean, std = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return None
    return torch.tensor(mean).view(1, -1, 1, 1).to(like), torch.tensor(std).view(1, -1, 1, 1).to(like)


def scaled(vae: Any, latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) of a VAE's encoder as the UNet takes them, by statistics and scaling factor of the VAE."""
    statistics = latent_statistics(vae, latents)
    if statistics is None:
        return latents * vae.config["scaling_factor"]
    mean, std = statistics
    return (latents - mean) * vae.config["scaling_factor"] / std


def unscaled(vae: Any, latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) of the UNet as a VAE's decoder takes them."""
    statistics = latent_statistics(vae, latents)
    if statistics is None:
        return latents / vae.config["scaling_factor"]
    mean, std = statistics
    return latents * std / vae.config["scaling_factor"] + mean
