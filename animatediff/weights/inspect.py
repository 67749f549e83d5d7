"""Describe a weight file for people: kind, evidence, size, precision, keys, and the settings that suit it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.weights.addons.embedding_files import FOLDER_FILES, read_embedding
from animatediff.weights.base.unet_kinds import unet_refusal
from animatediff.weights.families import LIGHTNING_NAME, STEPS_IN_NAME
from animatediff.weights.family_evidence import how_to_say
from animatediff.weights.fit import Fit
from animatediff.weights.keys import motion_shapes
from animatediff.weights.kinds import BASE_TITLES, KINDS
from animatediff.weights.lora.few_steps import few_step_lora
from animatediff.weights.lora.source import KNOWN_NAMES, lora_header, lora_in_folder
from animatediff.weights.motion import expected_shapes, find_header, motion_layout
from animatediff.weights.names import BY_WIDTH
from animatediff.weights.published import example, row_of
from animatediff.weights.recognise import Recognised, recognise_header
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header, read_header
from animatediff.weights.storage.folders import folder_header, part_folder, read_json
from animatediff.weights.storage.paths import expanded, shown

BASE_SIZES = {"sd1": 512, "sdxl": 1024}
"""Pixels along each side that a base model was trained on; Stable Diffusion 2.x comes in both 512 and 768."""
STRENGTHS = {
    "motion_lora": "0.8 to 1.0",
    "domain_adapter": "1.0; lower for less of the training videos' look",
    "lora": "0.6 to 1.0",
}

WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2", "motion_adapter")
"""Components of a diffusers folder that have weights which are read."""
MAX_FILES, MAX_DEPTH = 200, 3
"""Files of a folder that are listed, and folders below it that are looked into."""
MAX_WORDS = 10
PARTS = {
    "vae": re.compile(r"(first_stage_model|vae)\."),
    "text_encoder": re.compile(r"(cond_stage_model|conditioner\.embedders\.0|text_encoder)\."),
    "text_encoder_2": re.compile(r"(conditioner\.embedders\.1|text_encoder_2)\."),
}
"""Setting of a part of an image model -> its names in a single file."""
IMAGE_WIDTHS = {
    "image_proj.proj.weight": "projection_dim",
    "image_proj.proj_in.weight": "hidden_size",
    "image_proj.proj.0.weight": "hidden_size",
}
"""Tensor of an IP-Adapter that is as wide as what it reads -> setting of the image encoder with that width."""
CLIP_NAMES = {
    ("projection_dim", 1024): " (ViT-H)",
    ("projection_dim", 1280): " (ViT-bigG)",
    ("hidden_size", 1280): " (ViT-H)",
    ("hidden_size", 1664): " (ViT-bigG)",
}
CAMERA = {"num_frames": 16, "width": 384, "height": 256, "num_inference_steps": 25, "guidance_scale": 14.0}
"""Recommended with CameraCtrl."""
CONDITIONS = {
    "rgb": {"takes": "images"},
    "scribble": {"takes": "sketches, white lines on black", "control_end": "0.2 to 0.4 against watermarks"},
}
"""Conditions that SparseCtrl encoders take, and settings for them."""


def describe(path: str | Path) -> dict[str, Any]:
    """Facts about a weight file or a folder of them, as plain values that JSON can hold; nothing is loaded.

    Of a folder that is one model, the facts about that; of any other, a line for each weight file in it. Raises
    UserError for a file without weights (`files.read_header`), and a folder without weight files.
    """
    path = expanded(path)
    if not os.path.isdir(path):  # never the hub: to inspect is to look at what is here
        return _facts(lora_header(path))
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{shown(path)}: permission denied; make the folder readable for this user")
    if (path / "model_index.json").is_file():
        return _whole_folder(path)
    files = _weight_files(path)
    try:
        return _facts(_folder_header(path, files))
    except UserError as error:
        if not files:
            raise
        return _facts(lora_header(files[0])) if len(files) == 1 else _many(path, files, str(error))


def _facts(header: Header) -> dict[str, Any]:
    found = recognise_header(header)
    kind, hindrance = KINDS[found.kind], _hindrance(found)
    facts: dict[str, Any] = {
        "file": str(header.path),
        "what": found.named,
        "kind": found.kind,
        "family": found.judgement and found.judgement.title(),
        "confidence": found.judgement and found.judgement.confidence,
        "dialect": found.dialect,
        "variant": found.variant,
        "made_for": BASE_TITLES.get(found.base or ""),
        "evidence": list(found.evidence),
        "size": f"{header.size / 1e6:,.1f} MB ({header.size:,} bytes)",
        "format": header.format,
        "dtype": _dtypes(header),
        "tensors": len(header.tensors),
        "parameters": f"{sum(prod(info.shape) for info in header.tensors.values()):,}",
        "keys": _keys(header),
        "settings": _settings(found) or None,
        "notes": [*_notes(found), *header.notes] or None,
        "give_it_to": f"{kind.taken_by}{' (its folder)' * kind.as_folder}" if kind.settings and not hindrance else None,
        "what_to_do": hindrance or (kind.advice if kind.instead else None),
        **_published(found, hindrance),
        "metadata": {key: _short(value) for key, value in header.metadata.items()} or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _published(found: Recognised, hindrance: str | None) -> dict[str, str | None]:
    """What files of this kind and family give, and a command with this one."""
    row = row_of(found)
    if row is None:
        return {}
    return {"gives": row.gives, "example": None if hindrance or not KINDS[found.kind].settings else example(found)}


def _hindrance(found: Recognised) -> str | None:
    """The reason why no setting takes a file, although one takes its kind; None where there is none."""
    header = found.header
    problems = [f"its tensor {key!r} is {info.refusal}" for key, info in header.tensors.items() if info.refusal][:1]
    if found.kind in ("base_model", "unet"):  # of which not every tensor is read
        problems = []
    if found.kind == "motion_module" and found.family is not None:
        try:
            expected = expected_shapes(motion_layout(found, found.family))
            problems += Fit.of(motion_shapes(header.shapes), expected).problems()
        except UserError as error:
            problems.append(str(error).removeprefix(f"{header.path}: "))
    return f"it cannot be loaded: {'; '.join(problems)}" if problems else None


def _folder_header(folder: Path, files: list[Path]) -> Header:
    """The header of the one model in a folder: a LoRA, an embedding, or a component in the diffusers layout.

    Raises UserError where none is.
    """
    lora = lora_in_folder(folder)
    if lora is not None and (len(files) == 1 or lora.path == folder or lora.path.name in KNOWN_NAMES):
        return lora
    named = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    return find_header(folder) if named is None else read_header(named)


def _weight_files(folder: Path) -> list[Path]:
    """The weight files in a folder and in those below, however they got there; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(place).relative_to(folder).parts) >= MAX_DEPTH:
            folders.clear()
        found += [Path(place, name) for name in sorted(names) if Path(name).suffix.lower() in WEIGHT_SUFFIXES]
    return found


