"""LoRAs of every key format on a live model: through PEFT, scaled at run time, removed without a trace.

The weights of the model are never changed. Everything about a file is checked before the first layer is touched.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError, did_you_mean
from animatediff.weights.lora.pairs import Kind, Pair, Place, kind_of, read_pairs
from animatediff.weights.lora.source import check_settings, lora_header
from animatediff.weights.storage.files import load_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

_INSIDE_PEFT = re.compile(r"\.(base_layer|lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_dropout)(\.|$)")


@dataclass(frozen=True, kw_only=True)
class LoadedLora:
    """A LoRA that was loaded."""

    name: str
    """Adapter name, for `set_lora_scales` and `remove_lora`."""
    kind: Kind
    num_layers: int
    """Layers that the LoRA now changes."""
    skipped: tuple[str, ...]
    """Keys of the file that were left out on purpose (a MotionLoRA's mid block on a module without one)."""


def load_lora(
    path_or_state: str | Path | Mapping[str, Tensor],
    *,
    unet: nn.Module,
    text_encoders: Sequence[nn.Module] = (),
    adapter_name: str | None = None,
    scale: float = 1.0,
) -> LoadedLora:
    """Put a LoRA on the model, beside those that are there: MotionLoRA, domain adapter, kohya, LoCon, diffusers, PEFT.

    Alpha is honoured: a layer changes by scale * alpha / rank, and alpha = rank where a file states none. The default
    name is "motion_lora" or "domain_adapter" by kind, else the file's. Raises UserError, with the model unchanged, for
    keys or shapes that do not fit, a name in use, a MotionLoRA without motion modules, or a file that is no LoRA.
    """
    tensors, metadata, label = _read(path_or_state)
    unet = uncompiled(unet)
    keys = list(tensors)
    _refuse_other_files(keys, label)
    layers_per_block = getattr(getattr(unet, "config", None), "layers_per_block", 2)
    layers = layers_per_block if isinstance(layers_per_block, int) else 2
    pairs = read_pairs(tensors, name=label, metadata=metadata, layers_per_block=layers)
    if not pairs:
        raise UserError(f"{label}: no LoRA layers in it")
    kind = kind_of(pairs, keys)
    name = adapter_name or _default_name(kind, label)
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"adapter name {name!r}: use letters, digits, _ and - only")
    models = _models(unet, text_encoders)
    if any(name in _adapters(model) for model in models.values()):
        raise UserError(f"{label}: a LoRA named {name!r} is loaded already; remove it, or give another adapter_name")
    chosen, skipped = _match(pairs, models, kind=kind, label=label)
    for place, targets in chosen.items():
        _inject(models[place], targets, name, scale)
    if skipped:
        logger.info("%s: %d keys of the mid block skipped: this motion module has none there", label, len(skipped))
    return LoadedLora(name=name, kind=kind, num_layers=sum(map(len, chosen.values())), skipped=tuple(skipped))


def set_lora_scales(models: Sequence[nn.Module], scales: Mapping[str, float]) -> None:
    """Set the strength of loaded LoRAs by name (1.0 as trained, 0.0 off); those not named keep theirs.

    Raises UserError for a name that no model has, before any strength is changed.
    """
    models = [uncompiled(model) for model in models]
    known = lora_names(models)
    for name in scales:
        if name not in known:
            loaded = ", ".join(known) or "none"
            raise UserError(f"no LoRA named {name!r} is loaded; {did_you_mean(name, known)}loaded are {loaded}")
    for model in models:
        for _, layer in _lora_layers(model):
            for name, scale in scales.items():
                if name in layer.lora_A:
                    layer.set_scale(name, scale)


def lora_names(models: Sequence[nn.Module]) -> list[str]:
    """The names of the LoRAs on these models, in the order they were loaded."""
    return list(dict.fromkeys(name for model in models for name in getattr(model, "peft_config", None) or {}))


