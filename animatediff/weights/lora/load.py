"""LoRAs of every key format on a live model: through PEFT, scaled at run time, removed without a trace.

The weights of the model are never changed. Everything about a file is checked before the first layer is touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from animatediff.errors import UserError, did_you_mean
from animatediff.weights.lora.methods import is_lora, refusal, sort_keys
from animatediff.weights.lora.pairs import Kind, Place, kind_of
from animatediff.weights.lora.source import check_settings, lora_header
from animatediff.weights.lora.strengths import Strength, layer_strength
from animatediff.weights.storage.files import Header, check_loadable, load_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from animatediff.weights.lora.layers import LayerChange

logger = logging.getLogger(__name__)


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
    embeddings: tuple[str, ...] = ()
    """Words of textual inversions in the file (`bundle_emb`), which `load_bundled_words` loads."""


def load_lora(
    path_or_state: str | Path | Header | Mapping[str, Tensor],
    *,
    unet: nn.Module,
    text_encoders: Sequence[nn.Module] = (),
    adapter_name: str | None = None,
    scale: float = 1.0,
) -> LoadedLora:
    """Put a LoRA on the model, beside those that are there.

    Taken are MotionLoRAs, domain adapters, and LoRAs of kohya, LyCORIS, ComfyUI, diffusers and PEFT. Alpha is honoured:
    a layer changes by scale * alpha / rank, and alpha = rank where a file states none; other methods than low-rank
    pairs are those of `methods.py`. The default name is "motion_lora" or "domain_adapter" by kind, else the file's. A
    warning names tensors that are left out, and a LoRA that changes nothing. Raises UserError, with the model
    unchanged, for shapes that do not fit, layers that are mostly not in the model, a name in use, a MotionLoRA without
    motion modules, or a file that is no LoRA.
    """
    from animatediff.weights.lora.layers import changes_nothing, inject
    from animatediff.weights.lora.match import match, read_layers

    tensors, metadata, label = _read(path_or_state)
    unet = uncompiled(unet)
    keys = list(tensors)
    check_lora_keys(keys, label)
    layers_per_block = getattr(getattr(unet, "config", None), "layers_per_block", 2)
    per_block = layers_per_block if isinstance(layers_per_block, int) else 2
    layers = read_layers(tensors, name=label, metadata=metadata, layers_per_block=per_block)
    if not layers:
        raise UserError(f"{label}: no LoRA layers in it")
    kind = kind_of(layers, keys)
    name = adapter_name or _default_name(kind, label)
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"adapter name {name!r}: use letters, digits, _ and - only")
    models = _models(unet, text_encoders)
    if any(name in _adapters(model) for model in models.values()):
        raise UserError(f"{label}: a LoRA named {name!r} is loaded already; remove it, or give another adapter_name")
    chosen, skipped = match(layers, models, kind=kind, label=label)
    for place, changes in chosen.items():
        inject(models[place], changes, name, scale)
    _say_skipped(label, skipped)
    if not isinstance(path_or_state, Mapping):  # a program that made one, such as training, knows what is in it
        if scale == 0:
            logger.warning("%s: has strength 0, so it changes nothing", label)
        elif all(changes_nothing(changes) for changes in chosen.values()):
            logger.warning("%s: changes nothing: all its changes are zero, as before training", label)
    return LoadedLora(
        name=name,
        kind=kind,
        num_layers=sum(map(len, chosen.values())),
        skipped=tuple(skipped),
        embeddings=tuple(sort_keys(keys).embeddings),
    )


def motion_lora_changes(source: str | Path | Header, modules: nn.Module) -> list[LayerChange]:
    """What a MotionLoRA does to each layer of motion modules, for programs that add it to the weights themselves.

    Keys of a mid block that the modules do not have are left out, which the log says. Raises UserError as `load_lora`.
    """
    from animatediff.weights.lora.match import match, read_layers

    tensors, metadata, label = _read(source)
    layers = read_layers(tensors, name=label, metadata=metadata, layers_per_block=2)
    chosen, skipped = match(layers, {"unet": modules}, kind="motion_lora", label=label)
    _say_skipped(label, skipped)
    return chosen["unet"]


def set_lora_scales(models: Sequence[nn.Module], scales: Mapping[str, Strength]) -> None:
    """Set the strength of loaded LoRAs by name (1.0 as trained, 0.0 off); those not named keep theirs.

    A strength may differ between models and blocks (`strengths.py`). Raises UserError for a name that no model has, and
    for a strength that cannot be read, before any strength is changed.
    """
    from animatediff.weights.lora.layers import set_scale

    models = [uncompiled(model) for model in models]
    known = lora_names(models)
    for name in scales:
        if name not in known:
            loaded = ", ".join(known) or "none"
            raise UserError(f"no LoRA named {name!r} is loaded; {did_you_mean(name, known)}loaded are {loaded}")
    places: tuple[Place, ...] = ("unet", "text_encoder", "text_encoder_2")
    wanted = [
        (model, name, layer_strength(scale, place, model))
        for place, model in zip(places, models, strict=False)
        for name, scale in scales.items()
    ]
    for model, name, strength in wanted:
        set_scale(model, name, strength)


def active_loras(models: Sequence[nn.Module]) -> list[str]:
    """The names of the LoRAs that act: switched on, at a strength that is not 0 in every layer."""
    from animatediff.weights.lora.layers import acts

    models = [uncompiled(model) for model in models]
    return [name for name in lora_names(models) if any(acts(model, name) for model in models)]


def switch_loras(models: Sequence[nn.Module], on: bool) -> None:
    """Switch all LoRAs off, or on again at the strengths that they had."""
    from animatediff.weights.lora.layers import switch

    for model in models:
        switch(uncompiled(model), on)


def lora_names(models: Sequence[nn.Module]) -> list[str]:
    """The names of the LoRAs on these models, in the order they were loaded."""
    return list(dict.fromkeys(name for model in models for name in getattr(model, "peft_config", None) or {}))


def remove_lora(models: Sequence[nn.Module], name: str) -> None:
    """Take a LoRA off again; layers that no other LoRA uses become the very modules they were.

    Raises UserError if no model has a LoRA of that name.
    """
    from animatediff.weights.lora.layers import remove

    models = [uncompiled(model) for model in models]
    if not any(name in _adapters(model) for model in models):
        raise UserError(f"no LoRA named {name!r} is loaded")
    for model in models:
        remove(model, name)
        configs = getattr(model, "peft_config", {})
        configs.pop(name, None)
        if not configs and hasattr(model, "peft_config"):
            del model.peft_config
            model._hf_peft_config_loaded = False  # type: ignore[assignment]  # as diffusers and transformers keep it


def _say_skipped(label: str, skipped: Sequence[str]) -> None:
    if skipped:
        logger.info("%s: %d keys of the mid block skipped: this motion module has none there", label, len(skipped))


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile returns, which puts a name of its own before every layer's."""
    return getattr(model, "_orig_mod", model)


