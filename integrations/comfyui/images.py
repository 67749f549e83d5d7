"""One image that a clip comes from: PIA's first layer, and the image encoder of AnimateLCM-I2V."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import Curve, frame_indices
from animatediff.motion import image_channels
from animatediff.sampling.affinity import DEFAULT_AMOUNT, affinity_mask
from animatediff.sampling.image_features import ImageFeatures

from .conditions import Call, Condition, ImageLatents

if TYPE_CHECKING:
    from .motion import Motion


class PIAImage(Condition):
    """An image at a frame of the clip, beside the noise of all frames (PIA, arXiv 2312.13964)."""

    kind = "PIA Image"

    def __init__(
        self,
        image: Tensor,
        vae: Any,
        *,
        amount: str = DEFAULT_AMOUNT,
        affinity: Curve | None = None,
        frame: int = 0,
        strength: float = 1.0,
    ) -> None:
        """image: (1, h, w, 3); amount: a name in `MOTION_AMOUNTS`; affinity: a curve in its place, 0..1.

        frame: that shows the image, negatives from the end; strength: factor of what the first layer adds.
        """
        self.latents = ImageLatents(image, vae)
        self.amount, self.affinity, self.frame, self.strength = amount, affinity, frame, strength
        self._mask: list[float] = []

    def check(self, motion: Motion) -> None:
        if motion.adapter.conv_in is None:
            raise UserError(
                f"{motion.path.name} has no first layer that sees an image: AnimateDiff PIA Image is for pia.ckpt"
            )

    def check_clip(self, num_frames: int) -> None:
        self.mask(num_frames)

    def mask(self, num_frames: int) -> list[float]:
        """Affinity of each frame of a clip. Raises UserError for a frame beyond it."""
        if len(self._mask) != num_frames:
            (frame,) = frame_indices([self.frame], 1, num_frames)
            self._mask = affinity_mask(self.amount, self.affinity, num_frames, frame)
        return self._mask

    def begin(self, model: Any, height: int, width: int) -> None:
        self.latents.of(model, height, width)

    def seen(self, call: Call) -> dict[str, Any]:
        latents = self.latents.in_call(call)
        mask = torch.tensor(self.mask(call.num_frames), device=latents.device)[list(call.frames)]
        shown = repeat(latents, "b c h w -> b c f h w", f=len(call.frames))
        channels = image_channels(mask, shown).expand(call.num_clips, -1, -1, -1, -1)
        return {"image_channels": self.strength * rearrange(channels, "b c f h w -> (b f) c h w")}

    def forget(self) -> None:
        self.latents.forget()


class I2VImage(Condition):
    """An image that the whole clip starts from, as features in the down blocks (AnimateLCM-I2V)."""

    kind = "I2V Image"

    def __init__(self, image: Tensor, vae: Any, *, motion_scale: float = 0.8) -> None:
        """image: (1, h, w, 3); motion_scale: how much the clip moves, 0 for a still, 0.8 as trained."""
        self.latents = ImageLatents(image, vae)
        self.motion_scale = motion_scale
        self._features: ImageFeatures | None = None

    def check(self, motion: Motion) -> None:
        if motion.adapter.img_encoder is None:
            raise UserError(
                f"{motion.path.name} has no image encoder: AnimateDiff I2V Image is for AnimateLCM_sd15_i2v.ckpt"
            )

    def begin(self, model: Any, height: int, width: int) -> None:
        self.latents.of(model, height, width)

    def seen(self, call: Call) -> dict[str, Any]:
        features = self._features_of(call).of(call.frames)
        return {
            "features": [
                rearrange(level.expand(call.num_clips, -1, -1, -1, -1), "b c f h w -> (b f) c h w")
                for level in features
            ]
        }

    def _features_of(self, call: Call) -> ImageFeatures:
        """Those kept for the sampling, or new ones where size or type of the latents are others."""
        latents, kept = self.latents.in_call(call), self._features
        key = (latents.shape, latents.device, latents.dtype)
        if kept is None or key != (kept.latents.shape, kept.latents.device, kept.latents.dtype):
            encoder = call.adapter.img_encoder
            assert encoder is not None, "checked when the image was connected"
            kept = ImageFeatures(encoder=encoder, latents=latents, motion_scale=self.motion_scale, follow_weights=False)
            self._features = kept
        return kept

    def forget(self) -> None:
        self.latents.forget()
        self._features = None
