"""MotionLoRAs in the motion modules of one generation: added to the weights of a copy, so that nothing is undone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.motion import MotionAdapter
from animatediff.weights.lora.layers import LayerChange
from animatediff.weights.lora.load import motion_lora_changes


@torch.no_grad()
def add_motion_loras(adapter: MotionAdapter, strengths: Mapping[Path, float]) -> None:
    """Add what MotionLoRAs change, of any method that LoRA files have, to the weights of `adapter`.

    Layers of a mid block that the modules do not have are left out, as their authors do with v1 and v3. Raises
    UserError as `load_lora`, with `adapter` unchanged.
    """
    sums: dict[str, tuple[Tensor, Tensor | None]] = {}
    for path, strength in strengths.items():
        for change in motion_lora_changes(path, adapter):
            weight, bias = _added(adapter.get_submodule(change.path), change, strength)
            other_weight, other_bias = sums.get(change.path, (torch.zeros(()), None))
            biases = [part for part in (bias, other_bias) if part is not None]
            sums[change.path] = weight + other_weight, sum(biases[1:], biases[0]) if biases else None
    for path, (weight, bias) in sums.items():
        layer: Any = adapter.get_submodule(path)
        layer.weight.copy_((layer.weight.float() + weight).to(layer.weight.dtype))
        if bias is not None and layer.bias is None:
            layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)
        elif bias is not None:
            layer.bias.copy_((layer.bias.float() + bias).to(layer.bias.dtype))


def _added(layer: Any, change: LayerChange, strength: float) -> tuple[Tensor, Tensor | None]:
    """What one LoRA adds to weight and bias of a layer, float32.

    strength * alpha / rank * up @ down, or the whole change; a DoRA (arXiv 2402.09353, eq. 5) stretches the rows of the
    weight to its magnitudes with that in them, unless its strength is 0.
    """
    bias = None if change.bias is None else change.bias.float().flatten() * strength
    if change.pair is None:
        return (torch.zeros(()) if change.weight is None else change.weight.float() * strength), bias
    down, up = (half.float().flatten(1) for half in change.pair)
    by = change.alpha / change.rank
    low = (up @ down).reshape(layer.weight.shape) * (strength * by)
    bias = None if bias is None else bias * by
    if change.magnitude is None or strength == 0:
        return low, bias
    weight = layer.weight.float()
    whole = weight + low
    factor = change.magnitude.float().flatten() / whole.flatten(1).norm(dim=1)
    stretched = whole * factor.reshape(-1, *(1 for _ in whole.shape[1:]))
    return stretched - weight, None if bias is None else bias * factor
