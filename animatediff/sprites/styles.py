"""Other styles of the sprite world, for personalised models: transforms of rendered images that keep their content."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.sprites.world import SIZE

Style = Callable[[Tensor], Tensor]
"""Takes images (n, 3, 64, 64) in 0..1 and returns as many, each changed by itself and without randomness."""


def _blur(images: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma) ** 2)
    line = (line / line.sum()).to(images.dtype)
    channels = images.shape[1]
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, line.expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(across, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _edges(images: Tensor) -> Tensor:
    """How fast the image changes, strongest channel: (n, 1, h, w)."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return (across**2 + down**2).sqrt().amax(1, keepdim=True)


def _saturated(images: Tensor, amount: float) -> Tensor:
    grey = images.mean(1, keepdim=True)
    return (grey + (images - grey) * amount).clamp(0, 1)


def neon(images: Tensor) -> Tensor:
    """Night: everything dark, outlines glow in the colours that they enclose."""
    lines = (_edges(images) * 1.6).clamp(0, 1)
    smooth = _blur(images, 1.0)
    colour = _saturated(smooth, 2.0)
    colour = colour / colour.amax(1, keepdim=True).clamp(min=0.35)
    glow = _blur(lines * colour, 1.6)
    night = _saturated(images, 1.3) ** 1.5 * 0.3
    return (night + 0.85 * lines * colour + 0.7 * glow).clamp(0, 1)


@cache
def _grain() -> Tensor:
    """Fibres of a sheet of paper, (1, 1, 64, 64) around 0; always the same sheet."""
    noise = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    grain = _blur(noise, 0.8) - _blur(noise, 3.0)
    return grain / grain.std()


def paper(images: Tensor) -> Tensor:
    """Pastel on paper: pale warm colours in few steps, soft brown outlines, grain."""
    smooth = _blur(images, 0.6)
    steps = 6.0
    flat = (smooth * steps).round() / steps
    pale = 0.36 + 0.64 * _saturated(flat * 0.5 + smooth * 0.5, 0.85)
    pale = pale * torch.tensor([1.0, 0.97, 0.9], device=images.device).view(1, 3, 1, 1)
    ink = (_blur(_edges(smooth), 0.5) * 1.2).clamp(0, 0.85)
    brown = torch.tensor([0.36, 0.24, 0.18], device=images.device).view(1, 3, 1, 1)
    drawn = pale * (1 - ink) + brown * ink
    return (drawn + 0.015 * _grain().to(images.device)).clamp(0, 1)


STYLES: dict[str, Style] = {"neon": neon, "paper": paper}
"""By the names that `data.look` of a training configuration takes."""
