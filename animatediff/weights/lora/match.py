"""Layers of a LoRA file on the layers of a live model: which changes which, and with what tensors.

Everything is checked here, before the first layer is touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.weights.fit import leave_out, some
from animatediff.weights.lora.deltas import layer_delta, per_input
from animatediff.weights.lora.layers import LayerChange, changeable
from animatediff.weights.lora.methods import sort_keys
from animatediff.weights.lora.pairs import Kind, Pair, Place, read_pairs, spell

logger = logging.getLogger(__name__)

_INSIDE_PEFT = re.compile(
    r"\.(base_layer|lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_dropout|lora_magnitude_vector)(\.|$)"
)
_BESIDE_A_PAIR = {"bias", "scalar", "scale", "lora_mid"}
"""Parts that say nothing without the low-rank pair, or the other factors, that they belong to."""


@dataclass(kw_only=True)
class FileLayer:
    """All that a LoRA file says of one layer."""

    place: Place
    module: str
    """Path of the module with underscores for dots, in diffusers' names."""
    key: str
    """First key of the layer in the file, for messages."""
    pair: Pair | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Tensors beside a low-rank pair, by the names of `methods.py`."""
    alpha: float | None = None
    """As stated, for other methods than pairs."""


def read_layers(
    tensors: Mapping[str, Tensor], *, name: str, metadata: Mapping[str, str], layers_per_block: int
) -> list[FileLayer]:
    """All layers of a LoRA file called `name`, in its order; a warning names what is left out.

    Raises UserError as `read_pairs`.
    """
    found = sort_keys(tensors)
    unknown: list[str] = []
    rest = {key: tensors[key] for key in found.rest}
    pairs = read_pairs(rest, name=name, metadata=metadata, layers_per_block=layers_per_block, unknown=unknown)
    layers: dict[tuple[Place, str], FileLayer] = {}
    for pair in pairs:
        if pair.down.numel() and pair.up.numel():
            layers[pair.place, pair.module] = FileLayer(place=pair.place, module=pair.module, key=pair.key, pair=pair)
        else:
            unknown.append(pair.key)
    for module, keys in found.layers.items():
        place, spelled = spell(module, layers_per_block=layers_per_block)
        first = next(iter(keys.values()))
        layer = layers.get((place, spelled))
        if layer is None and keys.keys() <= _BESIDE_A_PAIR:
            if "lora_mid" in keys:
                raise UserError(f"{name}: {first} has no `lora_down` and `lora_up` beside it; the file is incomplete")
            unknown.extend(keys.values())
            continue
        if layer is None:
            layer = layers.setdefault((place, spelled), FileLayer(place=place, module=spelled, key=first))
        layer.parts |= {part: tensors[key] for part, key in keys.items()}
        stated = tensors.get(f"{module}.alpha")
        layer.alpha = None if stated is None or stated.numel() != 1 else float(stated)
    leave_out(unknown, path=name, model="LoRA")
    return list(layers.values())


def match(
    layers: Sequence[FileLayer], models: Mapping[Place, nn.Module], *, kind: Kind, label: str
) -> tuple[dict[Place, list[LayerChange]], list[str]]:
    """Changes of each model, and the keys of a MotionLoRA's mid block where the motion module has none there.

    A few layers that no model has are left out, with a warning. Raises UserError if most are such, or one does not fit:
    then the LoRA is for another base model.
    """
    chosen: dict[Place, list[LayerChange]] = {}
    skipped, lost = [], []
    modules = {place: _modules(model, place) for place, model in models.items()}
    has_motion = any("motion_modules_" in name for name in modules["unet"])
    has_mid = any(name.startswith("mid_block_motion_modules_") for name in modules["unet"])
    if kind == "motion_lora" and not has_motion:
        raise UserError(f"{label}: a MotionLoRA, but there are no motion modules yet; load one first (`motion_module`)")
    for layer in layers:
        if layer.module.startswith("mid_block_motion_modules_") and not has_mid:
            skipped.append(layer.key)
        elif layer.place not in modules or layer.module not in modules[layer.place]:
            lost.append(layer)
        else:
            path, module = modules[layer.place][layer.module]
            chosen.setdefault(layer.place, []).append(_change(layer, path, module, label))
    without = sorted({layer.place for layer in lost if layer.place not in modules})
    if without or 2 * len(lost) > len(layers):
        reason = f" (it is for a model with {', '.join(without)}, as SDXL has)" if without else ""
        raise UserError(
            f"{label}: {len(lost)} of {len(layers)} layers have no place in this model{reason}, first {lost[0].key}; "
            "is the LoRA for another base model?"
        )
    if not chosen:
        raise UserError(f"{label}: none of its {len(layers)} layers has a place in this model")
    if lost:
        text = "%s: %d of %d layers are not in this model and are left out: %s"
        logger.warning(text, label, len(lost), len(layers), some(layer.key for layer in lost))
    return chosen, skipped


def _modules(model: nn.Module, place: Place) -> dict[str, tuple[str, Any]]:
    """Underscored path -> path and plain layer, for everything a LoRA can change."""
    found = {}
    for path, module in model.named_modules():
        if _INSIDE_PEFT.search("." + path):
            continue
        layer = getattr(module, "base_layer", module)
        if changeable(layer):
            short = path if place == "unet" else path.removeprefix("text_model.")
            found[short.replace(".", "_")] = (path, layer)
    return found


def _change(layer: FileLayer, path: str, module: Any, label: str) -> LayerChange:
    """What the layer of the file does to `module`. Raises UserError if the sizes differ."""
    halves = () if layer.pair is None else (layer.pair.down, layer.pair.up)
    if not all(_finite(tensor) for tensor in (*halves, *layer.parts.values())):
        raise UserError(
            f"{label}: the tensors of {layer.key} are not finite (NaN or infinite), as after a training that diverged; "
            "take another LoRA"
        )
    try:
        with torch.no_grad():
            return _built(layer, path, module)
    except (ValueError, RuntimeError, IndexError, KeyError) as error:
        if layer.pair is not None and not layer.parts:
            sizes = f"shape {tuple(layer.pair.down.shape)}, its `up` {tuple(layer.pair.up.shape)}"
        else:
            halves = {} if layer.pair is None else {"down": layer.pair.down, "up": layer.pair.up}
            sizes = ", ".join(f"`{part}` {tuple(value.shape)}" for part, value in (halves | layer.parts).items())
        raise UserError(
            f"{label}: {layer.key} has {sizes}, but the layer it is for has {tuple(module.weight.shape)}; "
            "the LoRA is for another base model"
        ) from error


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite; of a tensor without values (on the meta device) nothing is known."""
    return tensor.is_meta or not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _built(layer: FileLayer, path: str, module: Any) -> LayerChange:
    pair, parts = layer.pair, dict(layer.parts)
    weight = module.weight
    magnitude = parts.pop("lora_magnitude_vector", None)
    if magnitude is not None:
        magnitude = magnitude.reshape(-1, *(1 for _ in weight.shape[1:]))
    elif "dora_scale" in parts:
        magnitude = parts.pop("dora_scale")
    own_bias = next((parts.pop(name) for name in ("diff_b", "b_norm") if name in parts), None)
    up_bias = parts.pop("bias", None)
    for bias in (own_bias, up_bias):
        if bias is not None and bias.numel() != weight.shape[0]:
            raise ValueError(f"a bias of {bias.numel()}")
    alpha = layer.alpha
    if pair is not None:
        alpha = pair.alpha
        if parts.keys() <= {"scalar", "scale"}:
            alpha = _alpha(pair, parts)
            parts.clear()
    alone = pair is not None and not parts and alpha
    if alone and (magnitude is None or (own_bias is up_bias is None and not per_input(magnitude))):
        assert pair is not None and alpha is not None
        bias = _sum(up_bias, None if own_bias is None else own_bias.float() * (pair.rank / alpha))
        if magnitude is not None and magnitude.numel() != weight.shape[0]:
            raise ValueError(f"magnitudes of {magnitude.numel()} outputs")
        down, up = _in_axes(pair, weight)
        return LayerChange(path=path, pair=(down, up), alpha=alpha, bias=bias, magnitude=magnitude)
    if pair is not None:
        parts |= {"down": pair.down, "up": pair.up}
        if up_bias is not None:
            up_bias = up_bias.float() * ((alpha or 0) / pair.rank)
    if magnitude is not None:
        parts["dora_scale"] = magnitude
    # without values there is no change to make, and its sizes are checked when there are
    delta = None if weight.is_meta else layer_delta(parts, alpha, weight)
    delta = None if delta is None else delta.to(weight.dtype)  # as large as the layer: not kept in float32
    return LayerChange(path=path, weight=delta, bias=_sum(up_bias, own_bias))


def _alpha(pair: Pair, parts: Mapping[str, Tensor]) -> float:
    """Alpha of a pair with what stands beside it: `scale` is read in place of alpha / rank, `scalar` multiplies."""
    alpha = float(parts["scale"]) * pair.rank if "scale" in parts else pair.alpha
    return alpha * float(parts["scalar"]) if "scalar" in parts else alpha


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    tensors = [tensor.flatten().float() for tensor in (first, second) if tensor is not None]
    return sum(tensors[1:], tensors[0]) if tensors else None


def _in_axes(pair: Pair, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The pair's matrices with as many axes as the layer's weight. Raises ValueError if the sizes differ."""
    down, up = pair.down, pair.up
    if weight.ndim == 2:
        down, up = (t.flatten(1) if t.ndim == 4 and t.shape[2:] == (1, 1) else t for t in (down, up))
        fits = down.ndim == up.ndim == 2
    else:
        down, up = (t[:, :, None, None] if t.ndim == 2 else t for t in (down, up))
        fits = down.shape[2:] == weight.shape[2:] and up.shape[2:] == (1, 1)
    if not fits or down.shape[1] != weight.shape[1] or up.shape[0] != weight.shape[0]:
        raise ValueError("the pair is of other sizes")
    return down, up
