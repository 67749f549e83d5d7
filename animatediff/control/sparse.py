"""SparseCtrl as the denoising loop sees it: something that has residuals to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from animatediff.control.sparsectrl import SparseCtrl
from animatediff.errors import UserError
from animatediff.sampling.controls import Residuals, UNetInputs

TITLES = {"rgb": "pictures (RGB encoder)", "scribble": "sketches (scribble encoder)"}


@dataclass(frozen=True)
class SparseControl:
    """An encoder with the conditions of one call."""

    encoder: SparseCtrl
    seen: Tensor
    """(1 or b, d, f, h, w): the conditions of all frames as the encoder embeds them."""
    keyframes: frozenset[int]
    """Frames that have a picture."""
    scale: float
    active: frozenset[float]
    """Timesteps at which it steers."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Residuals for these frames; None at other timesteps, and for windows of a long clip without a picture."""
        if self.scale == 0 or float(inputs.timestep) not in self.active or self.keyframes.isdisjoint(inputs.frames):
            return None
        frames = torch.as_tensor(list(inputs.frames), device=self.seen.device)
        seen = self.seen.index_select(2, frames)
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


def embed(encoder: SparseCtrl, pictures: Tensor, frames: Sequence[int], num_frames: int) -> Tensor:
    """What the encoder sees of pictures (b, c, n, k*h, k*w) that stand at `frames`: (b, d, f, h, w)."""
    b, c, _, h, w = pictures.shape
    condition = pictures.new_zeros(b, c, num_frames, h, w)
    mask = pictures.new_zeros(b, 1, num_frames, h, w)
    condition[:, :, list(frames)] = pictures
    mask[:, :, list(frames)] = 1
    flat = (rearrange(part, "b c f h w -> (b f) c h w") for part in (condition, mask))
    seen = encoder.embed(*(part.to(encoder.device, encoder.dtype) for part in flat))
    return rearrange(seen, "(b f) d h w -> b d f h w", b=b)
