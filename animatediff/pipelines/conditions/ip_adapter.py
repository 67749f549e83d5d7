"""IP-Adapters (arXiv 2308.06721): images for the whole clip, or going from one to the next along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import neighbours
from animatediff.pipelines.argument_types import told
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting, at_frames

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class IPAdapterCondition(Condition):
    """Images for the loaded IP-Adapters: the call's own, or those that the clip shows."""

    given: Any = None
    """Images as the call has them; None where the adapter goes through `shown` with the clip."""
    shown: Mapping[int, Image.Image] | None = None
    """Images by frame."""
    embeds: Sequence[Tensor] | None = None
    """Image embeddings as the call has them, one tensor an adapter."""
    each: int = 1
    """Clips of each prompt."""

    @classmethod
    def of(cls, call: Arguments, unet: Any, shown: Mapping[int, Image.Image] | None) -> IPAdapterCondition | None:
        """The images of a call for its IP-Adapters. Raises UserError for images without an adapter, and vice versa."""
        if call.ip_adapter_image_embeds is not None:
            return cls._of_embeds(call, num_adapters(unet), unet)
        if call.ip_adapter_image is None and shown is not None and has_ip_adapter(unet):
            return cls(shown=shown)
        adapters = num_adapters(unet)
        if adapters and call.ip_adapter_image is None:
            raise UserError(
                "an IP-Adapter is loaded, so a call needs ip_adapter_image or ip_adapter_image_embeds; or call "
                "unload_ip_adapter()"
            )
        if call.ip_adapter_image is None:
            return None
        if not adapters:
            raise UserError("ip_adapter_image is given, but no IP-Adapter that reads it; call load_ip_adapter_file")
        return cls(given=by_adapter(call.ip_adapter_image, adapters))

    @classmethod
    def _of_embeds(cls, call: Arguments, adapters: int, unet: Any) -> IPAdapterCondition:
        embeds = list(call.ip_adapter_image_embeds or ())
        if call.ip_adapter_image is not None:
            raise UserError("`ip_adapter_image` and `ip_adapter_image_embeds` are given; give one of the two")
        if not adapters:
            raise UserError(
                "`ip_adapter_image_embeds` are given, but no IP-Adapter that reads them; call load_ip_adapter_file"
            )
        if len(embeds) != adapters:
            raise UserError(f"{adapters} IP-Adapters want `ip_adapter_image_embeds` of {adapters}, got {len(embeds)}")
        for place, (one, layer) in enumerate(zip(embeds, unet.encoder_hid_proj.image_projection_layers, strict=True)):
            taken = _width(layer)
            if one.ndim not in (3, 4) or (taken is not None and one.shape[-1] != taken):
                raise UserError(
                    f"`ip_adapter_image_embeds`: tensor {place} is {tuple(one.shape)}; expected (b, images, ...) of "
                    f"width {taken or 'that the adapter takes'}, with guidance behind as many negative ones"
                )
        return cls(embeds=embeds, each=call.num_videos_per_prompt or 1)

    def fitted(self, clip: ClipShape) -> Self:
        if self.shown is None:
            return self
        return replace(self, shown=at_frames(self.shown, clip.num_frames))

    def prepare(self, setting: Setting) -> Prepared:
        clip, base = setting.clip, setting.parts.base
        if self.embeds is not None:
            embeds = given_embeds(
                self.embeds, clip.num_clips, self.each, guidance=setting.guidance, like=setting.parts.unet
            )
        elif self.shown is not None:
            embeds = travelling_embeds(
                base, self.shown, clip.num_frames, clip.num_clips, guidance=setting.guidance, device=setting.device
            )
        else:
            embeds = image_embeds(base, self.given, clip.num_clips, guidance=setting.guidance, device=setting.device)
        return Prepared(image_embeds=embeds)


def has_ip_adapter(unet: Any) -> bool:
    """Whether an IP-Adapter is loaded."""
    if getattr(unet, "encoder_hid_proj", None) is None:
        return False
    # diffusers sets the attribute of a configuration that is frozen, and its item stays as it was
    return getattr(unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"


def num_adapters(unet: Any) -> int:
    """IP-Adapters that are loaded."""
    return len(unet.encoder_hid_proj.image_projection_layers) if has_ip_adapter(unet) else 0


def by_adapter(images: Any, adapters: int) -> list[Any]:
    """Images as a list with an entry an adapter. Raises UserError where they are not as many.

    images: PIL, one or several for a single adapter, else a list with an entry an adapter.
    """
    given = list(images) if isinstance(images, Sequence) else [images]
    if adapters == 1:
        given = [given[0] if len(given) == 1 and isinstance(given[0], list) else given]
    if len(given) != adapters or (isinstance(given[0], Sequence) and not given[0]):
        raise UserError(f"{adapters} IP-Adapters want ip_adapter_image with as many entries, got {len(given)}")
    for one in given:
        for image in one if isinstance(one, list) else [one]:
            if not isinstance(image, Image.Image | np.ndarray | Tensor):
                raise UserError(f"ip_adapter_image takes PIL images, arrays and tensors, got {told(image)}")
    return given


def image_embeds(base: Any, given: list[Any], num_clips: int, *, guidance: bool, device: torch.device) -> list[Tensor]:
    """Image embeddings, one tensor an adapter: (b, 1, ...), with guidance the negative ones first."""
    embeds = base.prepare_ip_adapter_image_embeds(given, None, device, num_clips, guidance)
    return [embed.unsqueeze(1) for embed in embeds]


def given_embeds(embeds: Sequence[Tensor], num_clips: int, each: int, *, guidance: bool, like: Any) -> list[Tensor]:
    """Image embeddings of a call, (b, 1, ...) for each adapter, with guidance the negative ones first.

    Raises UserError for other numbers of rows.
    """
    found: list[Tensor] = []
    for one in embeds:
        halves = one.chunk(2) if guidance and len(one) % 2 == 0 else (one,)
        rows, wanted = len(halves[0]), {1, num_clips // each, num_clips}
        if len(halves) != 1 + guidance or rows not in wanted:
            raise UserError(
                f"`ip_adapter_image_embeds` have {len(one)} rows; expected 1"
                + (
                    f" or {num_clips // each}, and as many negative ones before them"
                    if guidance
                    else f" or {num_clips}"
                )
            )
        spread = [half.repeat_interleave(num_clips // rows, 0) for half in halves]
        found.append(torch.cat(spread).unsqueeze(1).to(like.device, like.dtype))
    return found


def _width(layer: Any) -> int | None:
    """Width of the embeddings that an image projection takes, as far as it says."""
    for name in ("image_embeds", "proj_in", "proj"):
        linear = getattr(layer, name, None)
        if (width := getattr(linear, "in_features", None)) is not None:
            return width
    return None


def travelling_embeds(
    base: Any, images: Mapping[int, Image.Image], num_frames: int, num_clips: int, *, guidance: bool, device: Any
) -> list[Tensor]:
    """Embeddings of one adapter for images at frames, (b, 1 or f, ...): in between they are mixed."""
    embeds = [
        image_embeds(base, by_adapter(i, 1), num_clips, guidance=guidance, device=device)[0] for i in images.values()
    ]
    if len(embeds) == 1:
        return embeds
    before, after, fraction = zip(*neighbours(list(images), num_frames), strict=True)
    stacked = torch.cat(embeds, dim=1)  # (b, n, ...)
    weight = torch.tensor(fraction, dtype=torch.float32).to(device, stacked.dtype)
    weight = weight.view(1, -1, *[1] * (stacked.ndim - 2))
    return [torch.lerp(stacked[:, list(before)], stacked[:, list(after)], weight)]
