"""Recognise a weight file by the names and shapes in its header, not by its own name, and give the evidence.

Of motion modules, published names may decide between families that no tensor tells apart (`family_evidence.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.base.generation import generation_of
from animatediff.weights.families import Family, family_of_metadata
from animatediff.weights.family_evidence import Judgement, judge
from animatediff.weights.keys import (
    EMA_PREFIX,
    MOTION_KEY,
    dialect_of,
    layout_of,
    motion_prefix,
    to_internal,
    without_prefix,
)
from animatediff.weights.storage.files import Header, read_header

TITLES = {
    "motion_module": "motion module",
    "motion_lora": "MotionLoRA",
    "domain_adapter": "domain adapter (LoRA of the image layers, original grammar)",
    "lora": "LoRA of an image model",
    "sparsectrl": "SparseCtrl encoder",
    "base_model": "whole Stable Diffusion model in one file",
    "vae": "VAE",
    "textual_inversion": "textual inversion embedding",
    "animatelcm_i2v": "AnimateLCM image-to-video module",
    "pia": "PIA module",
    "cameractrl": "CameraCtrl module",
    "controlnet": "ControlNet",
    "unet": "image UNet without text encoder and VAE",
    "unknown": "unknown kind of weights",
}
"""Kind -> its name in messages."""

SETTINGS = {
    "motion_module": "`motion_module`, or load_motion_module",
    "motion_lora": "`motion_loras`, or load_lora_weights",
    "domain_adapter": "`domain_adapter`, or load_lora_weights",
    "lora": "`loras`, or load_lora_weights",
    "base_model": "`model`, or from_single_file",
    "vae": "`vae`",
    "textual_inversion": "`embeddings`",
    "sparsectrl": "`sparsectrl`, or load_sparsectrl",
    "controlnet": "`controlnet`, or load_controlnet",
}
"""Kind -> the setting, and the method of a pipeline, that takes such a file."""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The kind of a file, and the evidence for it."""

    kind: str
    header: Header
    evidence: list[str] = field(default_factory=list)
    family: Family | None = None
    """Of motion modules, with the position-table length of the file; None where two families remain possible."""
    judgement: Judgement | None = None
    """Of whole motion modules: how sure the family is, and why."""
    dialect: str | None = None
    variant: str | None = None
    """Of SparseCtrl encoders: "rgb" or "scribble"."""
    base: str | None = None
    """Kind of base model it belongs to: sd1, sd2, sdxl."""

    @property
    def title(self) -> str:
        """Name of the kind, for a sentence."""
        return TITLES[self.kind]


def recognise(path: str | Path) -> Recognised:
    """Say what a weight file is. Raises UserError for a file without weights (`files.read_header`)."""
    return recognise_header(read_header(path))


def recognise_header(header: Header) -> Recognised:
    """Say what the file with this header is; `kind` is "unknown" where no rule fits."""
    if prefix := motion_prefix(header.tensors):
        header = replace(header, tensors=without_prefix(header.tensors, prefix))
    for detect in _DETECTORS:
        if (found := detect(header)) is not None:
            if prefix:
                average = ", averaged weights" if EMA_PREFIX.search(prefix) else ""
                found.evidence.append(f"its names begin with {prefix}{average}")
            return found
    first = ", ".join(list(header.tensors)[:3]) or "nothing"
    return Recognised(kind="unknown", header=header, evidence=[f"no rule fits its names: {first}"])


def wrong_kind(found: Recognised, wanted: str) -> UserError:
    """The error for a file of another kind than the one that was asked for."""
    text = f"{found.header.path}: {found.title}, not a {TITLES[wanted]} ({found.evidence[0]})"
    if found.kind in SETTINGS:
        text += f"; give it to {SETTINGS[found.kind]}"
    elif found.kind in ("pia", "animatelcm_i2v", "cameractrl"):
        text += "; this version cannot run it"
    return UserError(text)


def _any(header: Header, pattern: str) -> str | None:
    search = re.compile(pattern).search
    return next((key for key in header.tensors if search(key)), None)


def _lora(header: Header) -> Recognised | None:
    key = _any(header, r"(_lora\.|\.lora[_.]|lora_(down|up|A|B)\b|\.hada_w\d|\.lokr_w\d|\.oft_|\.dora_scale)")
    if key is None:
        return None
    evidence = [f"low-rank layers such as {key}"]
    temporal = _any(header, r"motion_modules|temporal_attentions")
    if temporal is not None:
        evidence.append(f"on the motion modules: {temporal}")
        dialect = "original" if "processor" in temporal or "attention_blocks" in temporal else "diffusers"
        return Recognised(kind="motion_lora", header=header, evidence=evidence, dialect=dialect, base="sd1")
    if _any(header, r"^lora_(unet|te\d?)_"):
        sdxl = _any(
            header, r"^lora_te2_|input_blocks_[478]_1_transformer_blocks_[1-9]|_attentions_\d_transformer_blocks_[1-9]"
        )
        dialect, base = "kohya", "sdxl" if sdxl else None
    elif _any(header, r"^(unet\.)?(down|up|mid)_block\w*\..*attn[12]\.processor\."):
        if _any(header, r"^text_encoder\."):
            dialect, base = "diffusers", None
        else:
            return Recognised(kind="domain_adapter", header=header, evidence=evidence, dialect="original", base="sd1")
    else:
        dialect, base = ("peft" if _any(header, r"lora_A") else "diffusers"), None
    return Recognised(kind="lora", header=header, evidence=evidence, dialect=dialect, base=base)


