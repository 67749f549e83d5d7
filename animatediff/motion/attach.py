"""Plug motion modules into an image UNet, and take them out again, without changing the UNet.

Modules become children of its blocks (`block.motion_modules`) and are called by forward hooks: behind `attentions[i]`
where a block has attentions, behind `resnets[i]` where it has none, behind `attentions[0]` in the mid block. Hooks are
bound methods of the modules they call, so that a deep copy of the UNet calls its own copies.

| base model             | down           | mid | up              | modules | channels, block by block            |
|------------------------|----------------|-----|-----------------|---------|-------------------------------------|
| SD 1.x, 2.x            | 4 blocks of 2  | -   | 4 blocks of 3   | 20      | 320 640 1280 1280, 1280 1280 640 320 |
| the same, v2's layout  | 4 blocks of 2  | 1   | 4 blocks of 3   | 21      | the same, and 1280 between           |
| SDXL                   | 3 blocks of 2  | -   | 3 blocks of 3   | 15      | 320 640 1280, 1280 640 320           |

A block has one module for each ResNet: `layers_per_block` on the way down, one more on the way up. The first layer of
modules made for images is a child of the UNet itself (`motion_conv_in`), called behind `conv_in` (`first_layer.py`).
Their image encoder (`adapter.img_encoder`) is called before the UNet, and is no child of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from animatediff.motion.adapter import MotionAdapter, MotionLayout, block_points, mid_point
from animatediff.motion.first_layer import ImageConvIn, below_lora
from animatediff.motion.module import FrameContext, MotionModule

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_ATTACHMENT = "motion_attachment"
"""Attribute of a UNet with motion modules in it."""


@dataclass(frozen=True)
class Attachment:
    """A UNet with motion modules in it. Set `frames.num_frames` before each call of the UNet; until then they rest."""

    unet: UNet2DConditionModel
    adapter: MotionAdapter
    num_points: int

    @property
    def frames(self) -> FrameContext:
        """The context that all attached modules read."""
        return self.adapter.frames

    def detach(self) -> MotionAdapter:
        """Take the modules out; the UNet has exactly the keys and hooks it had before."""
        detach(self.unet)
        return self.adapter


class NormOverFrames:
    """Makes a GroupNorm of the image layers normalise all frames of a clip together, as in v1 and HotshotXL."""

    def __init__(self, frames: FrameContext) -> None:
        self.frames = frames

    def pre_hook(self, norm: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        """Forward pre-hook: (b*f, c, h, w) -> (b, c, f, h, w). Images that are no frames stay as they are."""
        if not self.frames.num_frames:
            return args[0]
        return rearrange(args[0], "(b f) c h w -> b c f h w", f=self.frames.num_frames)

    def hook(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook: (b, c, f, h, w) -> (b*f, c, h, w)."""
        if not self.frames.num_frames:
            return output
        return rearrange(output, "b c f h w -> (b f) c h w")


def attach(unet: UNet2DConditionModel, adapter: MotionAdapter) -> Attachment:
    """Call the modules of `adapter` from `unet`; its own parameters, names and classes stay as they are.

    Everything is checked before anything is changed. Raises ValueError if the UNet has motion modules already, or if
    its blocks do not have the places and widths that the adapter was made for.

    Side effect: torch.compile does not notice hooks that come or go, so its cache is reset, for the whole process;
    models that were compiled before are compiled again when they are next called.
    """
    if is_attached(unet):
        raise ValueError("this UNet already has motion modules; detach them before attaching others")
    check_layout(adapter, MotionLayout.from_unet(unet, mid_block=adapter.layout.mid is not None))
    check_conv_in(adapter, unet.conv_in)
    points: dict[str, list[nn.Module]] = {}
    for name, modules in adapter.modules_by_block():
        block = unet.get_submodule(name)
        block.motion_modules = modules
        points[name] = mid_point(block) if name == "mid_block" else block_points(block)
    if adapter.conv_in is not None:
        unet.motion_conv_in = adapter.conv_in
    set_hooks(adapter, points, image_norms(unet), below_lora(unet.conv_in))
    reset_compiled()
    return remember(unet, adapter)


def check_layout(adapter: MotionAdapter, places: MotionLayout) -> None:
    """Raise ValueError unless modules of `adapter` have the places and widths that a UNet has."""
    if not adapter.layout.stands_as(places):
        raise ValueError(
            f"these motion modules do not fit this UNet: they are ({adapter.layout}), its blocks are ({places}); "
            "a motion module runs on the kind of base model it was trained on"
        )


