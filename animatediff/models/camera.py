"""CameraCtrl: an encoder of camera poses, and the layers that merge its features into motion modules.

CameraCtrl (arXiv 2404.02101), section 3; original file: `cameractrl/models/pose_adaptor.py`. Poses enter as Plücker
rays, six numbers a pixel (`animatediff.camera`). The encoder makes a feature map of each level of the UNet, once a
clip; a linear layer a motion module adds it in front of q, k and v of the module's first attention.

Shapes: `b` clips, `f` frames, `c` channels, `h w` latent pixels, `p` all of these, `d` width of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from animatediff.motion import CameraMerge, MotionAdapter, MotionLayout, MotionModule, frame_positions, plan_windows
from animatediff.motion.image_encoder import EncoderBlock
from animatediff.motion.module import TemporalTransformerBlock

if TYPE_CHECKING:
    from animatediff.motion import Window

RAY_CHANNELS = 6
"""Moment and direction of a ray."""
OVERLAP_SHARE = 0.75
"""Of the windows of a clip that is longer than the encoder's positions: 12 of 16 frames, as the original has them."""


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Configuration of a CameraCtrl model."""

    channels: tuple[int, ...]
    """Of the features, level by level; one level a down block of the UNet."""
    merges: MotionLayout
    """The motion modules that poses are merged into; the one in the mid block takes none."""
    blocks: int = 2
    """Pairs of a ResNet block and a temporal block in each level."""
    factor: int = 8
    """Pixels along a side that one latent pixel stands for."""
    num_heads: int = 8
    max_positions: int = 16
    """Frame positions that training has seen."""

    def __post_init__(self) -> None:
        if odd := next((width for width in self.channels if width % self.num_heads), None):
            raise ValueError(f"levels of {odd} channels do not divide into {self.num_heads} attention heads")
        levels = [*self.merges.down, *reversed(self.merges.up)]
        if len(self.merges.down) != len(self.channels) or len(self.merges.up) != len(self.channels):
            raise ValueError(f"{len(self.channels)} levels of features for motion modules of ({self.merges})")
        for block, width in zip(levels, (*self.channels, *self.channels), strict=True):
            if odd := next((channels for channels in block if channels != width), None):
                raise ValueError(f"a merge layer of width {odd} at a level of {width} channels")

    @classmethod
    def of(cls, layout: MotionLayout, *, factor: int = 8, num_heads: int = 8, max_positions: int = 16) -> CameraConfig:
        """The configuration that goes with motion modules of this layout, as the published one does with v3's."""
        return cls(
            channels=tuple(block[0] for block in layout.down),
            merges=MotionLayout(down=layout.down, up=layout.up),
            factor=factor,
            num_heads=num_heads,
            max_positions=max_positions,
        )


class PoseEncoder(nn.Module):
    """Features of camera poses, level by level. Keys are the original's, less position tables."""

    def __init__(self, config: CameraConfig) -> None:
        super().__init__()
        widths = config.channels
        self.factor = config.factor
        self.encoder_conv_in = nn.Conv2d(RAY_CHANNELS * config.factor**2, widths[0], 3, padding=1)
        self.encoder_down_conv_blocks = nn.ModuleList()
        self.encoder_down_attention_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[max(0, level - 1)]
            resnets = [
                EncoderBlock(before if place == 0 else width, width, halve=level > 0 and place == 0)
                for place in range(config.blocks)
            ]
            attentions = [TemporalTransformerBlock(width, config.num_heads, 1) for _ in range(config.blocks)]
            self.encoder_down_conv_blocks.append(nn.ModuleList(resnets))
            self.encoder_down_attention_blocks.append(nn.ModuleList(attentions))

    def forward(self, rays: Tensor) -> list[Tensor]:
        """rays: (b, 6, f, H, W) -> (b, f, h, w, c) of each level."""
        num_frames = rays.shape[2]
        x = self.encoder_conv_in(F.pixel_unshuffle(rearrange(rays, "b c f h w -> (b f) c h w"), self.factor))
        features: list[Tensor] = []
        for resnets, attentions in zip(self.encoder_down_conv_blocks, self.encoder_down_attention_blocks, strict=True):
            for resnet, attention in zip(resnets, attentions, strict=True):  # pyright: ignore[reportArgumentType]
                x = resnet(x)
                h, w = x.shape[-2:]
                tokens = rearrange(x, "(b f) c h w -> b f (h w) c", f=num_frames)
                positions = frame_positions(num_frames, tokens.shape[-1], device=x.device).to(x.dtype)
                tokens = attention(tokens, positions)
                x = rearrange(tokens, "b f (h w) c -> (b f) c h w", h=h, w=w)
            features.append(rearrange(x, "(b f) c h w -> b f h w c", f=num_frames))
        return features


