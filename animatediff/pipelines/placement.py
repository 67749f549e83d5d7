"""Where the weights of a pipeline are: on the device, there while they work, or layer by layer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from animatediff.memory.measures import AWAY, DEVICE, GROUP, MODEL, PLACES, InUse, Measures
from animatediff.sampling.repeat import let_go

logger = logging.getLogger(__name__)

_PLACE, _DEVICE = "memory_place", "memory_device"
"""Attributes of a pipeline: where it was placed by `place`, and the device that it is to compute on."""


def compute_on(pipe: Any, device: torch.device | str) -> None:
    """Let a pipeline compute on a device; its weights go there when the first clip says how (`place`)."""
    vars(pipe)[_DEVICE] = torch.device(device)


def device_of(pipe: Any) -> torch.device:
    """The device that a pipeline computes on, or will."""
    found = vars(pipe).get(_DEVICE)
    if found is not None:
        return found
    device: Any = pipe.base._execution_device
    return torch.device("cpu") if device.type == "meta" else device


def forget_place(pipe: Any) -> None:
    """Take the weights to be where a user has put them now."""
    vars(pipe).pop(_DEVICE, None)
    vars(pipe).pop(_PLACE, None)


def chosen_place(pipe: Any) -> str | None:
    """The level of the weights that a user chose, by an offload of diffusers or a device; None where it is ours."""
    base: Any = pipe.base
    if vars(pipe).get(_DEVICE) is not None:
        return None
    if any(hasattr(layer, "_diffusers_hook") for layer in pipe.unet.modules()):
        return GROUP
    if getattr(base, "_all_hooks", None):
        return MODEL
    return GROUP if hasattr(pipe.unet, "_hf_hook") else None


def can_move(pipe: Any) -> bool:
    """Whether weights can leave the device: it has memory of its own, and no user chose where they are."""
    return device_of(pipe).type not in ("cpu", "mps", "meta") and chosen_place(pipe) is None


def place(pipe: Any, measures: Measures) -> None:
    """Bring the weights of a pipeline to where the measures want them. A user's own offload stays."""
    device, before = device_of(pipe), vars(pipe).get(_PLACE, (None, False))
    wanted = (measures.weights, measures.fp8 or before[1])
    if wanted == before or (chosen_place(pipe) is not None and not measures.fp8):
        return
    base: Any = pipe.base
    if measures.fp8 and not before[1]:
        pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=pipe.unet.dtype)
    if before[0] == GROUP:  # hooks of layers cannot be taken off one by one
        return
    if can_move(pipe):
        base.remove_all_hooks()
        if measures.weights == DEVICE:
            pipe.to(device)
        elif measures.weights == GROUP:
            pipe.to("cpu")
            base.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
        else:
            stays = ["unet"] if measures.weights == AWAY else []
            base._exclude_from_cpu_offload = [*type(base)._exclude_from_cpu_offload, *stays]
            order = [name for name in type(base).model_cpu_offload_seq.split("->") if name not in stays]
            base.model_cpu_offload_seq = "->".join(order)
            base.enable_model_cpu_offload(device=device)
        vars(pipe)[_DEVICE] = device
        let_go()
    vars(pipe)[_PLACE] = wanted


def vae_away(pipe: Any) -> None:
    """Let a VAE that has encoded images leave the device before the UNet works, where models are offloaded."""
    for hook in getattr(pipe.base, "_all_hooks", ()):
        if hook.model is pipe.vae:
            hook.offload()


def next_place(pipe: Any, saving: InUse) -> Measures | None:
    """Place the weights one level further down, where the device ran out of memory; None where that is not possible."""
    levels = PLACES[PLACES.index(saving.measures.weights) + 1 :]
    if not can_move(pipe) or not levels:
        return None
    saving.measures = replace(saving.measures, weights=levels[0])
    place(pipe, saving.measures)
    return saving.measures
