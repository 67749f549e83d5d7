"""Features of an image for the frames of a clip, as the image encoder of AnimateLCM-I2V makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from animatediff.motion.image_encoder import ImageEncoder


@dataclass
class ImageFeatures:
    """An encoder with the image of one call.

    Features of the frames that were asked for last are kept: of a clip in one window these are all, and a longer clip
    takes no more memory than a window.
    """

    encoder: ImageEncoder
    latents: Tensor
    """(1 or b, c, h, w), scaled."""
    motion_scale: float
    follow_weights: bool = True
    """Whether latents come to the device and type of the weights; not where layers bring their weights to the input."""
    _frames: tuple[int, ...] = ()
    _features: list[Tensor] = field(default_factory=list)

    def of(self, frames: Sequence[int]) -> list[Tensor]:
        """Features of these frames of the clip, (1 or b, c, f, h, w) for each down block of the UNet."""
        if tuple(frames) != self._frames:
            latents = self.latents.to(self.encoder.device, self.encoder.dtype) if self.follow_weights else self.latents
            self._features = self.encoder(latents, frames, self.motion_scale)
            self._frames = tuple(frames)
        return self._features
