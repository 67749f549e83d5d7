"""Networks of ours as models of the host: it loads, offloads and frees their weights, and casts them where they act."""

# pyright: reportMissingImports=false

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import nn

from animatediff.motion import ImageConvIn


class HostImageConvIn(ImageConvIn, comfy.ops.manual_cast.Conv2d):
    """PIA's first layer, which brings its weights to what it takes."""


class Holder(nn.Module):
    """A network as the child of a module that the host may give attributes: its own `device` is read-only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


HOST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: comfy.ops.manual_cast.Linear,
    nn.Conv2d: comfy.ops.manual_cast.Conv2d,
    nn.GroupNorm: comfy.ops.manual_cast.GroupNorm,
    nn.LayerNorm: comfy.ops.manual_cast.LayerNorm,
    ImageConvIn: HostImageConvIn,
}


def weight_dtype() -> torch.dtype:
    """The type in which weights are kept: that of the host for its UNets, but never of 8 bits.

    So LoRAs are added in float32 where the host computes in it, whatever the file has.
    """
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device)
    if dtype.itemsize > 1:
        return dtype
    return comfy.model_management.unet_manual_cast(dtype, device) or torch.float32


def in_host(network: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """A patcher of the host round a network with weights.

    Its plain layers become the host's, which are subclasses and compute the same. These bring their weights to the type
    and device of what they take, at each call: so the network follows the type in which the image model computes
    (which is another than that of its weights where these are fp8), may lie anywhere (offloaded, or in the host's
    dynamic memory), and its weights are read by the host alone.
    """
    for layer in network.modules():
        if type(layer) in HOST_LAYERS:
            layer.__class__ = HOST_LAYERS[type(layer)]
    comfy.model_management.archive_model_dtypes(network)
    return comfy.model_patcher.CoreModelPatcher(
        network,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
