"""MotionLoRAs in the motion modules of one generation: added to the weights of a copy, so that nothing is undone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.weights.lora.pairs import read_pairs
from animatediff.weights.storage.files import load_tensors, read_header

logger = logging.getLogger(__name__)


@torch.no_grad()
def add_motion_loras(adapter: MotionAdapter, strengths: Mapping[Path, float]) -> None:
    """Add low-rank changes to the weights of `adapter`: strength * alpha / rank * up @ down.

    Layers of a mid block that the modules do not have are left out, as their authors do with v1 and v3. Raises
    UserError, with `adapter` unchanged, for other methods than low-rank pairs and for layers that do not fit.
    """
    layers = {name.replace(".", "_"): layer for name, layer in adapter.named_modules()}
    changes = []
    for path, strength in strengths.items():
        header = read_header(path)
        for pair in read_pairs(load_tensors(header), name=str(path), metadata=header.metadata):
            layer = layers.get(pair.module)
            if layer is None and pair.module.startswith("mid_block_") and adapter.mid_block is None:
                continue
            weight = getattr(layer, "weight", None)
            change = pair.up.float().flatten(1) @ pair.down.float().flatten(1)
            if not isinstance(weight, torch.Tensor) or weight.shape != change.shape:
                raise UserError(f"{path}: {pair.key} does not fit these motion modules; it was made for others")
            changes.append((weight, change * (strength * pair.alpha / pair.rank)))
    for weight, change in changes:
        weight.copy_((weight.float() + change).to(weight.dtype))
