"""Image models from folders in the diffusers layout, and from the hub when an id is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.components import TITLES, Component, build, folder_component
from animatediff.weights.base.model_configs import Generation
from animatediff.weights.base.motion_unet import image_config, is_motion_unet
from animatediff.weights.base.replacements import (
    check_parts,
    check_pixels_per_latent,
    located_in,
    text_component,
    text_of,
    vae_component,
    vae_of,
)
from animatediff.weights.base.unet_kinds import unet_refusal
from animatediff.weights.hub import fetch_folder
from animatediff.weights.keys import CONV_IN_WEIGHT, MOTION_KEY, motion_keys
from animatediff.weights.storage.folders import (
    folder_header,
    part_folder,
    preferred_weights,
    read_json,
    say_variants,
    variants,
)
from animatediff.weights.storage.paths import expanded

if TYPE_CHECKING:
    import torch

    from animatediff.weights.base.replacements import Supplied

logger = logging.getLogger(__name__)

MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")
BESIDE = ("motion_adapter", "controlnet")
"""Parts that a folder of an AnimateDiff pipeline has beside the image model, fetched with it."""
SMALL_FILES = ("model_index.json", "*/*.json", "tokenizer*/*.txt")


def _half(dtype: torch.dtype | None) -> bool:
    return dtype is not None and str(dtype) in ("torch.float16", "torch.bfloat16")


def _unet(folder: Path, *, half: bool, variant: str | None) -> Component:
    config = read_json(folder / "config.json")
    if is_motion_unet(config):
        header = folder_header(folder, half=half, variant=variant)
        plan = {key: ldm.Source(key=key) for key in header.tensors if not MOTION_KEY.match(key)}
        if motion_keys(header.shapes).keys() & {CONV_IN_WEIGHT}:  # of PIA: the image model's, and five more channels
            plan[CONV_IN_WEIGHT] = ldm.Source(key=CONV_IN_WEIGHT, part=ldm.Part.NOISE)
        config = image_config(config, str(folder))
        if reason := unet_refusal(config):
            raise UserError(f"{folder}: {reason}")
        return Component(name="unet", header=header, plan=plan, config=config)
    if reason := unet_refusal(config):
        raise UserError(f"{folder}: {reason}")
    return folder_component(folder, "unet", half=half, variant=variant)


def _own(folder: Path, name: str, generation: Generation, *, half: bool, variant: str | None) -> Component:
    """The VAE or a text encoder of a model folder, or of the model that it shares it with."""
    header, config = located_in(part_folder(folder, name), name, half=half, variant=variant)
    if name == "vae":
        return vae_of(header, generation=generation, config=config)
    return text_of(header, name, generation=generation, config=config)


def _with_variant(folder: Path, names: Sequence[str], variant: str | None) -> set[str]:
    """The parts of a folder that have the variant asked for; the others are read as they are, with a warning.

    Raises UserError that says which variants there are where no part has it.
    """
    if variant is None:
        return set()
    found = {name: variants(child.name for child in part_folder(folder, name).iterdir()) for name in names}
    have = {name for name, there in found.items() if variant in there}
    if not have:
        there = sorted({one for kinds in found.values() for one in kinds})
        raise UserError(f"{folder}: no weights of the variant {variant!r}; there are: {say_variants(there)}")
    if without := [name for name in names if name not in have]:
        logger.warning("%s: no variant %r of %s, taken as they are", folder, variant, ", ".join(without))
    return have


def load_base_folder(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    vae: Supplied = None,
    text_encoder: Supplied = None,
    text_encoder_2: Supplied = None,
    unet: Supplied = None,
    tokenizer: Any = None,
    tokenizer_2: Any = None,
    scheduler: Any = None,
) -> dict[str, Any]:
    """The components of a Stable Diffusion folder in the diffusers layout, named as there. Never the network.

    Takes .safetensors or .bin, in one file or in several (shards), 16-bit variants (preferred when `dtype` is one;
    `variant="fp16"` requires that one, where any part has it), old key names; needs no safety checker. `vae`,
    `text_encoder`, `text_encoder_2`, `unet` (paths or modules), `tokenizer`, `tokenizer_2`, `scheduler` (objects)
    replace the folder's. A UNet saved with motion modules in it is read without them. Raises UserError that says which
    file is missing or damaged.
    """
    folder = expanded(path)
    index = _index(folder)
    generation: Generation = "sdxl" if "text_encoder_2" in index else "sd1"
    supplied = {"vae": vae, "text_encoder": text_encoder, "text_encoder_2": text_encoder_2, "unet": unet}
    objects = {"tokenizer": tokenizer, "tokenizer_2": tokenizer_2, "scheduler": scheduler}
    wanted = MODELS if generation == "sdxl" else MODELS[:-1]
    given = [name for name, value in (supplied | objects).items() if value is not None]
    if unused := [name for name in given if name not in (*wanted, *_small_names(generation))]:
        raise UserError(f"{folder}: this model has no {unused[0]}; leave {unused[0]} out")
    if generation == "sdxl" and index.get("text_encoder", [None])[0] is None and text_encoder is None:
        raise UserError(f"{folder}: without a first text encoder: the SDXL refiner; give the SDXL base model")
    for name in wanted:
        if supplied.get(name) is None and not part_folder(folder, name).is_dir():
            hint = f", or give one with `{name}`" if name in TITLES else ""
            raise UserError(f"{folder}: no folder {name}/ ({TITLES.get(name, 'UNet')}); download the model again{hint}")
    half = _half(dtype)
    _check_classes(folder, index)
    have = _with_variant(folder, [name for name in wanted if supplied.get(name) is None], variant)
    parts: dict[str, Any] = {}
    for name in wanted:
        source, chosen = supplied.get(name), variant if name in have else None
        if name == "unet":
            place = folder / name if source is None else source
            parts[name] = _unet(Path(place), half=half, variant=chosen) if isinstance(place, str | Path) else place
        elif source is None:
            parts[name] = _own(folder, name, generation, half=half, variant=chosen)
        elif name == "vae":
            parts[name] = vae_component(None, source, generation=generation, config=None)
        else:
            parts[name] = text_component(None, source, name, generation=generation, config=None)
    check_parts(parts)
    if vae is not None and (own := part_folder(folder, "vae") / "config.json").is_file():
        check_pixels_per_latent(parts["vae"], read_json(own))
    components = {name: part for name, part in parts.items() if not isinstance(part, Component)}
    small = {
        name: _small(folder, name, index) if objects[name] is None else objects[name]
        for name in _small_names(generation)
    }
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


def _check_classes(folder: Path, index: dict[str, Any]) -> None:
    """Raise UserError for a model of other parts than a Stable Diffusion's."""
    if (
        newer := next((name for name in ("transformer", "prior", "text_encoder_3") if _stated(index, name)), None)
    ) and (not _stated(index, "unet") or newer == "text_encoder_3"):
        raise UserError(
            f"{folder}: a {index.get('_class_name', 'model')}, a newer kind of model with a {newer}; only SD 1.x, "
            "SD 2.x and SDXL are supported"
        )


