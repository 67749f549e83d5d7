"""Describe a weight file for people: kind, evidence, size, precision, keys, and the settings that suit it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.weights.families import LIGHTNING_NAME, STEPS_IN_NAME
from animatediff.weights.family_evidence import how_to_say
from animatediff.weights.lora.few_steps import few_step_lora
from animatediff.weights.lora.source import lora_header, lora_in_folder
from animatediff.weights.motion import find_header
from animatediff.weights.recognise import SETTINGS, Recognised, recognise_header
from animatediff.weights.storage.files import Header
from animatediff.weights.storage.folders import read_json
from animatediff.weights.storage.paths import expanded, shown

BASE_TITLES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
BASE_SIZES = {"sd1": 512, "sdxl": 1024}
"""Pixels along each side that a base model was trained on; Stable Diffusion 2.x comes in both 512 and 768."""
STRENGTHS = {
    "motion_lora": "0.8 to 1.0",
    "domain_adapter": "1.0; lower for less of the training videos' look",
    "lora": "0.6 to 1.0",
}

CONDITIONS = {
    "rgb": {"takes": "images"},
    "scribble": {"takes": "sketches, white lines on black", "control_end": "0.2 to 0.4 against watermarks"},
}
"""Conditions that SparseCtrl encoders take, and settings for them."""


def describe(path: str | Path) -> dict[str, Any]:
    """Facts about a weight file or diffusers folder, as plain values that JSON can hold; nothing is loaded.

    Raises UserError for a file without weights (`files.read_header`).
    """
    path = expanded(path)
    if not os.path.isdir(path):  # never the hub: to inspect is to look at what is here
        header = lora_header(path)
    elif not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{shown(path)}: permission denied; make the folder readable for this user")
    elif (path / "model_index.json").is_file():
        return _whole_folder(path)
    else:
        header = lora_in_folder(path) or find_header(path)
    found = recognise_header(header)
    facts: dict[str, Any] = {
        "file": str(header.path),
        "what": found.title,
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
        "notes": [*(_notes(found) or []), *header.notes] or None,
        "give_it_to": SETTINGS.get(found.kind),
        "metadata": {key: _short(value) for key, value in header.metadata.items()} or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


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
    if found.kind == "base_model" and found.base in BASE_SIZES:
        return {"height": BASE_SIZES[found.base], "width": BASE_SIZES[found.base]}
    return {}


def _notes(found: Recognised) -> list[str] | None:
    """Advice that goes with a family; the suggestion of a name is passed on as no more than that."""
    if found.kind in ("lora", "domain_adapter") and (few := few_step_lora(found.header)) is not None:
        return [f"an {few.title}: {few.evidence}"]
    if found.family is None:
        judged = found.judgement
        return None if judged is None else [how_to_say(judged)]
    notes = [found.family.notes] if found.family.notes else []
    name = found.header.path.name
    if found.family.name == "v2" and LIGHTNING_NAME.search(name):
        steps = STEPS_IN_NAME.search(name)
        notes = [
            "its name suggests AnimateDiff-Lightning, which no tensor can tell from v2: give `family` lightning with it"
            + (f" (takes {steps[1]} steps)" if steps else "")
        ]
    return notes or None


def _ranks(header: Header) -> set[int]:
    down = re.compile(r"(?:lora[._](?:down|A)|\.down)(?:\.[\w-]+)?\.weight$|lora_A\.weight$")
    return {info.shape[0] for key, info in header.tensors.items() if info.shape and down.search(key)}


def _whole_folder(folder: Path) -> dict[str, Any]:
    """A diffusers folder of several components."""
    index = read_json(folder / "model_index.json")
    components = {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
    }
    missing = [name for name in components if not (folder / name).is_dir()]
    size = sum(child.stat().st_size for child in folder.rglob("*") if child.is_file())
    base = "sdxl" if "text_encoder_2" in components else None
    facts: dict[str, Any] = {
        "file": str(folder),
        "what": "diffusers folder",
        "kind": "base_model",
        "made_for": BASE_TITLES.get(base or ""),
        "evidence": [f"model_index.json says {index.get('_class_name', 'nothing of its class')}"],
        "size": f"{size / 1e6:,.1f} MB ({size:,} bytes)",
        "components": components,
        "missing": missing or None,
        "give_it_to": SETTINGS["base_model"],
    }
    return {name: value for name, value in facts.items() if value is not None}
