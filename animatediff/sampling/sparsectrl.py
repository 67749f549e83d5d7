"""SparseCtrl as a control of the denoising loop: its residuals, from images at some frames."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from animatediff.errors import UserError
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.sampling.controls import Residuals, UNetInputs, for_positive

TITLES = {"rgb": "images (RGB encoder)", "scribble": "sketches (scribble encoder)"}


@dataclass(frozen=True)
class SparseControl:
    """An encoder with the conditions of one call."""

    encoder: SparseCtrl
    embedded: Tensor
    """(1 or b, d, n+1, h, w): the n images as the encoder embeds them, and behind them a frame without an image.

    All frames without one are equal, so that a long clip takes no more memory than a short one.
    """
    keyframes: Sequence[int]
    """Frames of the n images."""
    scale: float
    active: Container[float]
    """Timesteps at which it acts."""
    guess: bool = False
    """Guess mode: clips of negative prompts are not conditioned, and deeper layers act more than outer ones."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Return residuals for these frames; None at other timesteps, and for windows without an image."""
        if self.scale == 0 or float(inputs.timestep) not in self.active:
            return None
        none = len(self.keyframes)
        places = {frame: place for place, frame in enumerate(self.keyframes)}
        found = [places.get(frame, none) for frame in inputs.frames]
        if min(found) == none:
            return None
        embedded = self.embedded.index_select(2, torch.tensor(found, device=self.embedded.device))

        def ask(inputs: UNetInputs) -> Residuals:
            return self.encoder.residuals(
                rearrange(inputs.images(embedded), "b d f h w -> (b f) d h w"),
                inputs.timestep,
                inputs.embeddings,
                len(inputs.frames),
                conditions=inputs.conditions,
            )

        if not self.guess:
            return ask(inputs).scaled(self.scale)
        residuals = for_positive(inputs, ask)
        scales = torch.logspace(-1, 0, len(residuals.down) + 1).tolist()  # as of a ControlNet
        down = [part * (self.scale * scale) for part, scale in zip(residuals.down, scales[:-1], strict=True)]
        return Residuals(tuple(down), residuals.mid * (self.scale * scales[-1]))


def check_images(encoder: SparseCtrl, images: Tensor, latent_size: tuple[int, int], num_clips: int) -> None:
    """Raise UserError for images (b, c, n, h, w) that the encoder cannot take.

    Images of an RGB encoder are latents by now. `latent_size`: (h, w) of the clip's latents.
    """
    channels, wanted = images.shape[1], encoder.sparse_config.condition_channels
    size = tuple(encoder.sparse_config.factor * side for side in latent_size)
    if channels != wanted:
        raise UserError(
            f"this SparseCtrl encoder takes {TITLES[encoder.kind]} of {wanted} channels, got a tensor of {channels} "
            f"({tuple(images.shape)} as (b, c, n, h, w)); load the encoder that belongs to these images"
        )
    if tuple(images.shape[-2:]) != size:
        raise UserError(f"conditions must be {size[0]} x {size[1]} for this clip, got {tuple(images.shape[-2:])}")
    if images.shape[0] not in (1, num_clips):
        raise UserError(f"{num_clips} clips want images for 1 or {num_clips} of them, got {images.shape[0]}")


def embed(encoder: SparseCtrl, images: Tensor) -> Tensor:
    """Embed images (b, c, n, k*h, k*w), and a frame without one: (b, d, n+1, h, w)."""
    nothing = torch.zeros_like(images[:, :, :1])
    condition = torch.cat([images, nothing], dim=2)
    mask = torch.ones_like(condition[:, :1])
    mask[:, :, -1] = 0
    flat = (rearrange(part, "b c n h w -> (b n) c h w") for part in (condition, mask))
    embedded = encoder.embed(*(part.to(encoder.device, encoder.dtype) for part in flat))
    return rearrange(embedded, "(b n) d h w -> b d n h w", b=len(images))
