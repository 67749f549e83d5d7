"""How convolutions lie in memory: the one place that decides it, by device and number format.

Measured (`python benchmarks/layers.py`, and `make bench-gpu`):

| where | a 3x3 convolution in channels_last takes |
|---|---|
| CPU with AMX, bfloat16 | 0.55 to 0.9 of the time in UNets, 0.2 to 0.45 in VAEs |
| CPU without AMX, bfloat16 | the same |
| CPU, float32 | up to 1.5 times the time |
| GPU, float16 | 1.1 times the time |
"""

from __future__ import annotations

import torch
from torch import nn

NARROW = (torch.bfloat16, torch.float16)


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """The layout in which convolutions are fastest."""
    return torch.channels_last if device.type == "cpu" and dtype in NARROW else torch.contiguous_format


def lay_out(model: nn.Module) -> None:
    """Bring the weights of convolutions into the fastest layout, where it is not the one of files; values stay.

    Feature maps take theirs from the weights. What is laid out already, by us or by a user, stays so.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        weight = layer.weight
        wanted = memory_format(weight.device, weight.dtype)
        if wanted == torch.channels_last and weight.grad is None and not weight.is_inference():
            weight.data = weight.data.to(memory_format=wanted)
