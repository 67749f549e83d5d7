"""Where a LoRA is: a file, or a folder of one of the layouts that programs write, as one header.

- diffusers and PEFT: a folder with `pytorch_lora_weights` or `adapter_model`, the latter with `adapter_config.json`
  beside it, which states alpha;
- PEFT's examples: a folder with such a folder for each model, `unet/`, `text_encoder/`, `text_encoder_2/`;
- MotionLoRAs on the hub: `diffusion_pytorch_model.safetensors`; and any folder with one file of LoRA keys.

Loader, check before loading, conversion and inspection all ask `lora_header`, so that they see the same LoRA.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.weights.fit import some
from animatediff.weights.lora.methods import is_lora
from animatediff.weights.lora.numbered import is_numbered, with_names
from animatediff.weights.lora.pairs import Place, named_place, split_place
from animatediff.weights.lora.settings import ADAPTER_METADATA, packed, refusal_of_settings, unpacked
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header, read_header
from animatediff.weights.storage.folders import read_json
from animatediff.weights.storage.paths import expanded

logger = logging.getLogger(__name__)

KNOWN_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
"""Names of LoRA files that diffusers and PEFT write, in the order in which they are looked for."""
COMPONENTS: dict[str, Place] = {
    "unet": "unet",
    "unet_lora": "unet",
    "text_encoder": "text_encoder",
    "text_encoder_lora": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "text_encoder_2_lora": "text_encoder_2",
}
"""Folder inside of a LoRA's -> model that the LoRA in it changes."""
CONFIG = "adapter_config.json"
_PEFT_NAME, _PEFT_KEYS = "adapter_model", "base_model.model."
_BUNDLED = "bundle_emb."


@dataclass(frozen=True)
class LoraFile:
    """One file of a LoRA."""

    path: Path
    place: Place | None = None
    """Model that it changes, where its folder says so."""


def lora_header(source: str | Path | Header, *, say: bool = False) -> Header:
    """The header of the LoRA in a file or folder, with PEFT's settings in its metadata as diffusers writes them.

    Of a folder with one file for each model, the names begin with the model's. `say` warns of what is not read, and of
    an alpha that nothing states. Raises UserError where no file or several LoRAs are, and as `files.read_header`.
    """
    if isinstance(source, Header):
        return source
    path = expanded(source)
    files = lora_files(path, say=say)
    if len(files) == 1:
        return _header(files[0], say=say)
    headers = [_header(file, named=True, say=say) for file in files]
    settings: dict[str, Mapping[str, Any]] = {}
    for header in headers:
        settings |= {place: own.values for place, own in unpacked(header.metadata, label=str(path)).items()}
    metadata = {key: value for header in headers for key, value in header.metadata.items() if key != ADAPTER_METADATA}
    return Header(
        path=path,
        format=headers[0].format,
        size=sum(header.size for header in headers),
        tensors={
            key: replace(info, file=info.file or header.path)
            for header in headers
            for key, info in header.tensors.items()
        },
        metadata=metadata | ({ADAPTER_METADATA: packed(settings)} if settings else {}),
    )


def lora_files(source: str | Path, *, say: bool = False) -> list[LoraFile]:
    """The files of a LoRA: `source` itself, or those in the folder `source`.

    A folder without LoRA, but with one other weight file, is that file, so that its kind can be said. Raises UserError
    for several LoRAs, of which one has to be chosen, and for a folder without weights.
    """
    path = expanded(source)
    if not os.path.isdir(path):
        return [LoraFile(path)]
    if found := _in_folder(path, say):
        return found
    if (path / "model_index.json").is_file():
        raise UserError(f"{path}: a whole image model, not a LoRA; give it as base model (`model`)")
    if others := _weights(path):
        if len(others) == 1:
            return [LoraFile(others[0])]
        raise UserError(f"{path}: none of its weight files is a LoRA ({some(file.name for file in others)})")
    raise UserError(f"{path}: no weights in this folder, so no LoRA; expected {KNOWN_NAMES[0]} or the like")


def lora_in_folder(folder: str | Path, *, say: bool = False) -> Header | None:
    """The header of the LoRA in a folder as `lora_header` has it; None for a folder of something else.

    A model with a LoRA beside it, as AnimateLCM is published, is the model.
    """
    folder = expanded(folder)
    if not os.path.isdir(folder) or not _in_folder(folder):
        return None
    if (folder / "config.json").is_file() and not all(_has_lora_keys(file) for file in _weights(folder)):
        return None
    return lora_header(folder, say=say)


def check_settings(header: Header) -> None:
    """Raise UserError for a LoRA whose settings say that it is more than changes of the plain base model."""
    if reason := refusal_of_settings(header.metadata, header.tensors, label=str(header.path)):
        raise UserError(f"{header.path}: {reason}")


