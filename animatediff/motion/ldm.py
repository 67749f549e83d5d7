"""Motion modules in a UNet of the first Stable Diffusion code (LDM), as ComfyUI and the WebUIs have it.

The image layers compute the same as those of diffusers' UNet and stand in another tree, so this is the second table of
places. Each of `input_blocks` and `output_blocks` is a short sequence `[ResNet, transformer?, sampler?]`; a motion
module is called behind its transformer, or behind its ResNet where it has none.

| diffusers                    | here, with n = ResNets of a level               |
|------------------------------|-------------------------------------------------|
| `down_blocks.l`, place j     | `input_blocks.(1 + l*(n+1) + j)`                |
| `down_blocks.l.downsamplers` | `input_blocks.((l+1)*(n+1))`, of its own        |
| `mid_block`                  | `middle_block.1`                                |
| `up_blocks.l`, place j       | `output_blocks.(l*(n+1) + j)`                   |
| `up_blocks.l.upsamplers`     | last of `output_blocks.(l*(n+1) + n)`           |
| `conv_in`                    | `input_blocks.0.0`                              |
| `conv_norm_out`              | `out.0`                                         |

The table is not computed with: levels end where a sampler stands, so that distilled UNets with fewer layers fit too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from animatediff.motion.adapter import MotionAdapter, MotionLayout, layer_channels
from animatediff.motion.attach import (
    check_conv_in,
    check_layout,
    has_hooks,
    remove_hooks,
    reset_compiled,
    set_hooks,
)
from animatediff.motion.module import FrameContext


@dataclass(frozen=True)
class LdmAttachment:
    """Such a UNet with motion modules called from it. Set `frames.num_frames` before each call of the UNet."""

    unet: nn.Module
    adapter: MotionAdapter
    num_points: int

    @property
    def frames(self) -> FrameContext:
        """The context that all attached modules read."""
        return self.adapter.frames

    def detach(self) -> MotionAdapter:
        """Stop calling the modules; the UNet has exactly the hooks it had before. Its keys never changed."""
        detach_ldm(self.unet)
        return self.adapter


def attach_ldm(unet: nn.Module, adapter: MotionAdapter) -> LdmAttachment:
    """Call the modules of `adapter` from `unet`, by forward hooks alone: they do not become children of it.

    unet: has `input_blocks`, `middle_block`, `output_blocks` and `out`. Everything is checked before anything is
    changed. Raises ValueError if the UNet calls motion modules already, or if its blocks or first layer do not have the
    places and widths that the adapter was made for. The caller keeps the adapter on the device and in the type of the
    UNet, and shows it its image (`FrameContext`); callers with no place for one refuse it first (`refuse_images`).
    """
    if has_hooks(unet):
        raise ValueError("this UNet already has motion modules; detach them before attaching others")
    check_layout(adapter, layout_of_ldm(unet, mid_block=adapter.layout.mid is not None))
    conv_in = ldm_conv_in(unet)
    check_conv_in(adapter, conv_in)
    num_points = set_hooks(adapter, dict(ldm_points(unet)), ldm_image_norms(unet), conv_in)
    reset_compiled()
    return LdmAttachment(unet, adapter, num_points)


def refuse_images(adapter: MotionAdapter) -> None:
    """Raise ValueError for modules that see an image (PIA, AnimateLCM-I2V), in a program with no place for it."""
    if adapter.conv_in is not None:
        raise ValueError(
            "these motion modules animate an image (PIA), which has no place here yet; take others (v3_sd15_mm), or "
            "render with `animatediff animate ... --image`"
        )
    if adapter.img_encoder is not None:
        raise ValueError(
            "these motion modules start from an image (AnimateLCM-I2V), which has no place here yet; take "
            "AnimateLCM_sd15_t2v, or render with `animatediff animate ... --image`"
        )


def detach_ldm(unet: nn.Module) -> None:
    """Remove all hooks that `attach_ldm` set; without effect where there are none."""
    remove_hooks(unet)
    reset_compiled()


def layout_of_ldm(unet: nn.Module, *, mid_block: bool = False) -> MotionLayout:
    """One module at every place of the way down and up, and one in the middle where asked for and possible."""
    places = {name: tuple(map(layer_channels, layers)) for name, layers in ldm_points(unet)}
    mid = places.pop("mid_block", None)
    return MotionLayout(
        down=tuple(widths for name, widths in places.items() if name.startswith("down")),
        mid=mid[0] if mid and mid_block else None,
        up=tuple(widths for name, widths in places.items() if name.startswith("up")),
        norm_groups=next(ldm_image_norms(unet)).num_groups,
    )


def ldm_points(unet: Any) -> Iterator[tuple[str, list[nn.Module]]]:
    """Pairs of a block's name in diffusers' UNet and the layers here behind which its motion modules stand."""
    for side, blocks in (("down_blocks", unet.input_blocks), ("up_blocks", unet.output_blocks)):
        level: list[nn.Module] = []
        levels = [level]
        for block in blocks:
            if point := _point(block):
                level.append(point)
            if any(_is_sampler(layer) for layer in block) and level:
                level = []
                levels.append(level)
        for index, layers in enumerate(layers for layers in levels if layers):
            yield f"{side}.{index}", layers
    if unet.middle_block is not None and (point := _point(unet.middle_block, first=True)):
        yield "mid_block", [point]


def ldm_conv_in(unet: Any) -> nn.Module:
    """The first layer of the image model."""
    return unet.input_blocks[0][0]


def ldm_image_norms(unet: Any) -> Iterator[Any]:
    """The GroupNorms that v1 ran over all frames: two of each ResNet, and the last one; not those of transformers."""
    middle = [] if unet.middle_block is None else [unet.middle_block]
    for block in [*unet.input_blocks, *middle, *unet.output_blocks]:
        for layer in block:
            if _is_resnet(layer):
                yield layer.in_layers[0]
                yield layer.out_layers[0]
    yield unet.out[0]


def _point(block: Any, *, first: bool = False) -> nn.Module | None:
    """The layer of a sequence that a motion module stands behind: its last transformer, else its last ResNet."""
    transformers = [layer for layer in block if hasattr(layer, "transformer_blocks")]
    found = transformers or [layer for layer in block if _is_resnet(layer)]
    return (found[0] if first else found[-1]) if found else None


def _is_resnet(layer: Any) -> bool:
    return hasattr(layer, "in_layers") and hasattr(layer, "out_layers")


def _is_sampler(layer: Any) -> bool:
    """Whether a layer ends a level: a sampler by itself, or a ResNet that changes the size."""
    if _is_resnet(layer):
        return bool(getattr(layer, "updown", False))
    return type(layer).__name__ in ("Downsample", "Upsample")
