"""SparseCtrl as the denoising loop sees it: something that has residuals to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from animatediff.errors import UserError
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.sampling.controls import Residuals, UNetInputs

TITLES = {"rgb": "pictures (RGB encoder)", "scribble": "sketches (scribble encoder)"}


@dataclass(frozen=True)
class SparseControl:
    """An encoder with the conditions of one call."""

    encoder: SparseCtrl
    seen: Tensor
    """(1 or b, d, n+1, h, w): the n pictures as the encoder embeds them, and behind them a frame without a picture.

    All frames without one look alike, so that a long clip takes no more memory than a short one.
    """
    keyframes: Sequence[int]
    """Frames of the n pictures."""
    scale: float
    active: frozenset[float]
    """Timesteps at which it steers."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Residuals for these frames; None at other timesteps, and for windows of a long clip without a picture."""
        if self.scale == 0 or float(inputs.timestep) not in self.active:
            return None
        none = len(self.keyframes)
        places = {frame: place for place, frame in enumerate(self.keyframes)}
        found = [places.get(frame, none) for frame in inputs.frames]
        if min(found) == none:
            return None
        seen = self.seen.index_select(2, torch.tensor(found, device=self.seen.device))
        seen = seen.repeat(inputs.num_clips // seen.shape[0], 1, 1, 1, 1)
        return self.encoder.steer(
            rearrange(seen, "b d f h w -> (b f) d h w"),
            inputs.timestep,
            inputs.embeddings,
            len(inputs.frames),
            conditions=inputs.conditions,
        ).scaled(self.scale)


def check_pictures(encoder: SparseCtrl, pictures: Tensor, latent_size: tuple[int, int], num_clips: int) -> None:
    """Raise UserError for pictures (b, c, n, h, w) that the encoder cannot take.

    Those of an RGB encoder are latents by now. `latent_size`: (h, w) of the clip's latents.
    """
    channels, wanted = pictures.shape[1], encoder.sparse_config.condition_channels
    size = tuple(encoder.sparse_config.factor * side for side in latent_size)
    if channels != wanted:
        raise UserError(
            f"this SparseCtrl encoder takes {TITLES[encoder.kind]} of {wanted} channels, got a tensor of {channels} "
            f"({tuple(pictures.shape)} as (b, c, n, h, w)); load the encoder that belongs to these pictures"
        )
    if tuple(pictures.shape[-2:]) != size:
        raise UserError(f"conditions must be {size[0]} x {size[1]} for this clip, got {tuple(pictures.shape[-2:])}")
    if pictures.shape[0] not in (1, num_clips):
        raise UserError(f"{num_clips} clips want pictures for 1 or {num_clips} of them, got {pictures.shape[0]}")


def embed(encoder: SparseCtrl, pictures: Tensor) -> Tensor:
    """What the encoder sees of pictures (b, c, n, k*h, k*w), and of a frame without one: (b, d, n+1, h, w)."""
    nothing = torch.zeros_like(pictures[:, :, :1])
    condition = torch.cat([pictures, nothing], dim=2)
    mask = torch.ones_like(condition[:, :1])
    mask[:, :, -1] = 0
    flat = (rearrange(part, "b c n h w -> (b n) c h w") for part in (condition, mask))
    seen = encoder.embed(*(part.to(encoder.device, encoder.dtype) for part in flat))
    return rearrange(seen, "(b n) d h w -> b d n h w", b=len(pictures))