def _many(folder: Path, files: list[Path], reason: str) -> dict[str, Any]:
    """A folder of several models: what each file is, or why that cannot be said."""
    lines = []
    for file in files[:MAX_FILES]:
        line = {"file": str(file.relative_to(folder))}
        try:
            found = recognise_header(lora_header(file))
        except (UserError, OSError) as error:
            lines.append(line | {"error": str(error)})
            continue
        advice = {} if found.kind == "unknown" else {"what_to_do": KINDS[found.kind].advice}
        lines.append(line | {"what": found.named, "kind": found.kind} | advice)
    facts: dict[str, Any] = {
        "file": str(folder),
        "what": f"folder of {len(files)} weight files",
        "kind": "folder",
        "evidence": [reason.removeprefix(f"{folder}: ")],
        "files": lines,
    }
    if rest := len(files) - len(lines):
        facts["notes"] = [f"and {rest} more files"]
    return facts


def _dtypes(header: Header) -> str:
    counts = Counter(info.dtype for info in header.tensors.values())
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{dtype} ({count})" for dtype, count in counts.most_common()) or "none"


def _keys(header: Header, first: int = 3) -> list[str]:
    keys = [f"{key} {list(info.shape)}" for key, info in list(header.tensors.items())[:first]]
    rest = len(header.tensors) - len(keys)
    return [*keys, f"and {rest:,} more"] if rest else keys


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def _settings(found: Recognised) -> dict[str, Any]:
    if found.family is not None:
        numerics = found.family.numerics
        settings = {name: value for name, value in asdict(found.family.recommended).items() if value is not None}
        settings["window"] = min(found.family.recommended.num_frames or 16, numerics.max_positions)
        settings["longest_window"] = numerics.max_positions
        settings["noise_schedule"] = (
            "the base model's own"
            if found.family.betas is None
            else ", ".join(f"{name} {value}" for name, value in found.family.betas.items())
        )
        settings["group_norm_over_frames"] = (
            ", ".join(
                where
                for where, over in (
                    ("image layers", numerics.image_norm_over_frames),
                    ("motion modules", numerics.motion_norm_over_frames),
                )
                if over
            )
            or "none"
        )
        return settings
    if found.kind == "cameractrl":
        return {"motion_module": "v3_sd15_mm.ckpt, with v3_sd15_adapter.ckpt", **CAMERA}
    if found.variant in CONDITIONS:
        return {**CONDITIONS[found.variant], "strength": "1.0"}
    few = few_step_lora(found.header) if found.kind in ("lora", "domain_adapter") else None
    if found.kind in STRENGTHS:
        ranks = sorted(_ranks(found.header))
        rank = {"rank": ranks[0] if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"} if ranks else {}
        if few is not None:
            wanted = {name: value for name, value in asdict(few.recommended).items() if value is not None}
            return {**rank, "strength": "0.8 to 1.0", **wanted}
        return {**rank, "strength": STRENGTHS[found.kind]}
    if found.kind in ("base_model", "unet") and found.base in BASE_SIZES:
        return {"height": BASE_SIZES[found.base], "width": BASE_SIZES[found.base]}
    if found.kind == "textual_inversion":
        words = read_embedding(found.header.path).words
        return {"words": ", ".join(word.name or found.header.path.stem for word in words[:MAX_WORDS])}
    if found.kind == "ip_adapter":
        shapes = found.header.shapes
        for key, name in IMAGE_WIDTHS.items():
            if len(shape := shapes.get(key, ())) == 2:
                return {"image_encoder": f"CLIP with {name} {shape[1]}{CLIP_NAMES.get((name, shape[1]), '')}"}
    return {}


def _notes(found: Recognised) -> list[str]:
    """Advice that goes with a kind or family; the suggestion of a name is passed on as no more than that."""
    name = found.header.path.name
    if found.kind in ("lora", "domain_adapter"):
        if (few := few_step_lora(found.header)) is not None:
            return [f"few-step LoRA, {few.title}: {few.evidence}"]
        if "faceid" in re.sub(r"[\W_]", "", name.lower()):
            return ["its name says that it goes with an IP-Adapter FaceID, which this version cannot run"]
        return []
    if found.kind in ("base_model", "unet"):
        absent = [part for part, pattern in PARTS.items() if not any(map(pattern.match, found.header.tensors))]
        if found.base != "sdxl":
            absent = [part for part in absent if part != "text_encoder_2"]
        return [f"without {' and '.join(absent)}: add {', '.join(f'`{part}`' for part in absent)}"] if absent else []
    if found.family is None:
        return [] if found.judgement is None else [how_to_say(found.judgement)]
    if found.family.name == "v2" and LIGHTNING_NAME.search(name):
        steps = STEPS_IN_NAME.search(name)
        return [
            "its name suggests AnimateDiff-Lightning, which no tensor can tell from v2: give `family` lightning with it"
            + (f" (takes {steps[1]} steps)" if steps else "")
        ]
    return [found.family.notes] if found.family.notes else []


def _ranks(header: Header) -> set[int]:
    down = re.compile(r"(?:lora[._](?:down|A)|\.down)(?:\.[\w-]+)?\.weight$|lora_A\.weight$")
    return {info.shape[0] for key, info in header.tensors.items() if info.shape and down.search(key)}


def _unreadable(folder: Path, components: Iterable[str]) -> list[str]:
    """What hinders weights of a diffusers folder from being read: missing parts, links to nothing, cut downloads."""
    problems = []
    for name in components:
        if name in WEIGHTS and (folder / name).is_dir():
            try:
                folder_header(folder / name)
            except (UserError, OSError) as error:
                problems.append(str(error).removeprefix(f"{folder}/"))
    return problems


def _whole_folder(folder: Path) -> dict[str, Any]:
    """A diffusers folder of several components."""
    index = read_json(folder / "model_index.json")
    components = {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
    }
    places = {name: part_folder(folder, name) for name in components}
    missing = [name for name, place in places.items() if not place.is_dir()]
    shared = [name for name, place in places.items() if place.parent != folder]
    size = sum(child.stat().st_size for child in folder.rglob("*") if child.is_file())
    evidence = [f"model_index.json says {index.get('_class_name', 'nothing of its class')}"]
    if shared:
        evidence.append(f"{' and '.join(shared)} are those of the bundled model")
    config = read_json(folder / "unet" / "config.json") if (folder / "unet" / "config.json").is_file() else {}
    if "unet" not in components:
        kind, what = KINDS["base_other"], "base_other"
    elif components["unet"] != "UNetMotionModel" and (reason := unet_refusal(config)) is not None:
        kind, what = KINDS["base_unsuited"], "base_unsuited"
        evidence.append(f"its UNet is {reason}")
    else:
        kind, what = KINDS["base_model"], "base_model"
    problems = _unreadable(folder, components) if kind.settings else []
    width = config.get("cross_attention_dim")
    base = "sdxl" if "text_encoder_2" in components else BY_WIDTH.get(width if isinstance(width, int) else 0)
    facts: dict[str, Any] = {
        "file": str(folder),
        "what": "diffusers folder" if kind.settings else f"diffusers folder: {kind.title}",
        "kind": what,
        "made_for": BASE_TITLES.get(base or "") if kind.settings else None,
        "evidence": evidence,
        "size": f"{size / 1e6:,.1f} MB ({size:,} bytes)",
        "components": components,
        "missing": missing or None,
        "give_it_to": None if problems else kind.taken_by,
        "what_to_do": f"it cannot be loaded as it is: {'; '.join(problems)}"
        if problems
        else (kind.advice if kind.instead else None),
    }
    return {name: value for name, value in facts.items() if value is not None}