def _read(source: str | Path | Header | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, str], str]:
    if isinstance(source, Mapping):
        return source, {}, "LoRA"
    header = lora_header(source, say=True)
    check_lora(header)  # before a motion module of gigabytes is read
    return load_tensors(header), header.metadata, str(header.path)


def check_lora(source: str | Path | Header) -> None:
    """Raise UserError for a LoRA that `load_lora` would refuse whatever the model; reads headers alone."""
    header = source if isinstance(source, Header) else lora_header(source)
    check_lora_keys(list(header.tensors), str(header.path))
    check_settings(header)
    check_loadable(header, header.tensors)


def check_lora_keys(keys: list[str], label: str) -> None:
    """Raise UserError if a file with these keys is no LoRA, or one that cannot be loaded; `label` names the file."""
    if is_lora(keys):
        if reason := refusal(keys):
            raise UserError(f"{label}: {reason}")
        return
    if any("motion_modules." in key or "temporal_attentions." in key for key in keys):
        raise UserError(f"{label}: a motion module, not a LoRA; give it as motion module (`motion_module`)")
    if any(key.startswith("model.diffusion_model.") for key in keys):
        raise UserError(f"{label}: a whole image model, not a LoRA; give it as base model (`model`)")
    first = ", ".join(keys[:3]) or "nothing"
    raise UserError(f"{label}: not a LoRA: no key has `lora` in it (found {first})")


def check_lora_fits(source: str | Path, *, unet: nn.Module, text_encoders: Sequence[nn.Module] = ()) -> None:
    """Raise UserError for a LoRA that `load_lora` would refuse for these models, by its header; no weights are read.

    The models may be without weights (on the meta device).
    """
    from animatediff.weights.lora.match import match, read_layers

    header = lora_header(source)
    check_lora(header)
    tensors = _placeholders(header)
    layers_per_block = getattr(getattr(unet, "config", None), "layers_per_block", 2)
    per_block = layers_per_block if isinstance(layers_per_block, int) else 2
    layers = read_layers(tensors, name=str(header.path), metadata=header.metadata, layers_per_block=per_block)
    kind = kind_of(layers, list(tensors))
    match(layers, _models(unet, text_encoders), kind=kind, label=str(header.path))


def _placeholders(header: Header) -> dict[str, Tensor]:
    """Tensors of the shapes that a file states, without memory; single numbers, such as alpha, are 1."""
    import torch

    return {
        key: torch.ones(info.shape) if prod(info.shape) == 1 else torch.empty(info.shape, device="meta")
        for key, info in header.tensors.items()
    }


def _default_name(kind: Kind, label: str) -> str:
    if kind != "lora":
        return kind
    return re.sub(r"[^\w-]+", "_", Path(label).stem)


def _models(unet: nn.Module, text_encoders: Sequence[nn.Module]) -> dict[Place, nn.Module]:
    names: tuple[Place, ...] = ("text_encoder", "text_encoder_2")
    return {"unet": unet, **dict(zip(names, map(uncompiled, text_encoders), strict=False))}


def _adapters(model: nn.Module) -> set[str]:
    configs = getattr(model, "peft_config", None) or {}
    return set(configs)
