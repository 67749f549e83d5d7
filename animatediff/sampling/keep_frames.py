"""Frames that are known while their neighbours are made: held until a step of their own (after arXiv 2306.00950)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.frames import neighbours
from animatediff.sampling.timesteps import noised

FALLOFF = 8
"""Frames over which a picture loses its hold on the frames around it."""
NEIGHBOUR = 0.6
"""Share of the steps for which the frame next to a picture would be held; further ones less, in proportion."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Known latents, and how long each frame is held to them, with as much noise as the others have."""

    known: Tensor
    """(b, c, f, h, w)."""
    noise: Tensor
    """(b, c, f, h, w), the noise that the clip began with."""
    shares: Sequence[float]
    """Of the steps, one a frame; what is held for all of them is the known frame itself in the end."""

    def before_step(self, index: int, latents: Tensor, scheduler: Any, timesteps: Tensor) -> Tensor:
        """The latents that step `index` begins with; `index` after the last step is the end."""
        count = len(timesteps)
        held = torch.tensor([share >= 1 or round(share * count) > index for share in self.shares])
        if not held.any():
            return latents
        known = self.known
        if index < count:
            known = noised(scheduler, known, self.noise, timesteps[index:])
        return torch.where(held.to(latents.device)[:, None, None], known, latents)


def hold_shares(num_frames: int, keyframes: Sequence[int]) -> list[float]:
    """How long each frame of a clip is held: a keyframe always, its neighbours less and less.

    >>> hold_shares(5, [0])[0], hold_shares(32, [0])[20]
    (1.0, 0.0)
    """
    distances = [min(abs(frame - key) for key in keyframes) for frame in range(num_frames)]
    return [1.0 if d == 0 else max(0.0, NEIGHBOUR * (1 - (d - 1) / FALLOFF)) for d in distances]


def between(images: Tensor, keyframes: Sequence[int], num_frames: int) -> Tensor:
    """A guess at all frames of a clip from the latents of some: (b, c, n, h, w) -> (b, c, f, h, w).

    Between two keyframes they are mixed; before the first and after the last, that one stands.
    """
    before, after, fraction = zip(*neighbours(keyframes, num_frames), strict=True)
    weight = torch.tensor(fraction, dtype=torch.float32).to(images.device, images.dtype)[:, None, None]
    return torch.lerp(images[:, :, list(before)], images[:, :, list(after)], weight)
