"""The parts of an image model that users replace: its VAE and its text encoders, from wherever they are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.components import Component, planned_shapes
from animatediff.weights.base.model_configs import Generation, text_config, vae_config
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.folders import component_folder, read_json, weights_file

if TYPE_CHECKING:
    from torch import nn

    Part = Component | nn.Module
    Supplied = str | Path | nn.Module | None

TITLES = {"vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}


def _absent(name: str, path: Path, looked_for: str) -> UserError:
    return UserError(
        f"{path}: has no {TITLES[name]} (no keys {looked_for}*); give one with `{name}` (a file or a diffusers folder)"
    )


def _unprefixed(header: Header, prefixes: tuple[str, ...]) -> tuple[str, list[str]]:
    """The first of `prefixes` that keys of the file start with, and those keys without it."""
    for prefix in prefixes:
        if names := ldm.strip(header.tensors, prefix):
            return prefix, names
    return "", []


def _located(supplied: str | Path, name: str) -> tuple[Header, dict[str, Any] | None]:
    """Header and, for a diffusers folder, the configuration of a component given by path."""
    path = Path(supplied).expanduser()
    if path.is_dir():
        folder = component_folder(path, name)
        return read_header(weights_file(folder)), read_json(folder / "config.json")
    return read_header(path), None


def vae_component(
    header: Header | None, supplied: Supplied, *, generation: Generation, config: Mapping[str, Any] | None
) -> Part:
    """The VAE that was supplied, else the one in `header`. Raises UserError if there is none."""
    prefixes: tuple[str, ...] = (ldm.VAE_PREFIX,)
    if supplied is not None:
        if not isinstance(supplied, str | Path):
            return supplied
        header, found = _located(supplied, "vae")
        config = found if config is None else config
        prefixes = (ldm.VAE_PREFIX, "vae.", "")
    assert header is not None, "either a file or a supplied VAE"
    prefix, names = _unprefixed(header, prefixes)
    names = [name for name in names if not ldm.IGNORED_TOP.match(ldm.VAE_PREFIX + name)]
    plan, unknown = ldm.vae_plan(name for name in names if not ldm.IGNORED_TOP.match(name))
    if not plan:
        if supplied is not None:
            raise UserError(f"{header.path}: given as VAE, but has no VAE keys (encoder.*, decoder.*, quant_conv.*)")
        raise _absent("vae", header.path, ldm.VAE_PREFIX)
    plan = ldm.with_prefix(plan, prefix)
    chosen = dict(config) if config is not None else vae_config(planned_shapes(header, plan), generation)
    return Component(name="vae", header=header, plan=plan, config=chosen, unknown=[prefix + name for name in unknown])


def text_component(
    header: Header | None,
    supplied: Supplied,
    name: str,
    *,
    generation: Generation,
    config: Mapping[str, Any] | None,
) -> Part:
    """The text encoder `name` that was supplied, else the one in `header`. Raises UserError if there is none."""
    prefixes = ldm.TEXT_PREFIXES[generation][name]
    if supplied is not None:
        if not isinstance(supplied, str | Path):
            return supplied
        header, found = _located(supplied, name)
        config = found if config is None else config
        prefixes = (*prefixes, "transformer.", "")
    assert header is not None, "either a file or a supplied text encoder"
    prefix, names = _unprefixed(header, prefixes)
    template = dict(config) if config is not None else text_config({}, generation, name)
    projection = "CLIPTextModelWithProjection" in template.get("architectures", ())
    # SD 2.x reads OpenCLIP's last layer but one: files carry 24 layers, the model has 23
    layers = template["num_hidden_layers"] if generation == "sd2" and config is None else None
    plan, unknown = ldm.text_plan(names, projection=projection, num_layers=layers)
    if not any(target.startswith("encoder.layers.") for target in plan):
        if supplied is not None:
            raise UserError(f"{header.path}: given as {TITLES[name]}, but has no keys of a CLIP text encoder")
        raise _absent(name, header.path, prefixes[0])
    plan = ldm.with_prefix(plan, prefix)
    if config is None:
        template = text_config(planned_shapes(header, plan), generation, name)
    return Component(name=name, header=header, plan=plan, config=template, unknown=[prefix + key for key in unknown])
