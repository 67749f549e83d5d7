"""Settings of a call about attention, and what conditions contribute to each group of its clips."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.conditions import Condition, PreparedConditions, Setting, prepare_all
from animatediff.pipelines.conditions.ip_adapter import num_adapters
from animatediff.pipelines.placement import vae_away
from animatediff.pipelines.prompts import empty_prompt
from animatediff.sampling.conditions import Conditioning
from animatediff.sampling.perturbed import PAG, perturbed_layers

if TYPE_CHECKING:
    from animatediff.pipelines.job import Job
    from animatediff.pipelines.output import Callbacks
    from animatediff.pipelines.parts import LoadedParts
    from animatediff.sampling import Schedule

logger = logging.getLogger(__name__)

PAG_SCALE = 3.0
"""As in diffusers."""
PAG_LAYERS = ("mid_block.*attn1",)


def pag_of(call: Arguments, parts: LoadedParts) -> PAG | None:
    """Perturbed-attention guidance of a call; None where it is off. Raises UserError for layers that are not there."""
    named = parts.pag_applied_layers
    scale = call.pag_scale if call.pag_scale is not None else PAG_SCALE if named else 0.0
    if not scale:
        return None
    layers = perturbed_layers(parts.unet, named or PAG_LAYERS)
    return PAG(layers=layers, scale=scale, adaptive_scale=call.pag_adaptive_scale)


def attention_arguments(call: Arguments, unet: Any) -> tuple[float, Mapping[str, Any] | None]:
    """Factor of all LoRAs, and what goes to the attention processors. Raises UserError for what none of them takes."""
    given = dict(call.cross_attention_kwargs or {})
    factor = given.pop("scale", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor != factor:
        raise UserError(f"`cross_attention_kwargs`: scale is a number, the factor of all LoRAs; got {factor!r}")
    if factor != 1 and not getattr(unet, "peft_config", None):
        logger.warning("`cross_attention_kwargs` has no effect: scale=%g is of LoRAs, and none is loaded", factor)
    if "ip_adapter_masks" in given:
        given["ip_adapter_masks"] = _masks(given["ip_adapter_masks"], num_adapters(unet))
    known = {"scale", "ip_adapter_masks", *_taken(unet)}
    for name in given:
        if name not in known:
            raise UserError(
                f"`cross_attention_kwargs`: no attention processor of this model takes {name!r}; known are "
                f"{', '.join(sorted(known))}"
            )
    return float(factor), given or None


def loras_times(factor: float, models: Sequence[torch.nn.Module]) -> AbstractContextManager[None]:
    """Multiply the strengths of all LoRAs for a while."""
    if factor == 1:
        return nullcontext()
    from animatediff.weights.lora.layers import lora_factor

    return lora_factor(models, factor)


def setting_of(
    parts: LoadedParts, job: Job, schedule: Schedule, noise: Tensor, device: torch.device, callbacks: Callbacks
) -> Setting:
    """The circumstances in which the conditions of a job are prepared."""
    size = (job.clip.height, job.clip.width)
    return Setting(
        parts=parts,
        clip=job.clip,
        schedule=schedule,
        noise=noise,
        generators=job.generators,
        guidance=job.guidance,
        empty_prompt=lambda count: empty_prompt(parts.base, job.call, count, size, device),
        device=device,
        callbacks=callbacks,
    )


def prepare_for(
    groups: Sequence[Conditioning],
    conditions: Sequence[Condition],
    setting: Setting,
    attention: Mapping[str, Any] | None,
) -> PreparedConditions:
    """Prepare conditions, and give groups of clips their parts of them. attention: arguments of its processors."""
    prepared = prepare_all(conditions, setting)
    vae_away(setting.parts)
    check_masks(attention, prepared.image_embeds)
    num_clips, rows = setting.clip.num_clips, 1 + setting.guidance
    for group in groups:
        of_clips = [clip + num_clips * row for row in range(rows) for clip in group.own]
        group.image_embeds = [part[of_clips] for part in prepared.image_embeds]
        if prepared.image_channels is not None:  # the same for both halves of guidance
            group.image_channels = prepared.image_channels[list(group.own) * rows]
    return prepared


def on_unet(given: Mapping[str, Any] | None, unet: Any) -> Mapping[str, Any] | None:
    """Arguments of attention processors where the UNet computes."""
    if given is None:
        return None

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return value.to(unet.device, unet.dtype) if isinstance(value, Tensor) else value

    return {name: moved(value) for name, value in given.items()}


def check_masks(given: Mapping[str, Any] | None, image_embeds: Sequence[Tensor]) -> None:
    """Raise UserError unless an IP-Adapter has a mask for each of its images."""
    for place, mask in enumerate((given or {}).get("ip_adapter_masks", ())):
        images = image_embeds[place].shape[2]
        if mask.shape[1] != images:
            raise UserError(
                f"`cross_attention_kwargs`: ip_adapter_masks has {mask.shape[1]} masks for IP-Adapter {place}, which "
                f"has {images} images; give one an image"
            )


def _taken(unet: Any) -> set[str]:
    """Arguments of attention processors beside those of every call."""
    usual = {
        "self",
        "attn",
        "hidden_states",
        "encoder_hidden_states",
        "attention_mask",
        "temb",
        "args",
        "kwargs",
        "scale",
    }
    found: set[str] = set()
    for kind in {type(processor) for processor in unet.attn_processors.values()}:
        call = kind.forward if issubclass(kind, torch.nn.Module) else kind.__call__
        found |= set(inspect.signature(call).parameters)
    return found - usual


def _masks(given: Any, adapters: int) -> list[Tensor]:
    """One tensor (1, images, h, w) an IP-Adapter."""
    if not adapters:
        raise UserError("`cross_attention_kwargs`: ip_adapter_masks are given, but no IP-Adapter that they limit")
    masks = [given] if isinstance(given, Tensor) and given.ndim == 4 and adapters == 1 else list(given)
    masks = [mask[None] if isinstance(mask, Tensor) and mask.ndim == 3 else mask for mask in masks]
    fits = all(isinstance(mask, Tensor) and mask.ndim == 4 and len(mask) == 1 for mask in masks)
    if not fits or len(masks) != adapters:
        raise UserError(
            f"`cross_attention_kwargs`: ip_adapter_masks is a list of {adapters} tensors (1, images, h, w), one an "
            "IP-Adapter; IPAdapterMaskProcessor of diffusers makes them"
        )
    return masks
