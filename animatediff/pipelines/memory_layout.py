"""How convolutions lie in memory: the one place that decides it, by device, number format and model.

A 3x3 convolution in channels_last against the layout of files (`python benchmarks/layers.py layout`, one thread):

| CPU | number format | UNet: 320, 640, 1280 channels | VAE: 512, 256, 128 channels |
|---|---|---|---|
| with AMX | bfloat16 | 0.58 0.62 0.77 | 0.49 0.32 0.23 |
| with AVX-512, no AMX | bfloat16 | 1.01 0.94 1.21 | 0.88 1.00 0.62 |
| with AVX-512 | float16 | 0.94 0.97 0.97 | 0.90 0.81 0.65 |
| | float32 | 0.93 0.92 1.38 | 1.03 0.90 0.81 |
| with AVX2 | float32 | 0.93 0.95 1.21 | 1.04 0.95 0.84 |

A step on a GPU in float16 took 1.1 times as long in channels_last.
"""

from __future__ import annotations

import torch
from torch import nn

NARROW = (torch.bfloat16, torch.float16)


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """The layout in which the convolutions of a UNet are fastest; VAEs take theirs from what is given to them."""
    last = device.type == "cpu" and dtype in NARROW
    return torch.channels_last if last else torch.contiguous_format


def lay_out(unet: nn.Module) -> None:
    """Bring the weights of convolutions into the fastest layout, where it is not the one of files; values stay.

    Feature maps take theirs from the weights. What is laid out already, by us or by a user, stays so.
    """
    for layer in unet.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        weight = layer.weight
        wanted = memory_format(weight.device, weight.dtype)
        if wanted == torch.channels_last and weight.grad is None and not weight.is_inference():
            weight.data = weight.data.to(memory_format=wanted)