def _in_folder(folder: Path, say: bool = False) -> list[LoraFile]:
    place = COMPONENTS.get(folder.name)
    if known := [folder / name for name in KNOWN_NAMES if (folder / name).is_file()]:
        if say and (others := [file.name for file in known[1:] if file.stem != known[0].stem]):
            logger.warning("%s: %s is read; give %s itself to load that", folder, known[0].name, others[0])
        return [LoraFile(known[0], place)]
    parts: dict[Place, LoraFile] = {}
    for name, of in COMPONENTS.items():
        if not (folder / name).is_dir():
            continue
        for file in _in_folder(folder / name, say):
            if of in parts:
                raise UserError(f"{folder}: two LoRAs of the same model, {parts[of].path} and {file.path}; give one")
            parts[of] = LoraFile(file.path, of)
    if parts:
        return list(parts.values())
    loras = _one_of_a_kind([file for file in _weights(folder) if _has_lora_keys(file)])
    if len(loras) > 1:
        raise UserError(f"{folder}: {len(loras)} LoRAs ({some(file.name for file in loras)}); give one of these files")
    if loras:
        return [LoraFile(loras[0], place)]
    # PEFT puts an adapter of another name than `default` into a folder of that name.
    adapters = sorted(child.parent for child in folder.glob(f"*/{CONFIG}"))
    if len(adapters) > 1:
        raise UserError(f"{folder}: {len(adapters)} LoRAs ({some(child.name for child in adapters)}); give one folder")
    return [LoraFile(file.path, file.place or place) for file in _in_folder(adapters[0], say)] if adapters else []


def _weights(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in WEIGHT_SUFFIXES and file.is_file())


def _has_lora_keys(path: Path) -> bool:
    try:
        return _is_lora(read_header(path).tensors)
    except UserError:
        return False


def _is_lora(keys: Iterable[str]) -> bool:
    keys = list(keys)
    return is_numbered(keys) or is_lora(keys)


def _one_of_a_kind(files: list[Path]) -> list[Path]:
    """One file of each name: the same LoRA may be there in several formats and precisions."""
    first: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (WEIGHT_SUFFIXES.index(file.suffix.lower()), len(file.name))):
        first.setdefault(file.stem.removesuffix(".fp16").removesuffix(".bf16"), file)
    return list(first.values())


def _header(file: LoraFile, *, named: bool = False, say: bool = False) -> Header:
    """The header of one file; `named` puts the name of the model it changes before keys that have none."""
    header = read_header(file.path)
    if not _is_lora(header.tensors):
        return header
    header, config = with_names(header), _config(header)
    if say:
        _say_neighbours(header, config)
    settings = {place: own.values for place, own in unpacked(header.metadata, label=str(file.path)).items()}
    place = file.place or _place(header, config or {})
    if config is not None and not settings:
        settings = {place: config}
    elif place not in settings and set(settings) == {"unet"}:
        settings = {place: settings["unet"]}  # written without the name of a model, as one model's own
    tensors = {_under(place, key, named): info for key, info in header.tensors.items()}
    metadata = dict(header.metadata) | ({ADAPTER_METADATA: packed(settings)} if settings else {})
    return replace(header, tensors=tensors, metadata=metadata)


def _under(place: Place, key: str, named: bool) -> str:
    """A key with the name of the model before it, where that is wanted or nothing else tells which model is meant."""
    of, path = named_place(key)
    if of or key.startswith(_BUNDLED) or not (named or split_place(key)[0] != place):
        return key
    return f"{place}.{path}"


def _say_neighbours(header: Header, config: Mapping[str, Any] | None) -> None:
    """Warn of PEFT's weights without their settings; mention what cloneofsimo's trainer writes beside a UNet's file."""
    path = header.path
    if config is None and _is_of_peft(header) and ADAPTER_METADATA not in header.metadata:
        logger.warning("%s: no %s beside it, which states alpha; it acts with alpha = rank", path, CONFIG)
    others = [path.with_name(f"{path.stem}.{part}.pt") for part in ("text_encoder", "ti")]
    if path.suffix == ".pt" and (found := [other.name for other in others if other.is_file()]):
        logger.info("%s: %s beside it belongs to it and is given by itself", path, " and ".join(found))


def _config(header: Header) -> Mapping[str, Any] | None:
    """PEFT's settings beside a file of its layout; None for other files, or where there are none."""
    path = header.path.parent / CONFIG
    return read_json(path) if path.is_file() and (_is_of_peft(header) or header.path.stem == _PEFT_NAME) else None


def _is_of_peft(header: Header) -> bool:
    return any(key.startswith(_PEFT_KEYS) for key in header.tensors)


def _place(header: Header, config: Mapping[str, Any]) -> Place:
    """The model that a file changes whose folder does not say so, by its names, settings and sizes."""
    key = next(iter(header.tensors), "")
    place, _ = split_place(key)
    if place != "text_encoder" or named_place(key)[0]:
        return place
    mapping = config.get("auto_mapping")
    of_class = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
    if of_class == "CLIPTextModelWithProjection":
        return "text_encoder_2"
    widths = {info.shape[1] for name, info in header.tensors.items() if name.endswith("q_proj.lora_A.weight")}
    return "text_encoder_2" if widths == {1280} else "text_encoder"