def remove_lora(models: Sequence[nn.Module], name: str) -> None:
    """Take a LoRA off again; layers that no other LoRA uses become the very modules they were.

    Raises UserError if no model has a LoRA of that name.
    """
    models = [uncompiled(model) for model in models]
    if not any(name in _adapters(model) for model in models):
        raise UserError(f"no LoRA named {name!r} is loaded")
    for model in models:
        for path, layer in _lora_layers(model):
            if name not in layer.lora_A:
                continue
            if len(layer.lora_A) == 1:
                parent, _, child = path.rpartition(".")
                setattr(model.get_submodule(parent), child, layer.base_layer)
            else:
                layer.delete_adapter(name)
                _activate(layer)
        configs = getattr(model, "peft_config", {})
        configs.pop(name, None)
        if not configs and hasattr(model, "peft_config"):
            del model.peft_config
            model._hf_peft_config_loaded = False  # type: ignore[assignment]  # as diffusers and transformers keep it


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile returns, which puts a name of its own before every layer's."""
    return getattr(model, "_orig_mod", model)


def _read(source: str | Path | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, str], str]:
    if isinstance(source, Mapping):
        return source, {}, "LoRA"
    header = lora_header(source)
    _refuse_other_files(list(header.tensors), str(header.path))  # before a motion module of gigabytes is read
    check_settings(header)
    return load_tensors(header), header.metadata, str(header.path)


def _refuse_other_files(keys: list[str], label: str) -> None:
    if any("lora" in key or ".hada_" in key or ".lokr_" in key or ".oft_" in key for key in keys):
        return
    if any("motion_modules." in key or "temporal_attentions." in key for key in keys):
        raise UserError(f"{label}: a motion module, not a LoRA; give it as motion module (`motion_module`)")
    if any(key.startswith("model.diffusion_model.") for key in keys):
        raise UserError(f"{label}: a whole image model, not a LoRA; give it as base model (`model`)")
    first = ", ".join(keys[:3]) or "nothing"
    raise UserError(f"{label}: not a LoRA: no key has `lora` in it (found {first})")


def _default_name(kind: Kind, label: str) -> str:
    if kind != "lora":
        return kind
    return re.sub(r"[^\w-]+", "_", Path(label).stem)


def _models(unet: nn.Module, text_encoders: Sequence[nn.Module]) -> dict[Place, nn.Module]:
    names: tuple[Place, ...] = ("text_encoder", "text_encoder_2")
    return {"unet": unet, **dict(zip(names, map(uncompiled, text_encoders), strict=False))}


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]


def _adapters(model: nn.Module) -> set[str]:
    configs = getattr(model, "peft_config", None) or {}
    return set(configs)


def _modules(model: nn.Module, place: Place) -> dict[str, tuple[str, nn.Module]]:
    """Underscored path -> path and plain layer, for everything a LoRA can change."""
    from torch import nn

    found = {}
    for path, module in model.named_modules():
        if _INSIDE_PEFT.search("." + path):
            continue
        layer = getattr(module, "base_layer", module)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            short = path if place == "unet" else path.removeprefix("text_model.")
            found[short.replace(".", "_")] = (path, layer)
    return found


Target = tuple[str, Pair, "Tensor", "Tensor"]
"""Path of the layer, the pair, and its two matrices in the layer's own number of axes."""