def _sparsectrl(header: Header) -> Recognised | None:
    moves = any(MOTION_KEY.match(key) for key in header.tensors)
    for name, variant in (("conv_in.weight", "scribble"), ("weight", "rgb")):
        key = f"controlnet_cond_embedding.{name}"
        # A ControlNet has the same conditioning embedding, but no motion modules.
        if key in header.tensors and moves:
            return Recognised(
                kind="sparsectrl",
                header=header,
                evidence=[f"has {key}"],
                dialect=dialect_of(header.tensors),
                variant=variant,
                base=_base_by_text(header),
            )
    if key := _any(header, r"^(control_model\.|input_hint_block\.|controlnet_(down_blocks|cond_embedding)\.)"):
        return Recognised(kind="controlnet", header=header, evidence=[f"has {key}"])
    return None


def _base_by_text(header: Header) -> str | None:
    """The base model whose prompt embeddings have the width that cross attentions in this file take."""
    widths = {
        info.shape[1] for key, info in header.tensors.items() if key.endswith(".attn2.to_k.weight") and info.shape[1:]
    }
    return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(widths.pop()) if len(widths) == 1 else None


def _motion_relatives(header: Header) -> Recognised | None:
    if (key := _any(header, r"\.qkv_merge\.")) and _any(header, r"^encoder\."):
        return Recognised(kind="cameractrl", header=header, evidence=[f"has {key}"], base="sd1")
    if not any(MOTION_KEY.match(key) for key in header.tensors):
        return None
    if key := _any(header, r"^img_encoder\."):
        return Recognised(kind="animatelcm_i2v", header=header, evidence=[f"has {key}"], base="sd1")
    conv_in = header.tensors.get("conv_in.weight")
    if conv_in is not None and len(conv_in.shape) == 4 and conv_in.shape[1] == 9:
        return Recognised(kind="pia", header=header, evidence=["conv_in.weight takes 9 channels"], base="sd1")
    return None


def _motion_module(header: Header) -> Recognised | None:
    internal = to_internal(header.shapes)
    if not internal:
        return None
    dialect = dialect_of(header.tensors)
    evidence = [f"{len(internal)} tensors of motion modules in the {dialect} grammar"]
    layout = layout_of(internal)
    if layout is None:
        stated = family_of_metadata(header.metadata, str(header.path))
        missing = "but blocks or modules are missing: is it whole?"
        if stated is None:
            return Recognised(kind="unknown", header=header, evidence=[*evidence, missing])
        said = f"its metadata says family {stated.name}"
        evidence = [*evidence, said, missing]
        return Recognised(
            kind="motion_module", header=header, evidence=evidence, family=stated, dialect=dialect, base=stated.base
        )
    judged = judge(header, layout, dialect)
    return Recognised(
        kind="motion_module",
        header=header,
        evidence=[*evidence, *judged.evidence],
        family=judged.family,
        judgement=judged,
        dialect=dialect,
        base=judged.base,
    )


def _base_model(header: Header) -> Recognised | None:
    if not (key := _any(header, r"^model\.diffusion_model\.")):
        return None
    try:
        generation = generation_of(header)
    except UserError as error:
        reason = str(error).removeprefix(f"{header.path}: ")
        return Recognised(kind="unknown", header=header, evidence=[f"has {key}, but is {reason}"])
    titles = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
    evidence = [f"has {key}", f"the UNet of {titles[generation]}"]
    return Recognised(kind="base_model", header=header, evidence=evidence, dialect="original", base=generation)


def _parts(header: Header) -> Recognised | None:
    if key := _any(header, r"^(first_stage_model\.)?(encoder\.(conv_in|down)|decoder\.(conv_in|up)).*weight$"):
        return Recognised(kind="vae", header=header, evidence=[f"has {key}"])
    if key := _any(header, r"^(down_blocks|up_blocks)\.\d+\.resnets\."):
        return Recognised(kind="unet", header=header, evidence=[f"has {key}"], dialect="diffusers")
    small = len(header.tensors) <= 4 and all(1 <= len(info.shape) <= 2 for info in header.tensors.values())
    widths = {info.shape[-1] for info in header.tensors.values() if info.shape}
    if small and header.tensors and widths <= {768, 1024, 1280}:
        base = {frozenset({768}): "sd1", frozenset({1024}): "sd2"}.get(frozenset(widths), "sdxl")
        evidence = [f"{len(header.tensors)} vectors of width {sorted(widths)}"]
        return Recognised(kind="textual_inversion", header=header, evidence=evidence, base=base)
    return None


_DETECTORS: tuple[Callable[[Header], Recognised | None], ...] = (
    _lora,
    _sparsectrl,
    _motion_relatives,
    _motion_module,
    _base_model,
    _parts,
)
