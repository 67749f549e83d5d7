"""The motion modules of one UNet: where they stand, how wide they are, and the norms they were trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from animatediff.motion.first_layer import ImageConvIn
from animatediff.motion.image_encoder import EncoderLayout, ImageEncoder
from animatediff.motion.module import FrameContext, MotionModule

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True, kw_only=True)
class MotionNumerics:
    """Settings without which a checkpoint does not run as it was trained; its tensors do not tell the norms.

    A GroupNorm takes its mean and variance over the pixels of one frame, or over those of all frames of a clip:

    | published family                            | norms of image layers | norm of motion modules | positions |
    |---------------------------------------------|-----------------------|------------------------|-----------|
    | v1                                          | **all frames**        | one frame              | 24        |
    | v2, v3, AnimateDiff-Lightning               | one frame             | one frame              | 32        |
    | LongAnimateDiff, AnimateLCM, AnimateLCM-I2V | one frame             | one frame              | 64        |
    | AnimateDiff-SDXL beta                       | one frame             | **all frames**         | 32        |
    | HotshotXL                                   | **all frames**        | one frame              | 24        |
    | PIA                                         | **all frames**        | one frame              | 32        |

    The image layers over all frames are `use_inflated_groupnorm: false` in the original's configurations.
    """

    image_norm_over_frames: bool = False
    """Whether the GroupNorms of the image layers (ResNets and output) normalise all frames of a clip together."""
    motion_norm_over_frames: bool = False
    """Whether the GroupNorm at the entrance of each motion module normalises all frames of a clip together."""
    max_positions: int = 32
    """Frame positions that were trained; the code of later ones means nothing to the module, so clips go in windows."""
    conv_in_from_file: bool = False
    """Whether a first layer for images brings its own weights of the noisy latents and its own bias, which belong to
    the image model that it was trained with, in place of those of the image model at hand."""


FEATURES_AT = 1
"""Place in a down block of the motion module that features of an image are added in front of."""


def block_points(block: nn.Module) -> list[nn.Module]:
    """List the layers of a down or up block behind which a motion module stands: its attentions, else its ResNets.

    A block has as many attentions as ResNets, each behind its ResNet, or none at all.
    """
    attentions = [layer for layer in getattr(block, "attentions", None) or [] if layer is not None]
    return attentions or list(block.resnets)  # pyright: ignore[reportArgumentType]


def mid_point(block: nn.Module) -> list[nn.Module]:
    """The one layer of the mid block that a motion module stands behind: its first attention, else its first ResNet."""
    return block_points(block)[:1]


def layer_channels(layer: nn.Module) -> int:
    """Channels of the feature map that a layer returns.

    A ResNet and a transformer state `out_channels`; the bare `Attention` of blocks without text, and of those with
    "simple cross attention", returns as many as its queries have.
    """
    names = ("out_channels", "in_channels", "query_dim")
    channels = next((value for name in names if (value := getattr(layer, name, None))), None)
    assert isinstance(channels, int), f"{type(layer).__name__} does not say how many channels it has"
    return channels


@dataclass(frozen=True, kw_only=True)
class MotionLayout:
    """The channels of every motion module, block by block."""

    down: tuple[tuple[int, ...], ...]
    mid: int | None = None
    up: tuple[tuple[int, ...], ...]
    num_heads: int = 8
    num_attentions: int = 2
    norm_groups: int = 32
    conv_in_channels: int | None = None
    """Channels of a first layer that belongs to the modules; None where there is none."""
    image_encoder: EncoderLayout | None = None
    """Layout of an image encoder that belongs to the modules; None where there is none."""

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, *, mid_block: bool = False) -> MotionLayout:
        """One module behind every attention of the down and up blocks, or behind every ResNet of blocks without.

        mid_block: one in the mid block too, if the UNet has one; those of some distilled models have not.
        """
        return cls(
            down=tuple(tuple(map(layer_channels, block_points(block))) for block in unet.down_blocks),
            mid=layer_channels(mid_point(unet.mid_block)[0]) if mid_block and unet.mid_block is not None else None,
            up=tuple(tuple(map(layer_channels, block_points(block))) for block in unet.up_blocks),
            norm_groups=unet.config["norm_num_groups"],
        )

    def stands_as(self, other: MotionLayout) -> bool:
        """Whether modules of this layout fit the places and widths of the other; the other fields do not count."""
        return (self.down, self.mid, self.up) == (other.down, other.mid, other.up)

    def __len__(self) -> int:
        return sum(map(len, self.down)) + sum(map(len, self.up)) + (self.mid is not None)

    def __str__(self) -> str:
        def widths(blocks: tuple[tuple[int, ...], ...]) -> str:
            return ", ".join(f"{len(block)}x{block[0]}" if block else "0" for block in blocks)

        first = f"first layer of {self.conv_in_channels} channels; " if self.conv_in_channels else ""
        return f"{first}down {widths(self.down)}; mid {self.mid or 'none'}; up {widths(self.up)}"


class BlockModules(nn.Module):
    """The motion modules of one block of the UNet."""

    def __init__(self, modules: list[MotionModule]) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(modules)


class MotionAdapter(nn.Module):
    """All motion modules of one UNet, not yet attached. Keys are those of diffusers' `MotionAdapter`.

    `conv_in` (PIA) and `img_encoder` (AnimateLCM-I2V) are what modules made for images have besides, None for others.
    """

    def __init__(self, layout: MotionLayout, numerics: MotionNumerics | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.numerics = numerics if numerics is not None else MotionNumerics()
        self.frames = FrameContext()
        self.conv_in = None
        if layout.conv_in_channels is not None:
            self.conv_in = ImageConvIn(
                layout.conv_in_channels,
                layout.down[0][0],
                own_noise=self.numerics.conv_in_from_file,
                frames=self.frames,
            )
        self.img_encoder = None if layout.image_encoder is None else ImageEncoder(layout.image_encoder)
        self.down_blocks = nn.ModuleList([self._block(channels) for channels in layout.down])
        self.mid_block = self._block((layout.mid,)) if layout.mid is not None else None
        self.up_blocks = nn.ModuleList([self._block(channels) for channels in layout.up])
        for level, block in enumerate(self.down_blocks):
            assert isinstance(block, BlockModules)
            for module in list(block.motion_modules)[FEATURES_AT : FEATURES_AT + 1]:
                assert isinstance(module, MotionModule)
                module.feature_level = level

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, *, mid_block: bool = False, numerics: MotionNumerics | None = None
    ) -> MotionAdapter:
        """New motion modules that fit `unet`; they change nothing until they are trained.

        Raises ValueError for a module in the mid block of a UNet that has none.
        """
        if mid_block and unet.mid_block is None:
            raise ValueError(
                "this UNet has no mid block (a distilled one), so no motion module in it: leave `mid_block` out"
            )
        return cls(MotionLayout.from_unet(unet, mid_block=mid_block), numerics)

    def _block(self, channels: tuple[int, ...]) -> BlockModules:
        return BlockModules(
            [
                MotionModule(
                    width,
                    num_heads=self.layout.num_heads,
                    num_attentions=self.layout.num_attentions,
                    norm_groups=self.layout.norm_groups,
                    norm_over_frames=self.numerics.motion_norm_over_frames,
                    frames=self.frames,
                )
                for width in channels
            ]
        )

    def set_motion_norm(self, *, over_frames: bool) -> None:
        """Let the norm at the entrance of each module take all frames of a clip together, or each frame by itself."""
        self.numerics = replace(self.numerics, motion_norm_over_frames=over_frames)
        for module in self.modules():
            if isinstance(module, MotionModule):
                module.norm_over_frames = over_frames

    def modules_by_block(self) -> Iterator[tuple[str, nn.ModuleList]]:
        """Pairs of a block's name in the UNet (`down_blocks.0`, `mid_block`) and its motion modules."""
        for side, blocks in (("down_blocks", self.down_blocks), ("up_blocks", self.up_blocks)):
            for index, block in enumerate(blocks):
                assert isinstance(block, BlockModules)
                yield f"{side}.{index}", block.motion_modules
        if self.mid_block is not None:
            yield "mid_block", self.mid_block.motion_modules