def _match(
    pairs: list[Pair], models: Mapping[Place, nn.Module], *, kind: Kind, label: str
) -> tuple[dict[Place, list[Target]], list[str]]:
    """Find the layer of every pair. Raises UserError that names what has none."""
    chosen: dict[Place, list[Target]] = {}
    skipped, lost = [], []
    modules = {place: _modules(model, place) for place, model in models.items()}
    has_motion = any("motion_modules_" in name for name in modules["unet"])
    has_mid = any(name.startswith("mid_block_motion_modules_") for name in modules["unet"])
    if kind == "motion_lora" and not has_motion:
        raise UserError(f"{label}: a MotionLoRA, but there are no motion modules yet; load one first (`motion_module`)")
    for pair in pairs:
        if pair.module.startswith("mid_block_motion_modules_") and not has_mid:
            skipped.append(pair.key)
        elif pair.place not in modules or pair.module not in modules[pair.place]:
            lost.append(pair)
        else:
            path, layer = modules[pair.place][pair.module]
            chosen.setdefault(pair.place, []).append((path, pair, *_fit(pair, layer, label)))
    if lost:
        without = sorted({pair.place for pair in lost if pair.place not in modules})
        reason = f" (it is for a model with {', '.join(without)}, as SDXL has)" if without else ""
        raise UserError(
            f"{label}: {len(lost)} of {len(pairs)} layers have no place in this model{reason}, first {lost[0].key}; "
            "is the LoRA for another base model?"
        )
    if not chosen:
        raise UserError(f"{label}: none of its {len(pairs)} layers has a place in this model")
    return chosen, skipped


def _fit(pair: Pair, layer: Any, label: str) -> tuple[Tensor, Tensor]:
    """The pair's matrices with as many axes as the layer's weight. Raises UserError if the sizes differ."""
    down, up = pair.down, pair.up
    if layer.weight.ndim == 2:
        down, up = (t.flatten(1) if t.ndim == 4 and t.shape[2:] == (1, 1) else t for t in (down, up))
        fits = down.ndim == up.ndim == 2
    else:
        down, up = (t[:, :, None, None] if t.ndim == 2 else t for t in (down, up))
        fits = down.shape[2:] == layer.weight.shape[2:] and up.shape[2:] == (1, 1)
    if not fits or down.shape[1] != layer.weight.shape[1] or up.shape[0] != layer.weight.shape[0]:
        raise UserError(
            f"{label}: {pair.key} has shape {tuple(pair.down.shape)}, its `up` {tuple(pair.up.shape)}, but the layer "
            f"it is for has {tuple(layer.weight.shape)}; the LoRA is for another base model"
        )
    return down, up


def _activate(layer: Any) -> None:
    """All LoRAs of a layer count; PEFT would let only the last one, and make it trainable."""
    layer.set_adapter(list(layer.lora_A))
    for parts in (layer.lora_A, layer.lora_B):
        parts.requires_grad_(False)


def _inject(model: nn.Module, targets: list[Target], name: str, scale: float) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    by_path = {path: (pair, down, up) for path, pair, down, up in targets}
    config = LoraConfig(
        r=targets[0][1].rank,
        lora_alpha=targets[0][1].alpha,  # type: ignore[arg-type]  # an integer by annotation, any number in use
        target_modules=list(by_path),
        rank_pattern={f"^{re.escape(path)}": pair.rank for path, (pair, _, _) in by_path.items()},
        alpha_pattern={f"^{re.escape(path)}": pair.alpha for path, (pair, _, _) in by_path.items()},
    )
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs at once are what we want
        inject_adapter_in_model(config, model, adapter_name=name, low_cpu_mem_usage=True)
    model._hf_peft_config_loaded = True  # type: ignore[assignment]  # diffusers and transformers look here
    for parameter, wanted in trainable:  # PEFT freezes the model
        parameter.requires_grad_(wanted)
    layers = [(path, layer) for path, layer in _lora_layers(model) if name in layer.lora_A]
    assert {path for path, _ in layers} == set(by_path), "PEFT chose other layers than were asked for"
    for path, layer in layers:
        _, down, up = by_path[path]
        weight = layer.base_layer.weight
        for part, value in ((layer.lora_A[name], down), (layer.lora_B[name], up)):
            part.load_state_dict({"weight": value.to(device=weight.device, dtype=weight.dtype)}, assign=True)
        layer.set_scale(name, scale)
    for _, layer in _lora_layers(model):
        _activate(layer)
