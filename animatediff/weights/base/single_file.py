"""Image models from single files: SD 1.x, SD 2.x and SDXL in the LDM layout, with no network.

Everything is decided from the file's header: which base model version it is, how large its parts are, what is missing.
Only then are tensors read, straight into the one copy that the model keeps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.components import Component, are_weights_read, build, planned_shapes
from animatediff.weights.base.folder import download_base, load_base_folder
from animatediff.weights.base.generation import generation_of
from animatediff.weights.base.model_configs import CONFIGS, Generation, shipped_config, unet_config
from animatediff.weights.base.prediction import (
    PREDICTION_TYPES,
    SD2_BASE_SIZE,
    SamplingFacts,
    probe_prediction,
    sampling_facts,
)
from animatediff.weights.base.quantized import quantization
from animatediff.weights.base.replacements import check_parts, require_parts, text_component, vae_component
from animatediff.weights.hub import is_hub_id
from animatediff.weights.recognise import recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, read_header

if TYPE_CHECKING:
    import torch
    from torch import nn

    from animatediff.weights.base.replacements import Part

logger = logging.getLogger(__name__)

QUIET_TEXT = ("logit_scale", "text_projection", "text_projection.weight", "position_ids")
"""Ends of keys that text encoders leave beside themselves, and that a base model does without."""


def require_base(header: Header) -> Generation:
    """Recognise the Stable Diffusion of a single file. Raises UserError that says what the file is if it is none."""
    if ldm.unet_prefix(header.tensors) is None:
        raise _instead(header)
    return generation_of(header)


def _instead(header: Header) -> UserError:
    """The message for a file that is no base model: what it is and where it belongs."""
    keys = header.tensors
    if any(key.startswith(ldm.EMA_PREFIX) for key in keys):
        return UserError(
            f"{header.path}: has only averaged weights ({ldm.EMA_PREFIX}*), no {ldm.UNET_PREFIX}*; give the whole file"
        )
    return wrong_kind(recognise_header(header), "base_model")


def load_base_single_file(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    vae: str | Path | nn.Module | None = None,
    text_encoder: str | Path | nn.Module | None = None,
    text_encoder_2: str | Path | nn.Module | None = None,
    prediction_type: str | None = None,
    use_ema: bool = False,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The components of an SD 1.x, SD 2.x or SDXL single file, named as in diffusers, without network.

    `vae`, `text_encoder`, `text_encoder_2`: a file, a diffusers folder or a module that is taken instead of what the
    file has; needed where the file has none. `prediction_type`: "epsilon" or "v_prediction"; by default what the file
    says (`prediction.sampling_facts`), and for an SD 2.x file that says nothing what its UNet does when tried.
    `use_ema` takes the averaged UNet weights. `config`: by component, replaces the configuration found from the shapes.
    `dtype=None` keeps the file's. Raises UserError, before anything is read, that lists all missing and unknown keys
    by component.
    """
    if prediction_type is not None and prediction_type not in PREDICTION_TYPES:
        raise UserError(f"prediction_type={prediction_type!r}: expected one of {', '.join(PREDICTION_TYPES)}")
    header = read_header(path)
    generation = require_base(header)
    facts = _told_facts(header, prediction_type)
    given = dict(config or {})
    unet = _unet(header, generation, use_ema=use_ema, config=given.get("unet"))
    parts: dict[str, Part] = {"unet": unet}
    if (kind := quantization(header, [source.key for source in unet.plan.values()])) is not None:
        raise UserError(f"{path}: {kind}")
    given_parts = {"vae": vae, "text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    require_parts(header, given_parts, generation)
    parts["vae"] = vae_component(header, vae, generation=generation, config=given.get("vae"))
    supplied = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    for name in ldm.TEXT_PREFIXES[generation]:
        parts[name] = text_component(header, supplied.pop(name), name, generation=generation, config=given.get(name))
    if unused := [name for name, value in supplied.items() if value is not None]:
        raise UserError(f"{path}: an {generation} model has no {unused[0]}; leave {unused[0]} out")
    _tell_unused(header, generation)
    check_parts(parts)
    _fit_time_ids(parts)
    _fit_latents(parts["vae"], facts, header.path, own=vae is None and "vae" not in given)
    built = build([part for part in parts.values() if isinstance(part, Component)], dtype=dtype)
    components: dict[str, Any] = {name: built.get(name, part) for name, part in parts.items()}
    components |= tokenizers(generation)
    if dtype is not None:
        for name, part in parts.items():
            if not isinstance(part, Component):
                components[name] = part.to(dtype)
    prediction_type = prediction_type or facts.prediction_type
    if prediction_type is None:
        probed = generation == "sd2" and are_weights_read()
        prediction_type = probe_prediction(components["unet"], header.path) if probed else "epsilon"
    if generation == "sd2" and prediction_type == "epsilon":
        components["unet"].register_to_config(sample_size=SD2_BASE_SIZE)
    components["scheduler"] = scheduler(
        generation,
        prediction_type,
        zero_snr=_zero_snr(facts, prediction_type, header.path),
        edm=facts.edm,
        betas=facts.betas,
    )
    return components


def _zero_snr(facts: SamplingFacts, prediction_type: str, path: Path) -> bool:
    """Whether to sample with zero terminal SNR; said where the file states it in vain."""
    if not facts.zero_snr or facts.edm is not None:
        return False
    if prediction_type != "v_prediction":
        logger.warning(
            "%s: says zero terminal SNR, but predicts the noise, which tells nothing of the image where there is no "
            "signal; zero terminal SNR is left out; if it predicts the velocity, give prediction_type=v_prediction",
            path,
        )
    return prediction_type == "v_prediction"


def _told_facts(header: Header, prediction_type: str | None) -> SamplingFacts:
    """Facts of a file about sampling, logged. Raises UserError for a prediction that cannot be sampled here."""
    facts = sampling_facts(header)
    if facts.summary:
        logger.info("%s: %s (%s)", header.path, facts.summary, "; ".join(facts.evidence))
    for contradiction in facts.contradictions:
        logger.warning("%s: contradicts itself: %s", header.path, contradiction)
    if prediction_type is None and facts.unknown_prediction is not None:
        raise UserError(
            f"{header.path}: says that it predicts {facts.unknown_prediction!r}, and only "
            f"{' and '.join(PREDICTION_TYPES)} can be sampled; if the file is wrong, give `prediction_type`"
        )
    stated = facts.prediction_type or facts.unknown_prediction
    if prediction_type is not None and stated not in (None, prediction_type):
        logger.warning(
            "%s: says that it predicts %s; taken as %s, as `prediction_type` says", header.path, stated, prediction_type
        )
    return facts


def _fit_latents(vae: Part, facts: SamplingFacts, path: Path, *, own: bool) -> None:
    """Give the VAE the latent statistics that the file states; `own` says that it is the file's own VAE."""
    settings = dict(facts.vae)
    if not settings or ("latents_mean" not in settings and not own):
        return
    if "latents_mean" in settings:
        for name in ("latents_mean", "latents_std"):
            if len(settings[name]) != 4 or not all(isfinite(value) for value in settings[name]):
                raise UserError(f"{path}: {name.replace('latents', 'edm')} has to be 4 numbers, got {settings[name]}")
    if isinstance(vae, Component):
        if own or vae.config.get("latents_mean") is None:
            vae.config.update(settings)
        return
    config: Any = vae.config
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        raise UserError(
            f"{path}: its latents are normalised by edm_mean and edm_std, and the given VAE's configuration has "
            "neither latents_mean nor latents_std; give the VAE as a file, or leave `vae` out"
        )


def _unet(header: Header, generation: Generation, *, use_ema: bool, config: Mapping[str, Any] | None) -> Component:
    plan, unknown = ldm.unet_plan_of(header.tensors)
    if use_ema:
        plan = {
            target: ldm.Source(key=ldm.ema_key(source.key.removeprefix(ldm.UNET_PREFIX)))
            for target, source in plan.items()
        }
        missing = [source.key for source in plan.values() if source.key not in header.tensors]
        if missing:
            raise UserError(
                f"{header.path}: use_ema was asked for, but {len(missing)} of {len(plan)} averaged weights are missing "
                f"(first {missing[0]}); load without use_ema"
            )
    chosen = dict(config) if config is not None else unet_config(planned_shapes(header, plan), generation)
    if chosen.get("mid_block_type", "") is None:
        logger.info("%s: a UNet without mid block, as distilled ones are", header.path)
    return Component(name="unet", header=header, plan=plan, config=chosen, unknown=unknown)


def _fit_time_ids(parts: Mapping[str, Part]) -> None:
    """SDXL: the width of each of the six size numbers is what the pooled text leaves of the added embedding."""
    unet: Part = parts["unet"]
    text: Any = parts.get("text_encoder_2")
    if not isinstance(unet, Component) or "add_embedding.linear_1.weight" not in unet.plan or text is None:
        return
    pooled = text.config["projection_dim"] if isinstance(text, Component) else text.config.projection_dim
    unet.config["addition_time_embed_dim"] = (unet.config["projection_class_embeddings_input_dim"] - pooled) // 6


def _tell_unused(header: Header, generation: Generation) -> None:
    prefixes = [prefix for found in ldm.TEXT_PREFIXES[generation].values() for prefix in found]
    known = (ldm.unet_prefix(header.tensors) or "", ldm.VAE_PREFIX, *prefixes)
    odd = [
        key
        for key in header.tensors
        if not key.startswith(known) and not ldm.IGNORED_TOP.match(key) and not key.endswith(QUIET_TEXT)
    ]
    if odd:
        logger.warning("%s: %d tensors of no known component are not used, first %s", header.path, len(odd), odd[:3])


def tokenizers(generation: Generation) -> dict[str, Any]:
    """The CLIP tokenizers of a base model version, from the vocabulary that ships."""
    from transformers import CLIPTokenizer

    names = ("tokenizer", "tokenizer_2") if generation == "sdxl" else ("tokenizer",)
    made = {}
    for name in names:
        settings = shipped_config(generation, name)
        settings.pop("tokenizer_class")
        made[name] = CLIPTokenizer.from_pretrained(CONFIGS / "clip", local_files_only=True, **settings)
    return made


def scheduler(
    generation: Generation,
    prediction_type: str,
    *,
    zero_snr: bool = False,
    edm: Mapping[str, Any] | None = None,
    betas: Mapping[str, Any] | None = None,
) -> Any:
    """The scheduler a base model version is published with, for a model that predicts `prediction_type`.

    edm: configuration of the scheduler of a model trained on EDM noise levels, in its place; betas: laid over.
    """
    import diffusers

    if edm is not None:
        return getattr(diffusers, edm["_class_name"]).from_config({**edm, "prediction_type": prediction_type})
    settings = shipped_config(generation, "scheduler") | {"prediction_type": prediction_type, **(betas or {})}
    if zero_snr:
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return getattr(diffusers, settings["_class_name"]).from_config(settings)


def load_vae(
    path: str | Path,
    *,
    base: Generation = "sd1",
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """An AutoencoderKL from a VAE file (LDM or diffusers keys), a base model's single file, or a diffusers folder.

    `base` decides the scaling factor where the file has none to say ("sdxl": 0.13025, else 0.18215).
    """
    part = vae_component(None, path, generation=base, config=config)
    if not isinstance(part, Component):
        return part
    return build([part], dtype=dtype)["vae"]


def load_base(name: str | Path, *, dtype: torch.dtype | None = None, **supplied: Any) -> dict[str, Any]:
    """The components of a base model: a single file, a diffusers folder, or a hub id (only that uses the network).

    `supplied`: `vae`, `text_encoder`, `text_encoder_2`, for a single file also `prediction_type`, `use_ema`, `config`,
    for a folder or id also `variant`, `unet`, `tokenizer`, `tokenizer_2`, `scheduler`.
    """
    path = located_base(name, dtype=dtype, variant=supplied.get("variant"))
    if path.is_dir():
        return load_base_folder(path, dtype=dtype, **supplied)
    return load_base_single_file(path, dtype=dtype, **supplied)


def located_base(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    subfolder: str = "",
    hub: Mapping[str, Any] | None = None,
) -> Path:
    """The file or folder of a base model here; that of a hub id is fetched (only then the network is used)."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path / subfolder
    if path.is_file() or not is_hub_id(str(name)):
        return path
    return download_base(str(name), dtype=dtype, variant=variant, subfolder=subfolder, hub=hub)
