"""The domain adapter: a LoRA of the image layers, which takes the look of the training videos from the motion module.

It is one that the host adds to its UNet as it does other LoRAs; the names in its files are what the host does not read.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.lora
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from animatediff.errors import UserError
from animatediff.weights.lora.layers import LayerChange
from animatediff.weights.lora.match import FileLayer, read_layers
from animatediff.weights.storage.files import load_tensors

from .motion import change_patches, lora_of_kind

KINDS = ("domain_adapter", "lora")


def check_adapter(path: Path) -> None:
    """Raise UserError for a file that is no domain adapter; reads its header alone."""
    lora_of_kind(path, *KINDS)


def with_adapter(model: ModelPatcher, path: Path, strength: float) -> ModelPatcher:
    """A clone of a MODEL with a domain adapter at this strength.

    Raises UserError for another kind of file, and for a layer that the model does not have, or has in another size.
    """
    header, _ = lora_of_kind(path, *KINDS)
    tensors = load_tensors(header)
    layers = read_layers(tensors, name=str(path), metadata=header.metadata, layers_per_block=_per_block(model))
    patched = model.clone()
    known = comfy.lora.model_lora_keys_unet(patched.model, {})
    shapes = {key: tuple(value.shape) for key, value in patched.model_state_dict().items()}
    patches: dict[str, Any] = {}
    for layer in layers:
        key = known.get(f"lora_unet_{layer.module}") if layer.place == "unet" else None
        if key is None:
            raise UserError(
                f"{path}: {layer.key} has no place in this model's UNet: a domain adapter belongs to the kind of base "
                "model it was trained on, and other LoRAs go into Load LoRA (`loras`)"
            )
        patches |= dict(change_patches(_change(layer, shapes[key], path), key.removesuffix(".weight")))
    missed = patches.keys() - set(patched.add_patches(patches, strength))
    assert not missed, f"layers of the model that the host does not find: {sorted(missed)[:3]}"
    return patched


def _change(layer: FileLayer, shape: tuple[int, ...], path: Path) -> LayerChange:
    pair = layer.pair
    if pair is None or layer.parts:
        raise UserError(f"{path}: {layer.key} is of no plain LoRA; such files go into Load LoRA (`loras`)")
    down, up = pair.down, pair.up
    if (up.shape[0], *_inputs(down)) != (shape[0], *[side for side in shape[1:] if side != 1]):
        raise UserError(
            f"{path}: {layer.key} has shape {tuple(down.shape)}, its `up` {tuple(up.shape)}, but the layer it is for "
            f"has {shape}; the domain adapter is for another base model"
        )
    return LayerChange(path=layer.module, pair=(down, up), alpha=pair.alpha)


def _inputs(down: Tensor) -> list[int]:
    return [side for side in down.shape[1:] if side != 1]


def _per_block(model: ModelPatcher) -> int:
    """ResNets of each level of the UNet."""
    number = model.model.model_config.unet_config.get("num_res_blocks", 2)
    return number if isinstance(number, int) else max(number)
