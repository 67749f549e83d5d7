"""A pipeline as a folder in diffusers' layout, and what diffusers has no place for, in its `model_index.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, unknown
from animatediff.pipelines.parts import LoadedParts, base_pipeline, is_sdxl
from animatediff.pipelines.precision import DTYPES
from animatediff.weights.diffusers_norm import runs_otherwise
from animatediff.weights.lora.load import lora_names, uncompiled
from animatediff.weights.silence import quiet_loading

logger = logging.getLogger(__name__)

RECORD = "_animatediff"
"""Entry of `model_index.json` that diffusers passes over: sampler, words that were added, places of other networks."""
MOTION = "motion_adapter"
CAMERA = "camera_control/camera_control.safetensors"
"""Where a CameraCtrl model lies, which diffusers has no place for."""
SETTINGS = ("safe_serialization", "variant", "max_shard_size")


def save(pipe: LoadedParts, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write a pipeline. Raises UserError for settings that cannot be followed, and where it cannot be written."""
    settings = {name: value for name, value in settings.items() if value not in (None, False) or name in SETTINGS}
    if odd := set(settings) - set(SETTINGS):
        if "push_to_hub" in odd:
            raise UserError("nothing is uploaded here; save to a folder, and upload that (`hf upload`)")
        raise unknown("keyword of save_pretrained", min(odd), SETTINGS)
    if absent := [name for name in ("unet", "vae", "text_encoder") if getattr(pipe, name) is None]:
        raise UserError(f"a pipeline without {absent[0]} is not saved; make it with all its parts")
    if pipe.unet.device.type == "meta":
        raise UserError("save before enable_sequential_cpu_offload hides the weights")
    if folder.is_file():
        raise UserError(f"{folder}: a file has this name; give a folder")
    _say_left_out(pipe, folder)
    # diffusers changes settings of the scheduler that a pipeline is made of
    plain = base_pipeline({**_components(pipe), "scheduler": deepcopy(pipe.base.scheduler)})
    plain.register_modules(scheduler=pipe.base.scheduler)
    try:
        with quiet_loading():
            plain.save_pretrained(folder, **settings)
        added = _save_additions(pipe, folder, settings.get("variant"))
        place = folder / "model_index.json"
        index = json.loads(place.read_text("utf-8")) | added
        for name in ("safety_checker", "requires_safety_checker"):
            index.pop(name, None)
        place.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder}: could not be written ({error.strerror or error}); check free space and permissions"
        ) from error


def restore(pipe: LoadedParts, index: Mapping[str, Any], scheduler: Any = None) -> None:
    """Give a loaded pipeline the sampler that its folder's `model_index.json` states, and its words.

    `scheduler` is one that was given by hand. The scheduler of a pipeline that diffusers animates with is its own
    choice, and kept as it is.
    """
    record = index.get(RECORD) or {}
    if words := record.get("embeddings"):
        from animatediff.weights.addons.embeddings import LoadedEmbedding

        pipe.embeddings = [LoadedEmbedding(**{**word, "aliases": tuple(word["aliases"])}) for word in words]
    if scheduler is not None:
        pipe.scheduler = scheduler
    elif record.get("sampler"):
        _restore_sampler(pipe, record["sampler"])
    elif str(index.get("_class_name", "")).startswith("AnimateDiff"):
        pipe.scheduler = type(pipe.sampler.base).from_config(pipe.sampler.base.config)


def _restore_sampler(pipe: LoadedParts, stated: Mapping[str, Any]) -> None:
    import diffusers

    made = getattr(diffusers, stated["class"])
    pipe.sampler.base = made.from_config(stated["config"])
    pipe.sampler.name, pipe.sampler.by_hand = stated["name"], stated["by_hand"]
    if stated["by_hand"]:
        pipe.base.scheduler = pipe.sampler.base
    else:
        pipe.renew_scheduler()