def _stated(index: dict[str, Any], name: str) -> bool:
    return isinstance(index.get(name), list) and index[name][:1] != [None]


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


def download_base(
    name: str,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    subfolder: str = "",
    hub: Mapping[str, Any] | None = None,
) -> Path:
    """Fetch what is needed of the model `name` on the hub (only here is the network used); returns its local folder.

    A model that was fetched before is taken from the cache when the hub cannot be reached. `hub`: as `fetch_folder`.
    """

    def wanted(files: Sequence[str]) -> list[str]:
        inside = ldm.strip(files, f"{subfolder}/") if subfolder else files
        chosen = [*SMALL_FILES, *wanted_weights(inside, dtype=dtype, variant=variant)]
        return [f"{subfolder}/{file}" if subfolder else file for file in chosen]

    return fetch_folder(name, wanted, **(hub or {})) / subfolder


def wanted_weights(files: Sequence[str], *, dtype: torch.dtype | None = None, variant: str | None = None) -> list[str]:
    """Of a hub repository's files, the weight files of each component that would be read from a folder.

    Shards come with their index. A component without the variant asked for is taken as it is, if another has it.
    """
    wanted: list[str] = []
    named = {component: ldm.strip(files, f"{component}/") for component in (*MODELS, *BESIDE)}
    anywhere = any(variant in variants(names) for names in named.values())
    for component, names in named.items():
        chosen = preferred_weights(names, half=_half(dtype), variant=variant)
        if chosen is None and anywhere:
            chosen = preferred_weights(names, half=_half(dtype))
        if chosen is not None:
            wanted += [f"{component}/{name}" for name in chosen.names]
    return wanted