def check_conv_in(adapter: MotionAdapter, conv_in: nn.Module) -> None:
    """Raise ValueError unless the first layer of `adapter`, if it has one, fits that of a UNet."""
    own = adapter.conv_in
    if own is None:
        return
    theirs: Any = below_lora(conv_in)
    wanted = (theirs.in_channels, theirs.out_channels, theirs.kernel_size)
    if (own.num_noise, own.out_channels, own.kernel_size) != wanted:
        raise ValueError(
            f"these motion modules have a first layer for {own.num_noise} channels of noisy latents, of width "
            f"{own.out_channels}; that of this UNet takes {theirs.in_channels}, of width {theirs.out_channels}"
        )


def set_hooks(
    adapter: MotionAdapter,
    points: Mapping[str, Sequence[nn.Module]],
    norms: Iterable[nn.Module],
    conv_in: nn.Module | None = None,
) -> int:
    """Call each module behind its layer, and let `norms` see all frames where the family wants it; the modules' number.

    points: name of a block -> its layers, one for each of its modules. norms: the GroupNorms of the image layers.
    conv_in: their first layer, of modules that have one of their own.
    """
    num_points = 0
    for name, modules in adapter.modules_by_block():
        for layer, module in zip(points[name], modules, strict=True):
            assert isinstance(module, MotionModule)
            layer.register_forward_hook(module.hook)
            num_points += 1
    assert num_points == len(adapter.layout), f"{num_points} of {len(adapter.layout)} motion modules found their place"
    if adapter.conv_in is not None:
        assert conv_in is not None, "modules with a first layer need the image model's"
        conv_in.register_forward_hook(adapter.conv_in.hook)
    if adapter.numerics.image_norm_over_frames:
        over_frames = NormOverFrames(adapter.frames)
        for norm in norms:
            norm.register_forward_pre_hook(over_frames.pre_hook)
            norm.register_forward_hook(over_frames.hook)
    return num_points


def remember(unet: UNet2DConditionModel, adapter: MotionAdapter) -> Attachment:
    """Note modules as those of `unet`. By itself nothing calls them: enough for checks, which need no weights."""
    attachment = Attachment(unet, adapter, len(adapter.layout))
    setattr(unet, _ATTACHMENT, attachment)
    return attachment


def detach(unet: UNet2DConditionModel) -> None:
    """Take all motion modules out of `unet`, also out of a deep copy of a UNet they were attached to.

    Resets torch.compile's cache, as `attach` does.
    """
    remove_hooks(unet)
    for block in _blocks(unet):
        if hasattr(block, "motion_modules"):
            del block.motion_modules
    if hasattr(unet, "motion_conv_in"):
        del unet.motion_conv_in
    if hasattr(unet, _ATTACHMENT):
        delattr(unet, _ATTACHMENT)
    reset_compiled()


def remove_hooks(model: nn.Module) -> None:
    """Remove every hook that calls motion modules, or norms over frames, from the layers of `model`."""
    for layer in model.modules():
        for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
                del hooks[key]


def has_hooks(model: nn.Module) -> bool:
    """Whether a layer of `model` calls motion modules, or norms over frames."""
    return any(
        _is_ours(hook)
        for layer in model.modules()
        for hook in (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    )


def is_attached(unet: UNet2DConditionModel) -> bool:
    """Whether `unet` has motion modules in it."""
    return any(hasattr(block, "motion_modules") for block in _blocks(unet))


def attachment_of(unet: UNet2DConditionModel) -> Attachment | None:
    """The motion modules in `unet`, whoever put them there; None where there are none."""
    return getattr(unet, _ATTACHMENT, None)


def frames_of(unet: UNet2DConditionModel) -> FrameContext:
    """The context that the modules attached to `unet` read; a deep copy of a UNet has its own."""
    for module in unet.modules():
        if isinstance(module, MotionModule):
            return module.frames
    raise ValueError("this UNet has no motion modules; attach them first")


def norms_over_frames(unet: nn.Module) -> bool:
    """Whether GroupNorms of the image layers normalise all frames of a clip together, as v1's do once attached."""
    hooks = (hook for layer in unet.modules() for hook in layer._forward_pre_hooks.values())
    return any(isinstance(getattr(hook, "__self__", None), NormOverFrames) for hook in hooks)


def image_norms(unet: UNet2DConditionModel) -> Iterator[nn.Module]:
    """The GroupNorms that v1 ran over all frames: those of the ResNets and the last one; not those of attentions."""
    for block in _blocks(unet):
        for resnet in block.resnets:  # pyright: ignore[reportGeneralTypeIssues]
            yield resnet.norm1
            yield resnet.norm2
    if unet.conv_norm_out is not None:
        yield unet.conv_norm_out


def _blocks(unet: UNet2DConditionModel) -> Iterator[nn.Module]:
    yield from unet.down_blocks
    if unet.mid_block is not None:
        yield unet.mid_block
    yield from unet.up_blocks


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), MotionModule | NormOverFrames | ImageConvIn)


def reset_compiled() -> None:
    """Empty torch.compile's cache, if it was used at all."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
