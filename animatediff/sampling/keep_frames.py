"""Latent replacement: known frames are put back, with a step's noise, while others are made (arXiv 2306.00950)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.frames import neighbours
from animatediff.sampling.timesteps import noised

FALLOFF = 8
"""Frames over which a keyframe stops being kept in the frames around it."""
NEIGHBOUR = 0.6
"""Fraction of the steps for which the frame next to a keyframe is replaced; further ones less, in proportion."""


@dataclass(frozen=True, kw_only=True)
class KeepFrames:
    """Known latents, and for how many steps each frame is replaced by them, with as much noise as the others have."""

    known: Tensor
    """(b, c, f, h, w)."""
    noise: Tensor
    """(b, c, f, h, w), the initial noise of the clip."""
    fractions: Sequence[float]
    """Fraction of the steps, one a frame; with 1 the known frame itself comes out in the end."""

    def before_step(self, index: int, latents: Tensor, scheduler: Any, timesteps: Tensor) -> Tensor:
        """Replace frames in the latents that step `index` begins with; `index` after the last step is the end."""
        count = len(timesteps)
        replaced = torch.tensor([fraction >= 1 or round(fraction * count) > index for fraction in self.fractions])
        if not replaced.any():
            return latents
        known = self.known
        if index < count:
            known = noised(scheduler, known, self.noise, timesteps[index:])
        return torch.where(replaced.to(latents.device)[:, None, None], known, latents)


def keep_fractions(num_frames: int, keyframes: Sequence[int]) -> list[float]:
    """Fractions of the steps for which each frame is replaced: a keyframe always, its neighbours less and less.

    >>> keep_fractions(5, [0])[0], keep_fractions(32, [0])[20]
    (1.0, 0.0)
    """
    distances = [min(abs(frame - key) for key in keyframes) for frame in range(num_frames)]
    return [1.0 if d == 0 else max(0.0, NEIGHBOUR * (1 - (d - 1) / FALLOFF)) for d in distances]


def between(images: Tensor, keyframes: Sequence[int], num_frames: int) -> Tensor:
    """Interpolate the latents of keyframes over a clip: (b, c, n, h, w) -> (b, c, f, h, w).

    Linear between two keyframes, level before the first and behind the last.
    """
    before, after, fraction = zip(*neighbours(keyframes, num_frames), strict=True)
    weight = torch.tensor(fraction, dtype=torch.float32).to(images.device, images.dtype)[:, None, None]
    return torch.lerp(images[:, :, list(before)], images[:, :, list(after)], weight)
