"""A small image of latents while they are denoised, by a linear map: no decoder, far less than a step's time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["bundled", "sd1", "sdxl"]

MAX_SIDE = 256
"""Pixels; larger latents are averaged down."""

MAPS: dict[Kind, tuple[tuple[tuple[float, float, float], ...], tuple[float, float, float]]] = {
    "bundled": (
        (
            (0.6005, 0.3105, -0.1256),
            (-0.1907, -0.1296, -0.0634),
            (-0.6635, -0.2470, 0.3201),
            (0.7259, 0.3365, -0.2385),
        ),
        (0.5922, 0.5168, 0.5093),
    ),
    "sd1": (
        (
            (0.149, 0.1035, 0.104),
            (0.0935, 0.143, 0.0865),
            (-0.079, 0.0945, 0.132),
            (-0.092, -0.1355, -0.2365),
        ),
        (0.5, 0.5, 0.5),
    ),
    "sdxl": (
        (
            (60 / 255, 60 / 255, 60 / 255),
            (-60 / 255, -5 / 255, 10 / 255),
            (25 / 255, 15 / 255, -5 / 255),
            (-70 / 255, -50 / 255, -35 / 255),
        ),
        (150 / 255, 140 / 255, 130 / 255),
    ),
}
"""(a row of RGB for each latent channel, RGB added): from scaled latents to 0..1.

Of the bundled model: fitted to its own VAE by `python -m recipes.bundled.preview`. Of SD 1.x: the factors that keturn
published (discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204), brought from -1..1 to 0..1. Of
SDXL: the weights on diffusers' page on pipeline callbacks, brought from 0..255.
"""

_SCALES: dict[float, Kind] = {0.18215: "sd1", 0.13025: "sdxl"}
"""Scaling factors of the published VAEs, with 8 pixels a latent."""


def preview_kind(vae: Any) -> Kind | None:
    """The map that suits a VAE, known by its configuration; None for others."""
    config = vae.config
    if config["latent_channels"] != 4 or config.get("latents_mean") is not None:
        return None
    levels = len(config["block_out_channels"])
    if levels == 4:
        return _SCALES.get(round(config["scaling_factor"], 5))
    return "bundled" if levels == 3 and config["scaling_factor"] == 1.0 else None


def preview_image(latents: Tensor, kind: Kind) -> np.ndarray:
    """An image, uint8 (h, w, 3), of scaled latents (c, h, w), or of the middle frame of (c, f, h, w).

    One pixel a latent, at most `MAX_SIDE` along each side.
    """
    factors, added = (torch.tensor(values) for values in MAPS[kind])
    small = middle_frame(latents, MAX_SIDE).cpu()
    image = torch.einsum("chw,cr->hwr", small, factors) + added
    return (image.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def middle_frame(latents: Tensor, longest: int) -> Tensor:
    """The middle frame of latents (c, f, h, w), or latents (c, h, w), float32, averaged to `longest` a side at most."""
    if latents.ndim == 4:
        latents = latents[:, latents.shape[1] // 2]
    small = latents.detach().float()
    if (shrink := -(-max(small.shape[-2:]) // longest)) > 1:
        small = torch.nn.functional.avg_pool2d(small, shrink, ceil_mode=True)
    return small


def fit_map(latents: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map of least squares from latents (n, c, h, w) to images (n, 3, h, w): factors (c, 3), added (3,)."""
    flat = latents.double().movedim(1, -1).flatten(0, -2)
    with_one = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
    solved = torch.linalg.lstsq(with_one, images.double().movedim(1, -1).flatten(0, -2)).solution
    return solved[:-1].float(), solved[-1].float()
