"""Tiny autoencoders (TAESD): found by name, and read as diffusers' AutoencoderTiny from every layout that people have.

The layouts hold the same layers. diffusers has `decoder.layers.N`; TAESD's own files number a bare sequence, in which
the decoder begins with a clamp that has no weights, so that its numbers are one higher; the original's class and
ComfyUI put both halves into one file, as `decoder.N` and `taesd_decoder.N`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from animatediff.errors import UserError, did_you_mean
from animatediff.files import HERE, TINY, WEIGHT_SUFFIXES, Roots
from animatediff.weights.base.components import WITHOUT_ENCODER, Component, build, folder_component
from animatediff.weights.base.ldm import Source
from animatediff.weights.hub import is_hub_id
from animatediff.weights.recognise import recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.folders import component_folder
from animatediff.weights.storage.paths import expanded

if TYPE_CHECKING:
    import torch
    from torch import nn

Value = TypeVar("Value")

FOLDER = "vae_approx"
"""Folder of models/ in which users of ComfyUI and A1111 keep them; files there are found by their names alone."""
PREVIEW_STEMS = {"sd1": ("taesd_decoder", "taesd"), "sdxl": ("taesdxl_decoder", "taesdxl")}
"""Kind of latents -> stems of the published files."""
_OF_HALF = re.compile(r"(?:taesd_)?(?P<half>encoder|decoder)\.(?P<layers>layers\.)?(?P<number>\d+)\.(?P<rest>.+)")
_BARE = re.compile(r"(?P<number>\d+)\.(?P<rest>.+)")
_OF_COMFYUI = ("vae_scale", "vae_shift")
"""What ComfyUI puts beside the halves: the scale of latents, which is that of the UNet here."""


def tiny_path(name: str, roots: Roots = HERE, fetched: Callable[[str], str | Path] | None = None) -> str | Path:
    """The file or folder of `tiny:NAME`: of that name, one in models/vae_approx (`taesd` is enough), or a hub id's.

    fetched: from a hub id to its folder. Raises UserError where there is none.
    """
    name = name.removeprefix(TINY).strip()
    path = expanded(name)
    if path.exists():
        return path
    places = [models / FOLDER for models in roots.models]
    for place in places:
        if (found := _in_folder(place, name)) is not None:
            return found
    if is_hub_id(name) and fetched is not None:
        return fetched(name)
    there = sorted({file.name for place in places if place.is_dir() for file in place.iterdir()})
    hint = did_you_mean(name, [*there, *(Path(file).stem.removesuffix("_decoder") for file in there)])
    raise UserError(
        f"{TINY}{name}: no such file or folder, here or in models/{FOLDER}; {hint}give a file such as "
        "taesd_decoder.safetensors, a diffusers folder of an AutoencoderTiny, or a hub id such as madebyollin/taesd"
    )


def _in_folder(place: Path, name: str) -> Path | None:
    """The file or folder of a name without folders in `place`: with its suffix or without, of a whole or a decoder."""
    if Path(name).name != name:
        return None
    stems = (name, *(f"{stem}{suffix}" for stem in (f"{name}_decoder", name) for suffix in WEIGHT_SUFFIXES))
    return next((place / stem for stem in stems if (place / stem).exists()), None)


def preview_file(kind: str, roots: Roots = HERE) -> Path | None:
    """The tiny VAE in models/vae_approx that decodes latents of `kind`, by its published name; else None."""
    for models in roots.models:
        for stem in PREVIEW_STEMS.get(kind, ()):
            for suffix in WEIGHT_SUFFIXES:
                if (path := models / FOLDER / f"{stem}{suffix}").is_file():
                    return path
    return None


def tiny_vae(path: str | Path) -> Component:
    """The tiny VAE in a file or a diffusers folder, before its weights are read. Raises UserError for another kind."""
    path = expanded(path)
    if path.is_dir():
        folder = component_folder(path, "vae")
        found = folder_component(folder, "vae")
        if found.config.get("_class_name") != "AutoencoderTiny":
            raise _none(folder, found.config.get("_class_name") or "VAE")
        return found
    header = read_header(path)
    kind = recognise_header(header)
    if kind.kind not in ("vae_tiny", "vae_tiny_decoder"):
        raise _none(path, kind.title) if kind.kind == "vae" else wrong_kind(kind, "vae_tiny")
    found = tiny_component(header, header.tensors)
    assert found is not None, "recognised as one"
    return found


def _none(path: Path, title: str) -> UserError:
    return UserError(f"{path}: a {title}, not a tiny VAE (TAESD) as `{TINY}` says; leave `{TINY}` out")


def tiny_component(header: Header, names: Iterable[str], prefix: str = "") -> Component | None:
    """The VAE of a file with the keys `prefix` + `names`, if it is a tiny one; its encoder may lie beside it.

    Its latents have the scale of the UNet's already.
    """
    found = _in_diffusers_names(names)
    if not any(name.startswith("decoder.") and ".conv.0." in name for name in found):
        return None
    keys = {name: prefix + key for name, key in found.items()}
    unknown = sorted({*names} - {*found.values()} - {*_OF_COMFYUI})
    if not any(name.startswith("encoder.") for name in found) and (beside := _encoder_beside(header)) is not None:
        header = _joined(header, keys, beside)
        keys = {name: name for name in header.tensors}
    config = _config({name: header.tensors[key].shape for name, key in keys.items()})
    plan = {name: Source(key=key) for name, key in keys.items()}
    return Component(name="vae", header=header, plan=plan, config=config, unknown=[prefix + name for name in unknown])


def load_tiny_vae(path: str | Path, *, dtype: torch.dtype | None = None) -> nn.Module:
    """The AutoencoderTiny in a file or folder; of a decoder alone, images cannot be encoded. Raises UserError."""
    return build([tiny_vae(path)], dtype=dtype)["vae"]


def original_decoder(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict of diffusers' tiny decoder in the names of TAESD's own file."""
    return {_moved(name.removeprefix("layers."), 1): value for name, value in state.items()}


