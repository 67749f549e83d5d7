"""The parts of an image model that users replace: its VAE and its text encoders, from wherever they are given."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.files import TINY
from animatediff.weights.base import ldm
from animatediff.weights.base.components import (
    CLASSES,
    OF_TRANSFORMERS,
    TITLES,
    Component,
    check_class,
    planned_shapes,
    stated_class,
)
from animatediff.weights.base.model_configs import Generation, text_config, vae_config
from animatediff.weights.base.tiny_vae import tiny_component, tiny_path, tiny_vae
from animatediff.weights.hub import fetch_folder
from animatediff.weights.recognise import check_setting, recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.folders import STEMS, component_folder, folder_header, read_json
from animatediff.weights.storage.paths import expanded

if TYPE_CHECKING:
    from torch import nn

    Part = Component | nn.Module
    Supplied = str | Path | nn.Module | None

logger = logging.getLogger(__name__)

TEXT_PREFIXES = ("transformer.", "clip_l.transformer.", "clip_g.transformer.", "text_encoder.", "text_encoder_2.", "")
"""Prefixes of the keys of files that hold a text encoder alone, beside those of single files."""
OWN_LORAS = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
"""LoRAs that people leave in the folder of a component."""
LONG_CLIP = "positional_embedding_res"
"""Positions that only LongCLIP's own files have, beside CLIP's."""
PROMPT_TOKENS = 77
"""Positions of a prompt that are read at once."""


def _absent(names: Sequence[str], path: Path, looked_for: Iterable[str]) -> UserError:
    """The message for a file without these components, which says how each is given."""
    titles = " and no ".join(TITLES[name] for name in names)
    options = " and ".join(f"`{name}`" for name in names)
    one = "one" if len(names) == 1 else "each"
    return UserError(
        f"{path}: has no {titles} (no keys {', '.join(f'{prefix}*' for prefix in looked_for)}); give {one} with "
        f"{options} (a file or a diffusers folder)"
    )


def require_parts(header: Header, supplied: Mapping[str, Supplied], generation: Generation) -> None:
    """Raise UserError that names every part that a single file lacks and that is not supplied."""
    prefixes = {"vae": (ldm.VAE_PREFIX,), **ldm.TEXT_PREFIXES[generation]}
    absent = [
        name
        for name, places in prefixes.items()
        if supplied.get(name) is None and not any(key.startswith(places) for key in header.tensors)
    ]
    if len(absent) == len(prefixes):
        names = ldm.strip(header.tensors, ldm.unet_prefix(header.tensors) or "")
        layout = "diffusers" if ldm.in_diffusers_names(names) else "LDM"
        raise UserError(
            f"{header.path}: only a UNet, in the {layout} layout, not a whole model; add "
            f"{', '.join(f'`{name}`' for name in absent)} (a file or a diffusers folder each)"
        )
    if absent:
        raise _absent(absent, header.path, [prefixes[name][0] for name in absent])


def _unprefixed(header: Header, prefixes: tuple[str, ...]) -> tuple[str, list[str]]:
    """The first of `prefixes` that keys of the file start with, and those keys without it."""
    for prefix in prefixes:
        if names := ldm.strip(header.tensors, prefix):
            return prefix, names
    return "", []


def _located(
    supplied: str | Path, name: str, *, half: bool = False, variant: str | None = None
) -> tuple[Header, dict[str, Any] | None]:
    """Header of a component given by path and, where it is diffusers' folder or a file in one, its configuration."""
    path = expanded(supplied)
    if not path.is_dir():
        return read_header(path), _config_beside(path, name)
    folder = component_folder(path, name)
    return located_in(folder, name, half=half, variant=variant)


def located_in(
    folder: Path, name: str, *, half: bool = False, variant: str | None = None
) -> tuple[Header, dict[str, Any]]:
    """Header and configuration of a component's own folder.

    Raises UserError for one of another class; a LoRA that lies in it is left out with a warning.
    """
    config = _config_in(folder, name)
    check_class(config, name, folder)
    for lora in OWN_LORAS:
        if (folder / lora).is_file():
            logger.warning("%s: the LoRA in it (%s) is left out; give it with `lora`", folder, lora)
    return folder_header(folder, half=half, variant=variant), config


def _config_in(folder: Path, name: str) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if isinstance(of_text := config.get("text_config"), dict) and name != "vae":  # a whole CLIP: its text half
        usual = "CLIPTextModelWithProjection" if name == "text_encoder_2" else "CLIPTextModel"
        config = {"projection_dim": config.get("projection_dim", 512), **of_text, "architectures": [usual]}
    return config


