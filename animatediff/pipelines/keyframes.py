"""From the pictures of a call to the control that steers it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import frame_indices
from animatediff.media.images import LATENT_CHANNELS, as_tensor
from animatediff.pipelines.vae import encode_pictures
from animatediff.sampling import active_timesteps
from animatediff.sampling.sparsectrl import SparseControl, check_pictures, embed

if TYPE_CHECKING:
    from animatediff.models.sparsectrl import SparseCtrl


@dataclass(frozen=True, kw_only=True)
class Keyframes:
    """Pictures at frames of a clip, and how strongly and when they steer; checked, nothing computed yet."""

    encoder: SparseCtrl
    pictures: Tensor
    """(1 or b, c, n, H, W): pictures in 0..1, or latents."""
    frames: list[int]
    scale: float
    start: float
    end: float

    def control(self, vae: Any, timesteps: Tensor, device: torch.device) -> SparseControl:
        """The control for these steps. The encoder must be on `device`; for an RGB encoder the VAE does its part."""
        pictures = self.pictures
        if self._wants_encoding:
            latents = encode_pictures(vae, rearrange(pictures, "b c n h w -> (b n) c h w"), device)
            pictures = rearrange(latents, "(b n) c h w -> b c n h w", b=len(pictures))
        return SparseControl(
            encoder=self.encoder,
            seen=embed(self.encoder, pictures),
            keyframes=self.frames,
            scale=self.scale,
            active=active_timesteps(timesteps, self.start, self.end),
        )

    @property
    def _wants_encoding(self) -> bool:
        return self.encoder.kind == "rgb" and self.pictures.shape[1] != LATENT_CHANNELS


def keyframes(
    encoder: SparseCtrl | None,
    pictures: Any,
    indices: Sequence[int],
    *,
    shape: tuple[int, ...],
    size: tuple[int, int],
    scale: float,
    start: float,
    end: float,
) -> Keyframes | None:
    """Check what a call says of its pictures; None where it gives none.

    shape: of the latents (b, c, f, h, w); size: (height, width) in pixels. Raises UserError for pictures without an
    encoder, or of a kind it does not take, frames that do not fit them, and settings out of range.
    """
    if pictures is None:
        return None
    if encoder is None:
        raise UserError(
            "conditioning_frames are given, but no SparseCtrl encoder that reads them; call load_sparsectrl"
        )
    if not 0 <= start <= end <= 1:
        raise UserError(
            f"control_start and control_end are shares of the steps, 0 <= start <= end <= 1; got {start}, {end}"
        )
    num_clips, _, num_frames, *latent_size = shape
    height, width = size
    if encoder.kind == "scribble":
        height, width = (side * encoder.sparse_config.factor for side in latent_size)
    given = as_tensor(pictures, width, height)
    found = Keyframes(
        encoder=encoder,
        pictures=given,
        frames=frame_indices(list(indices), given.shape[2], num_frames),
        scale=float(scale),
        start=start,
        end=end,
    )
    if found._wants_encoding:
        if given.shape[0] not in (1, num_clips):
            raise UserError(f"{num_clips} clips want pictures for 1 or {num_clips} of them, got {given.shape[0]}")
    else:
        check_pictures(encoder, given, (latent_size[0], latent_size[1]), num_clips)
    return found


@contextmanager
def at_work(encoders: Sequence[Any], device: torch.device) -> Iterator[None]:
    """Bring SparseCtrl encoders and ControlNets to `device` for a while, where a pipeline keeps them elsewhere."""
    homes = [encoder.device for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.to(device)
        yield
    finally:
        for encoder, home in zip(encoders, homes, strict=True):
            encoder.to(home)
