"""The noise that a clip starts from, drawn on the CPU from the clip's own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from animatediff.sampling.loop import clip_noise

NOISES = ("default", "freenoise")
"""Independent noise for every frame, or FreeNoise."""


def draw_noise(
    shape: tuple[int, ...], generators: Sequence[torch.Generator], *, kind: str = "default", window: int, overlap: int
) -> Tensor:
    """Noise of `shape` (b, c, f, h, w), float32; windows matter for FreeNoise only."""
    noise = clip_noise(shape, generators)
    return free_noise(noise, generators, window, overlap) if kind == "freenoise" else noise


def free_noise(noise: Tensor, generators: Sequence[torch.Generator], window: int, overlap: int) -> Tensor:
    """FreeNoise (arXiv 2310.15169), section 3.2: later frames have the noise of earlier ones in another order.

    The first `window` frames keep their own. Behind them, piece by piece of as many frames as a window moves on
    (`window - overlap`), comes the noise of the piece one window earlier, shuffled. So every window of the clip holds
    nearly the same noise, and distant windows come out alike. noise: (b, c, f, h, w), which is not changed.
    """
    noise = noise.clone()
    num_frames, piece = noise.shape[2], window - overlap
    for clip, generator in zip(noise, generators, strict=True):
        for start in range(window, num_frames, piece):
            # the last piece may be cut short, but is drawn whole: a longer clip begins as a shorter one
            order = torch.randperm(piece, generator=generator, device=generator.device).cpu()
            order = order[: num_frames - start]
            clip[:, start : start + piece] = clip[:, start - window + order]
    return noise