def _config_beside(file: Path, name: str) -> dict[str, Any] | None:
    """The configuration of a component's folder, for a file in it of a name that diffusers or transformers give."""
    folder = file.parent
    if not file.name.startswith(tuple(f"{stem}." for stem in STEMS)) or not (folder / "config.json").is_file():
        return None
    config = _config_in(folder, name)
    states = "architectures" if name in OF_TRANSFORMERS else "_class_name"
    return config if config.get(states) and stated_class(config, name) in CLASSES[name] else None


def vae_component(
    header: Header | None, supplied: Supplied, *, generation: Generation, config: Mapping[str, Any] | None
) -> Part:
    """The VAE that was supplied, else the one in `header`. Raises UserError if there is none."""
    prefixes: tuple[str, ...] = (ldm.VAE_PREFIX,)
    if supplied is not None:
        if not isinstance(supplied, str | Path):
            return supplied
        if str(supplied).startswith(TINY):
            part = tiny_vae(tiny_path(str(supplied), fetched=_fetched))
            _check_made_for(part.header, generation)
            return part
        header, found = _located(supplied, "vae")
        _check_made_for(header, generation)
        config = found if config is None else config
        prefixes = (ldm.VAE_PREFIX, "vae.", "")
    assert header is not None, "either a file or a supplied VAE"
    return vae_of(header, prefixes, supplied is not None, generation=generation, config=config)


def _fetched(name: str) -> Path:
    from animatediff.weights.motion import hub_files

    return fetch_folder(name, hub_files)


def _check_made_for(header: Header, generation: Generation) -> None:
    """Raise UserError for a tiny VAE of the other kind of latents, or of which there is no decoder."""
    found = recognise_header(header)
    if found.kind.startswith("vae_tiny"):
        check_setting(found, "vae", bases=(generation,))


def vae_of(
    header: Header,
    prefixes: tuple[str, ...] = ("",),
    alone: bool = True,
    *,
    generation: Generation,
    config: Mapping[str, Any] | None,
) -> Component:
    """The VAE under one of `prefixes` in a file; `alone` says that it is a VAE's own file. Raises UserError if none."""
    prefix, names = _unprefixed(header, prefixes)
    names = [name for name in names if not ldm.IGNORED_TOP.match(ldm.VAE_PREFIX + name)]
    names = [name for name in names if not ldm.IGNORED_TOP.match(name)]
    if config is None and alone and (tiny := tiny_component(header, names, prefix)) is not None:
        return tiny
    if config is not None and stated_class(config, "vae") != "AutoencoderKL":
        plan = {name: ldm.Source(key=prefix + name) for name in names}
        return Component(name="vae", header=header, plan=plan, config=dict(config))
    plan, unknown = ldm.vae_plan(names)
    if not plan or (alone and not any(name.startswith(("encoder.", "decoder.")) for name in plan)):
        raise _no_vae(header) if alone else _absent(["vae"], header.path, [ldm.VAE_PREFIX])
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if not any(name.startswith(f"{half}.") for name in plan):
            raise UserError(
                f"{header.path}: has only the {other} of a VAE, no {half}.*; give a whole VAE with `vae`, a file or a "
                "diffusers folder"
            )
    plan = ldm.with_prefix(plan, prefix)
    chosen = dict(config) if config is not None else vae_config(planned_shapes(header, plan), generation)
    return Component(name="vae", header=header, plan=plan, config=chosen, unknown=[prefix + name for name in unknown])


def _no_vae(header: Header) -> UserError:
    """The message for a file that was given as VAE and is none."""
    found = recognise_header(header)
    if found.kind.startswith("vae_"):
        return wrong_kind(found, "vae")
    return UserError(f"{header.path}: given as VAE, but has no VAE keys (encoder.*, decoder.*, quant_conv.*)")


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
        prefixes = (*prefixes, *TEXT_PREFIXES)
    assert header is not None, "either a file or a supplied text encoder"
    return text_of(header, name, prefixes, supplied is not None, generation=generation, config=config)


