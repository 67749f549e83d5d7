"""What motion modules see besides the latents: an image, a path of the camera; the motion module's link carries it."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter

if TYPE_CHECKING:
    from .motion import Motion

LATENT_CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the UNet."""

    model: Any
    """The host's model, which knows types and the scale of latents."""
    adapter: MotionAdapter
    """The motion modules that the UNet calls."""
    x: Tensor
    """(b*f, c, h, w) latents."""
    frames: Sequence[int]
    """The f frames of the clip that are in it."""
    num_frames: int
    """Of the whole clip."""

    @property
    def num_clips(self) -> int:
        """Conditionings in one batch, of the same clip."""
        return len(self.x) // len(self.frames)

    @property
    def dtype(self) -> torch.dtype:
        """In which the UNet computes."""
        return self.model.get_dtype_inference()


class Condition:
    """Base of what motion modules see."""

    kind = ""
    """Named in messages."""

    def check(self, motion: Motion) -> None:
        """Raise UserError for motion modules that cannot see it."""

    def check_clip(self, num_frames: int) -> None:
        """Raise UserError where it does not fit a clip of this length."""

    def networks(self) -> Sequence[ModelPatcher]:
        """Networks of its own, which the host loads with the motion modules."""
        return ()

    def begin(self, model: Any, height: int, width: int) -> None:
        """Before a sampling of latents of this size, while no model is at work."""

    def seen(self, call: Call) -> dict[str, Any]:
        """Arguments of `FrameContext.during` for one call of the UNet."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what was kept for one sampling."""


class ImageLatents:
    """An image as latents of the clip's size, which are made once a sampling."""

    def __init__(self, image: Tensor, vae: Any) -> None:
        """image: (1, h, w, 3) in 0..1; vae: of the host."""
        self.image, self.vae = image, vae
        self._latents: Tensor | None = None

    def of(self, model: Any, height: int, width: int) -> Tensor:
        """Latents (1, c, height, width), scaled. The image is brought to their size by cutting edges."""
        if self._latents is None or self._latents.shape[-2:] != (height, width):
            self._latents = encoded(self.image, self.vae, model, height, width)
        return self._latents

    def in_call(self, call: Call) -> Tensor:
        """Those of a call, on its device."""
        return self.of(call.model, *call.x.shape[-2:]).to(call.x.device, call.dtype)

    def forget(self) -> None:
        """Drop the latents."""
        self._latents = None


def encoded(images: Tensor, vae: Any, model: Any, height: int, width: int) -> Tensor:
    """Latents (n, c, height, width), scaled, of images (n, H, W, 3) in 0..1: the mean that the VAE of the host gives.

    What the host has loaded is loaded again behind it. Raises UserError for a VAE of another kind of model.
    """
    factor = vae.spacial_compression_encode()
    pixels = sized(images, height * factor, width * factor)
    loaded = comfy.model_management.loaded_models(only_currently_used=True)
    latents = vae.encode(pixels.movedim(1, -1))
    comfy.model_management.load_models_gpu(loaded)
    if tuple(latents.shape[1:]) != (LATENT_CHANNELS, height, width):
        raise UserError(
            f"this VAE makes latents of shape {list(latents.shape[1:])} of an image, and the clip has "
            f"{[LATENT_CHANNELS, height, width]}: connect the VAE of the checkpoint"
        )
    return model.process_latent_in(latents)


def sized(images: Tensor, height: int, width: int) -> Tensor:
    """Images (n, h, w, 3) as (n, 3, height, width), by cutting edges."""
    images = images[..., :3].movedim(-1, 1)
    if images.shape[-2:] == (height, width):
        return images
    return comfy.utils.common_upscale(images, width, height, "lanczos", "center")
