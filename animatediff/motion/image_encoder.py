"""The image encoder of AnimateLCM-I2V: from one image to features for every frame of a clip.

It comes in one file with the motion modules, and its features are added where they are called (`module.py`).
AnimateLCM (arXiv 2402.00769), section 4.3; original file: `animatelcm_sd15/animatelcm/models/adapter.py`. All frames
get the same latents; a code of the frame index is all that tells them apart, and its strength is how much the clip
moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from animatediff.motion.module import frame_positions

BLOCKS_PER_LEVEL = 2


@dataclass(frozen=True, kw_only=True)
class EncoderLayout:
    """Channels of an encoder."""

    latents: int
    """Of the image."""
    first: int
    """Of the first convolution, and of the code of the frame index."""
    levels: tuple[int, ...]
    """Of the features for each down block of the UNet."""

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> EncoderLayout | None:
        """The layout of tensors of these names and shapes; None where layers are missing."""
        first = shapes.get("conv_in.weight")
        widths = []
        while len(shape := shapes.get(f"body.{len(widths)}.block1.weight", ())) == 4:
            widths.append(shape[0])
        if first is None or len(first) != 4 or not widths or len(widths) % BLOCKS_PER_LEVEL:
            return None
        return cls(latents=first[1], first=first[0], levels=tuple(widths[::BLOCKS_PER_LEVEL]))


class ImageEncoder(nn.Module):
    """Two blocks for each level of the UNet. Keys are those of the published file."""

    def __init__(self, layout: EncoderLayout) -> None:
        super().__init__()
        self.layout = layout
        self.conv_in = nn.Conv2d(layout.latents, layout.first, 3, padding=1)
        blocks, before = [], layout.first
        for level, width in enumerate(layout.levels):
            for place in range(BLOCKS_PER_LEVEL):
                blocks.append(EncoderBlock(before, width, halve=level > 0 and place == 0))
                before = width
        self.body = nn.ModuleList(blocks)

    @property
    def device(self) -> torch.device:
        """Device of its weights."""
        return self.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its weights."""
        return self.conv_in.weight.dtype

    def forward(self, latents: Tensor, frames: Sequence[int], motion_scale: float) -> list[Tensor]:
        """Features for frames of a clip, (n, c, f, h, w) for each level, each half as large as the one before.

        latents: (n, 4, h, w), scaled; frames: their f indices in the clip; motion_scale: 0 for a still, 0.8 as trained.
        """
        codes = frame_positions(max(frames) + 1, self.layout.first, device=self.device)[list(frames)]
        x = self.conv_in(latents)[:, None] + motion_scale * codes.to(latents)[:, :, None, None]
        x = rearrange(x, "n f c h w -> (n f) c h w")
        features = []
        for number, block in enumerate(self.body, start=1):
            x = block(x)
            if number % BLOCKS_PER_LEVEL == 0:
                features.append(rearrange(x, "(n f) c h w -> n c f h w", f=len(frames)))
        return features


class EncoderBlock(nn.Module):
    """A residual block without norms, also of CameraCtrl's pose encoder.

    (n, c, h, w) -> (n, d, h, w), or half that size, rounded up as the UNet's: the last row and column of an odd size
    count twice.
    """

    def __init__(self, channels: int, width: int, *, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.in_conv = nn.Conv2d(channels, width, 1) if channels != width else None
        self.block1 = nn.Conv2d(width, width, 3, padding=1)
        self.block2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.halve:
            h, w = x.shape[-2:]
            x = F.avg_pool2d(F.pad(x, (0, w % 2, 0, h % 2), mode="replicate"), 2)
        x = x if self.in_conv is None else self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))