def text_of(
    header: Header,
    name: str,
    prefixes: tuple[str, ...] = ("",),
    alone: bool = True,
    *,
    generation: Generation,
    config: Mapping[str, Any] | None,
) -> Component:
    """The text encoder under one of `prefixes` in a file; `alone` as in `vae_of`. Raises UserError if there is none."""
    template = dict(config) if config is not None else text_config({}, generation, name)
    projection = stated_class(template, name) == "CLIPTextModelWithProjection"
    # SD 2.x reads OpenCLIP's last layer but one: files carry 24 layers, the model has 23
    layers = template["num_hidden_layers"] if generation == "sd2" and config is None else None
    for prefix in prefixes:
        names = ldm.strip(header.tensors, prefix)
        plan, unknown = ldm.text_plan(names, projection=projection, num_layers=layers)
        if any(target.startswith("encoder.layers.") for target in plan):
            break
    else:
        if alone:
            raise UserError(f"{header.path}: given as {TITLES[name]}, but has no keys of a CLIP text encoder")
        raise _absent([name], header.path, prefixes[:1])
    if LONG_CLIP in unknown:
        raise UserError(
            f"{header.path}: a LongCLIP in its original layout, with a second table of positions ({LONG_CLIP}); give "
            "one in the layout of transformers"
        )
    plan = ldm.with_prefix(plan, prefix)
    if config is None:
        template = text_config(planned_shapes(header, plan), generation, name)
    if (positions := template.get("max_position_embeddings", PROMPT_TOKENS)) > PROMPT_TOKENS:
        logger.warning(
            "%s: a text encoder with %d positions (LongCLIP); prompts are read in chunks of %d, with its first ones",
            header.path,
            positions,
            PROMPT_TOKENS,
        )
    return Component(name=name, header=header, plan=plan, config=template, unknown=[prefix + key for key in unknown])


def check_parts(parts: Mapping[str, Any]) -> None:
    """Raise UserError where VAE or text encoders, each given or found, do not go with the UNet's sizes."""
    unet = _config(parts["unet"])
    _check_vae(parts["vae"], unet)
    texts = {
        name: _config(parts[name]).get("hidden_size", 512)
        for name in ("text_encoder", "text_encoder_2")
        if name in parts
    }
    wanted = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim", 1280)
    if isinstance(wanted, int) and unet.get("encoder_hid_dim_type") in (None, "text_proj"):
        if sum(texts.values()) == wanted:
            return
        made = " and ".join(f"{width} of the {TITLES[name]}{_from(parts[name])}" for name, width in texts.items())
        raise UserError(
            f"the UNet{_from(parts['unet'])} takes prompt embeddings of width {wanted}, and {made} "
            f"{'makes' if len(texts) == 1 else 'make'} {sum(texts.values())}: of another kind of model; give the "
            "text encoder that goes with this UNet (768: SD 1.x, 1024: SD 2.x, 768 and 1280: SDXL)"
        )


def _check_vae(vae: Any, unet: Mapping[str, Any]) -> None:
    if not isinstance(vae, Component) and type(vae).__name__ == "ConsistencyDecoderVAE":
        raise UserError("a ConsistencyDecoderVAE, which draws noise of its own to decode; give an AutoencoderKL as vae")
    config = _config(vae)
    found, wanted = config.get("latent_channels", 4), unet.get("in_channels", 4)
    if found != wanted:
        newer = " (16: SD 3, Flux and their kin)" if found == 16 else ""
        raise UserError(
            f"the VAE{_from(vae)} has latents of {found} channels{newer}, the UNet takes {wanted}; give the VAE of "
            "this kind of model with `vae`"
        )


_LEVELS = ("decoder_block_out_channels", "up_block_out_channels", "block_out_channels")


def check_pixels_per_latent(vae: Any, own: Mapping[str, Any]) -> None:
    """Raise UserError for a VAE that makes another number of pixels of a latent than the model's own."""
    found, wanted = (
        next((2 ** (len(config[name]) - 1) for name in _LEVELS if config.get(name)), None)
        for config in (_config(vae), own)
    )
    if found is not None and wanted is not None and found != wanted:
        raise UserError(
            f"the VAE{_from(vae)} makes {found} pixels of a latent along each side, this model's own {wanted}; give "
            "one for this model with `vae`, or leave it out"
        )


def _config(part: Any) -> Mapping[str, Any]:
    if isinstance(part, Component):
        return part.config
    config = getattr(part, "config", {})
    return config if isinstance(config, Mapping) else config.to_dict()


def _from(part: Any) -> str:
    """Where a part was read, for a message."""
    return f" in {part.header.path}" if isinstance(part, Component) else ""
