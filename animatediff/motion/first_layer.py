"""PIA's first layer (arXiv 2312.13964, section 3.2): channels of an image beside the noisy latents of each frame.

The layer was trained with nine channels: four of noisy latents, the affinity mask, four of the image's latents. The
image model keeps its own first layer and bias for the four of the noisy latents; a hook adds what the other five give:

    conv(cat(noise, mask, image)) = conv(noise; image model's weight and bias) + conv(cat(mask, image); weight[:, 4:])

So the image model stays as it is, to the bit, and LoRAs of its first layer act. Where there are no such channels they
are zeros, which PIA was trained with too (as "no image"): then nothing is added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from animatediff.motion.module import FrameContext

IMAGE_CHANNELS = 5
"""Channels behind those of the noisy latents: the affinity mask, and the four of the image's latents."""


class ImageConvIn(nn.Conv2d):
    """First layer with channels of an image, as the file has it; called by the hook of the image model's own."""

    def __init__(
        self, in_channels: int, out_channels: int, *, own_noise: bool = False, frames: FrameContext | None = None
    ) -> None:
        """own_noise: weights of the noisy latents and bias are this layer's own, not the image model's."""
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        self.own_noise = own_noise
        self.frames = frames if frames is not None else FrameContext()

    @property
    def num_noise(self) -> int:
        """Channels of the noisy latents."""
        return self.in_channels - IMAGE_CHANNELS

    def hook(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of the image model's first layer."""
        if not self.frames.num_frames:
            return output
        channels = self.frames.image_channels
        if channels is None and not self.own_noise:
            return output
        return self(output, args[0], channels)

    def forward(self, output: Tensor, noise: Tensor, channels: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Output (b*f, d, h, w) of the nine channels, from that of the image model's layer alone.

        noise: (b*f, 4, h, w); channels: (b*f, 5, h, w), None for zeros.
        """
        if self.own_noise:
            if channels is None:
                channels = noise.new_zeros(len(noise), IMAGE_CHANNELS, *noise.shape[2:])
            return super().forward(torch.cat([noise, channels.to(noise)], dim=1))
        assert channels is not None, "without channels there is nothing to add"
        return output + super().forward(channels.to(noise))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with the weights at hand, which programs that keep them elsewhere bring along."""
        if not self.own_noise:
            weight, bias = weight[:, self.num_noise :], None
        return super()._conv_forward(input, weight, bias)


def image_channels(mask: Tensor, latents: Tensor) -> Tensor:
    """Channels behind the noise: the affinity mask (f,), the same at every pixel, and latents (b, c, f, h, w)."""
    affinity = mask.to(latents)[:, None, None].expand(len(latents), 1, *latents.shape[2:])
    return torch.cat([affinity, latents], dim=1)


def below_lora(layer: Any) -> nn.Module:
    """The layer that a LoRA of PEFT acts on, or the layer itself: hooks on it stay where the LoRA comes or goes."""
    return getattr(layer, "base_layer", layer)