class CameraCtrl(nn.Module):
    """The pose encoder, and a merge layer for each motion module of a UNet's down and up blocks.

    New merge layers are zero, so that poses change nothing until they are trained.
    """

    def __init__(self, config: CameraConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PoseEncoder(config)
        self.down_blocks = nn.ModuleList([_merges(widths) for widths in config.merges.down])
        self.up_blocks = nn.ModuleList([_merges(widths) for widths in config.merges.up])

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.encoder_conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.encoder.encoder_conv_in.weight.dtype

    def merges_of(self, adapter: MotionAdapter) -> Iterator[tuple[MotionModule, nn.Linear, int]]:
        """Each motion module that takes poses, its merge layer, and the level of its features."""
        last = len(self.config.channels) - 1
        for side, blocks in (("down_blocks", self.down_blocks), ("up_blocks", self.up_blocks)):
            for index, layers in enumerate(blocks):
                modules = getattr(adapter, side)[index].motion_modules
                for module, layer in zip(modules, layers, strict=True):  # pyright: ignore[reportArgumentType]
                    yield module, layer, index if side == "down_blocks" else last - index

    def check_fits(self, layout: MotionLayout) -> None:
        """Raise ValueError unless motion modules of this layout stand where poses are merged."""
        wanted = self.config.merges
        if (layout.down, layout.up) != (wanted.down, wanted.up):
            raise ValueError(f"it merges poses into motion modules of ({wanted}), and those loaded are ({layout})")

    def tokens(self, rays: Tensor) -> list[Tensor]:
        """Features (b, f, p, d) of each level. rays: (b, 6, f, H, W).

        A clip of more frames than the encoder has positions goes through it in windows, and what overlaps is averaged.
        """
        num_frames, most = rays.shape[2], self.config.max_positions
        if num_frames <= most:
            return [part.flatten(2, 3) for part in self.encoder(rays)]
        windows = plan_windows(num_frames, most, int(most * OVERLAP_SHARE), blend="flat")
        totals: list[Tensor] = []
        for window in windows:
            _add(totals, window, [part.flatten(2, 3) for part in self.encoder(rays[:, :, list(window.frames)])], rays)
        return totals

    def at_modules(
        self, adapter: MotionAdapter, tokens: Sequence[Tensor], scale: float = 1.0
    ) -> dict[MotionModule, CameraMerge]:
        """What each motion module takes in a call of the UNet (`FrameContext.camera`).

        tokens: (1 or b, f, p, d) of each level, of the call's frames.
        """
        return {module: CameraMerge(tokens[level], layer, scale) for module, layer, level in self.merges_of(adapter)}


def _merges(widths: Sequence[int]) -> nn.ModuleList:
    layers = [nn.Linear(width, width) for width in widths]
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


def _add(totals: list[Tensor], window: Window, parts: Sequence[Tensor], rays: Tensor) -> None:
    """Add features of a window, by its weights, to those of all frames."""
    if not totals:
        totals += [part.new_zeros(len(part), rays.shape[2], *part.shape[2:]) for part in parts]
    index = torch.tensor(window.frames, device=rays.device)
    for total, part in zip(totals, parts, strict=True):
        total.index_add_(1, index, part * window.share.to(part)[:, None, None])
