"""Image models from folders in the diffusers layout, and from the hub when an id is given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.components import Component, build
from animatediff.weights.base.model_configs import Generation
from animatediff.weights.base.replacements import TITLES, text_component, vae_component
from animatediff.weights.base.unet_kinds import unet_refusal
from animatediff.weights.hub import fetch_folder
from animatediff.weights.storage.files import read_header
from animatediff.weights.storage.folders import preferred_weights, read_json, weights_file

if TYPE_CHECKING:
    import torch

    from animatediff.weights.base.replacements import Supplied

logger = logging.getLogger(__name__)

MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")
SMALL_FILES = ("model_index.json", "*/*.json", "tokenizer*/*.txt")


def _half(dtype: torch.dtype | None) -> bool:
    return dtype is not None and str(dtype) in ("torch.float16", "torch.bfloat16")


def _unet(folder: Path, *, half: bool, variant: str | None) -> Component:
    config = read_json(folder / "config.json")
    if reason := unet_refusal(config):
        raise UserError(f"{folder}: {reason}")
    header = read_header(weights_file(folder, half=half, variant=variant))
    return Component(
        name="unet", header=header, plan={key: ldm.Source(key=key) for key in header.tensors}, config=config
    )


def load_base_folder(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    vae: Supplied = None,
    text_encoder: Supplied = None,
    text_encoder_2: Supplied = None,
) -> dict[str, Any]:
    """The components of a Stable Diffusion folder in the diffusers layout, named as there. Never the network.

    Takes .safetensors or .bin, 16-bit variants (preferred when `dtype` is one, required by `variant="fp16"`), old key
    names; needs no safety checker. `vae`, `text_encoder`, `text_encoder_2` replace the folder's. Raises UserError that
    says which file is missing or damaged.
    """
    folder = Path(path).expanduser()
    index = _index(folder)
    generation: Generation = "sdxl" if "text_encoder_2" in index else "sd1"
    supplied = {"vae": vae, "text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    wanted = MODELS if generation == "sdxl" else MODELS[:-1]
    if unused := [name for name, value in supplied.items() if value is not None and name not in wanted]:
        raise UserError(f"{folder}: this model has no {unused[0]}; leave {unused[0]} out")
    if generation == "sdxl" and index.get("text_encoder", [None])[0] is None and text_encoder is None:
        raise UserError(f"{folder}: without a first text encoder: the SDXL refiner; give the SDXL base model")
    for name in wanted:
        if not (folder / name).is_dir() and supplied.get(name) is None:
            hint = f", or give one with `{name}`" if name in TITLES else ""
            raise UserError(f"{folder}: no folder {name}/ ({TITLES.get(name, 'UNet')}); download the model again{hint}")
    half = _half(dtype)
    parts: dict[str, Any] = {"unet": _unet(folder / "unet", half=half, variant=variant)}
    for name in wanted[1:]:
        source, config = supplied[name], None
        if source is None:
            source = weights_file(folder / name, half=half, variant=variant)
            config = read_json(folder / name / "config.json")
        if name == "vae":
            parts[name] = vae_component(None, source, generation=generation, config=config)
        else:
            parts[name] = text_component(None, source, name, generation=generation, config=config)
    components = {name: part for name, part in parts.items() if not isinstance(part, Component)}
    small = {name: _small(folder, name, index) for name in _small_names(generation)}
    components |= build([part for part in parts.values() if isinstance(part, Component)], dtype=dtype)
    if generation == "sdxl" and "force_zeros_for_empty_prompt" in index:
        small["force_zeros_for_empty_prompt"] = bool(index["force_zeros_for_empty_prompt"])
    return components | small


def _index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if (folder / "model_index.json").is_file():
        return read_json(folder / "model_index.json")
    if (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("_class_name", "one component")
        raise UserError(
            f"{folder}: only {kind}, not a whole model; give the folder above, the one with model_index.json"
        )
    raise UserError(
        f"{folder}: no model_index.json in it, so not a diffusers model folder; give such a folder or a single file"
    )


def _small_names(generation: Generation) -> tuple[str, ...]:
    return ("tokenizer", "tokenizer_2", "scheduler") if generation == "sdxl" else ("tokenizer", "scheduler")


def _small(folder: Path, name: str, index: dict[str, Any]) -> Any:
    """A tokenizer or the scheduler of a folder."""
    place = folder / name
    if not place.is_dir():
        raise UserError(f"{folder}: no folder {name}/; download the model again")
    if name == "scheduler":
        return _scheduler(place, index)
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{place}: the tokenizer cannot be loaded ({str(error)[:160]}); download it again") from error


def _scheduler(place: Path, index: dict[str, Any]) -> Any:
    """The scheduler of a folder; Euler's, and said, in place of one whose package is not installed."""
    import diffusers

    settings = read_json(place / "scheduler_config.json")
    kind = settings.get("_class_name", (index.get("scheduler") or [None, None])[1])
    made = getattr(diffusers, str(kind), None)
    if made is None:
        raise UserError(f"{place}: scheduler {kind!r} is not known to the installed diffusers")
    if lacking := [package for package in getattr(made, "_backends", ()) if find_spec(package) is None]:
        logger.warning(
            "%s: %s needs the package %s, which is not installed; EulerDiscreteScheduler is taken with its settings",
            place,
            kind,
            lacking[0],
        )
        made = diffusers.EulerDiscreteScheduler
        settings = {key: value for key, value in settings.items() if key != "_class_name"}
    try:
        return made.from_config(settings)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise UserError(f"{place}: a {kind} cannot be made with these settings ({str(error)[:160]})") from error


def download_base(name: str, *, dtype: torch.dtype | None = None, variant: str | None = None) -> Path:
    """Fetch what is needed of the model `name` on the hub (only here is the network used); returns its local folder.

    A model that was fetched before is taken from the cache when the hub cannot be reached.
    """
    return fetch_folder(name, lambda files: [*SMALL_FILES, *wanted_weights(files, dtype=dtype, variant=variant)])


def wanted_weights(files: Sequence[str], *, dtype: torch.dtype | None = None, variant: str | None = None) -> list[str]:
    """Of a hub repository's files, the one weight file of each component that would be read from a folder."""
    wanted = []
    for component in MODELS:
        names = ldm.strip(files, f"{component}/")
        if chosen := preferred_weights(names, half=_half(dtype), variant=variant):
            wanted.append(f"{component}/{chosen}")
    return wanted