def _components(pipe: LoadedParts) -> dict[str, Any]:
    """Components without motion modules, LoRAs and IP-Adapters, sharing their weights."""
    from animatediff.weights.base.motion_unet import sharing

    found = {name: part for name, part in pipe.base.components.items() if name != "safety_checker"}
    unet: Any = uncompiled(pipe.unet)
    config = {**unet.config, "_class_name": "UNet2DConditionModel"}
    if config.get("encoder_hid_dim_type") == "ip_image_proj":
        config["encoder_hid_dim_type"] = None
        found.pop("image_encoder", None)
    found["unet"] = sharing(config, unet.state_dict(), "unet")
    for name in ("text_encoder", "text_encoder_2"):
        encoder: Any = found.get(name)
        if encoder is not None and lora_names([encoder]):
            config = {**encoder.config.to_dict(), "architectures": [type(encoder).__name__]}
            found[name] = sharing(config, encoder.state_dict(), name, name)
    return found


def _save_additions(pipe: LoadedParts, folder: Path, variant: str | None) -> dict[str, Any]:
    """Write motion modules and networks beside the image model; returns their entries of `model_index.json`."""
    from animatediff.weights.diffusers_motion import save_motion_folder
    from animatediff.weights.sparsectrl import save_sparsectrl_folder

    kind = "SDXL" if is_sdxl(pipe.base) else ""
    index: dict[str, Any] = {}
    attachment = pipe.attachment
    if attachment is not None:
        index[MOTION] = ["diffusers", "MotionAdapter"]
        if reason := save_motion_folder(attachment.adapter, pipe.family, folder / MOTION, variant=variant):
            logger.warning("%s: diffusers cannot load these motion modules: %s", folder / MOTION, reason)
    places = ["controlnet", *(f"controlnet_{number}" for number in range(1, len(pipe.controlnets)))]
    for place, network in zip(places, pipe.controlnets, strict=False):
        network.save_pretrained(folder / place, variant=variant)
    if pipe.controlnets:
        kind = kind or "ControlNet"
        name = "ControlNetModel" if len(pipe.controlnets) == 1 else "MultiControlNetModel"
        index["controlnet"] = ["diffusers", name]
    elif pipe.sparsectrl is not None:
        kind = kind or "SparseControlNet"
        index["controlnet"] = ["diffusers", "SparseControlNetModel"]
    if pipe.sparsectrl is not None:
        place = folder / ("sparsectrl" if pipe.controlnets else "controlnet")
        if reason := save_sparsectrl_folder(pipe.sparsectrl, place, variant=variant):
            logger.warning("%s: diffusers cannot load this SparseCtrl encoder: %s", place, reason)
    if pipe.camera_control is not None:
        from animatediff.weights.cameractrl import save_cameractrl

        (folder / CAMERA).parent.mkdir(exist_ok=True)
        save_cameractrl(pipe.camera_control, folder / CAMERA, metadata={"format": "pt"})
    if attachment is not None:
        index["_class_name"] = f"AnimateDiff{kind}Pipeline"
    return index | {RECORD: _record(pipe)}


def _record(pipe: LoadedParts) -> dict[str, Any]:
    from animatediff.sampling.schedulers import full_config

    sampler = pipe.sampler
    words = [{**asdict(word), "others": ()} for word in pipe.embeddings]
    return {
        "sampler": {
            "class": type(sampler.base).__name__,
            "config": json.loads(json.dumps(dict(full_config(sampler.base)), default=list)),
            "name": sampler.name,
            "by_hand": sampler.by_hand,
        },
        "dtypes": {
            name: dtype
            for name in ("unet", "vae", "text_encoder", "text_encoder_2")
            if (part := getattr(pipe.base, name, None)) is not None
            and (dtype := str(part.dtype).removeprefix("torch.")) in DTYPES
        },
        "embeddings": words,
        "sparsectrl": "sparsectrl" if pipe.sparsectrl is not None and pipe.controlnets else None,
        "camera_control": None if pipe.camera_control is None else CAMERA,
    }


def _say_left_out(pipe: LoadedParts, folder: Path) -> None:
    models = [pipe.unet, *pipe.text_encoders]
    if loras := [name for name in lora_names(models) if name not in pipe.base.fused_loras]:
        logger.warning(
            "%s: LoRAs are not saved (%s): load them again, or make them part of the weights by `fuse_lora` before",
            folder,
            ", ".join(loras),
        )
    if pipe.attachment is not None and runs_otherwise(pipe.attachment.adapter.numerics) is not None:
        logger.info("%s: diffusers computes other frames from it unless its norms are changed (docs/models.md)", folder)
    if getattr(pipe.unet, "encoder_hid_proj", None) is not None:
        logger.warning("%s: the IP-Adapter is not saved: load it again", folder)