def _in_diffusers_names(names: Iterable[str]) -> dict[str, str]:
    """Names of AutoencoderTiny -> names in the file, of those that a tiny autoencoder has."""
    names = list(names)
    bare = "encoder" if any(name.startswith("0.") for name in names) else "decoder"
    found = {}
    for name in names:
        if match := _OF_HALF.fullmatch(name):
            half, moved = match["half"], 0 if match["layers"] else -1
        elif match := _BARE.fullmatch(name):
            half, moved = bare, -1
        else:
            continue
        moved = moved if half == "decoder" else 0
        found[f"{half}.layers.{_moved(name[match.start('number') :], moved)}"] = name
    return found


def _moved(name: str, by: int) -> str:
    number, _, rest = name.partition(".")
    return f"{int(number) + by}.{rest}"


def _config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration of an AutoencoderTiny whose tensors have these shapes; that of the published ones."""
    config: dict[str, Any] = {"_class_name": "AutoencoderTiny"}
    for half in ("encoder", "decoder"):
        own = {name.removeprefix(f"{half}.layers."): shape for name, shape in shapes.items() if name.startswith(half)}
        if not own:
            config[WITHOUT_ENCODER] = True
            continue
        blocks, width = _blocks(own)
        config |= {f"num_{half}_blocks": tuple(blocks), f"{half}_block_out_channels": (width,) * len(blocks)}
        if half == "decoder":
            config["latent_channels"] = own.get("0.weight", (0, 4))[1]
    return config


def _blocks(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[int], int]:
    """The number of blocks in each stage of a half, which convolutions without bias divide, and its channels."""
    counts, last = [0], max(int(name.partition(".")[0]) for name in shapes)
    for number in range(1, last):
        if f"{number}.conv.0.weight" in shapes:
            counts[-1] += 1
        elif f"{number}.weight" in shapes:
            counts.append(0)
    return counts, shapes.get("0.weight", (64,))[0]


def _encoder_beside(decoder: Header) -> Header | None:
    """The encoder's own file beside a decoder's, known by its name: taesd_encoder beside taesd_decoder."""
    if "decoder" not in decoder.path.stem:
        return None
    stem = "encoder".join(decoder.path.stem.rsplit("decoder", 1))
    for suffix in dict.fromkeys((decoder.path.suffix, *WEIGHT_SUFFIXES)):
        if (path := decoder.path.with_name(stem + suffix)).is_file():
            header = read_header(path)
            found = recognise_header(header)
            if found.kind == "vae_tiny_encoder":
                return header
            raise UserError(
                f"{path}: stands beside {decoder.path.name} as its encoder, and is {found.title}; put the encoder of "
                "the tiny VAE (TAESD) there, or move this file away"
            )
    return None


def _joined(decoder: Header, keys: Mapping[str, str], encoder: Header) -> Header:
    """One header of both files, in diffusers' names, as bare numbers of the halves are the same."""
    tensors = {name: replace(decoder.tensors[key], file=decoder.path) for name, key in keys.items()}
    for name, key in _in_diffusers_names(encoder.tensors).items():
        tensors[name] = replace(encoder.tensors[key], file=encoder.path)
    return replace(decoder, tensors=tensors, size=decoder.size + encoder.size)
