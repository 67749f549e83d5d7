"""The motion modules of one UNet: where they stand, how wide they are, and the numerics they were trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from animatediff.motion.module import FrameCount, MotionModule

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True, kw_only=True)
class MotionNumerics:
    """What a checkpoint needs in order to run as it was trained; nothing in its tensors tells the two norms apart."""

    image_norm_over_frames: bool = False
    """The GroupNorms of the image layers (ResNets and output) see all frames of a clip together."""
    motion_norm_over_frames: bool = False
    """The GroupNorm at the entrance of each motion module sees all frames of a clip together."""
    max_positions: int = 32
    """Frame positions that training has seen; longer clips want windows."""


def block_points(block: nn.Module) -> list[nn.Module]:
    """The layers of a UNet block behind which a motion module may stand."""
    attentions = [layer for layer in getattr(block, "attentions", None) or [] if layer is not None]
    return attentions or list(block.resnets)  # pyright: ignore[reportArgumentType]


def layer_channels(layer: nn.Module) -> int:
    """Channels that leave a ResNet, a transformer, or a plain attention layer."""
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

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, *, mid_block: bool = False) -> MotionLayout:
        """One module behind every attention of the down and up blocks, or behind every ResNet of blocks without."""
        return cls(
            down=tuple(tuple(map(layer_channels, block_points(block))) for block in unet.down_blocks),
            mid=layer_channels(block_points(unet.mid_block)[0]) if mid_block else None,
            up=tuple(tuple(map(layer_channels, block_points(block))) for block in unet.up_blocks),
            norm_groups=unet.config["norm_num_groups"],
        )

    def stands_as(self, other: MotionLayout) -> bool:
        """Whether modules of this layout fit the places and widths of the other; heads and norm groups do not count."""
        return (self.down, self.mid, self.up) == (other.down, other.mid, other.up)

    def __len__(self) -> int:
        return sum(map(len, self.down)) + sum(map(len, self.up)) + (self.mid is not None)

    def __str__(self) -> str:
        def widths(blocks: tuple[tuple[int, ...], ...]) -> str:
            return ", ".join(f"{len(block)}x{block[0]}" if block else "0" for block in blocks)

        return f"down {widths(self.down)}; mid {self.mid or 'none'}; up {widths(self.up)}"


class BlockModules(nn.Module):
    """The motion modules of one block of the UNet."""

    def __init__(self, modules: list[MotionModule]) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(modules)


class MotionAdapter(nn.Module):
    """All motion modules of one UNet, not yet attached. Keys are those of diffusers' `MotionAdapter`."""

    def __init__(self, layout: MotionLayout, numerics: MotionNumerics | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.numerics = numerics if numerics is not None else MotionNumerics()
        self.frames = FrameCount()
        self.down_blocks = nn.ModuleList([self._block(channels) for channels in layout.down])
        self.mid_block = self._block((layout.mid,)) if layout.mid is not None else None
        self.up_blocks = nn.ModuleList([self._block(channels) for channels in layout.up])

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, *, mid_block: bool = False, numerics: MotionNumerics | None = None
    ) -> MotionAdapter:
        """New motion modules that fit `unet`; they change nothing until they are trained."""
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

    def modules_by_block(self) -> Iterator[tuple[str, nn.ModuleList]]:
        """Pairs of a block's name in the UNet (`down_blocks.0`, `mid_block`) and its motion modules."""
        for side, blocks in (("down_blocks", self.down_blocks), ("up_blocks", self.up_blocks)):
            for index, block in enumerate(blocks):
                assert isinstance(block, BlockModules)
                yield f"{side}.{index}", block.motion_modules
        if self.mid_block is not None:
            yield "mid_block", self.mid_block.motion_modules
