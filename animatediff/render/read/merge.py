"""Settings of a file, with the files that they name found, and with other settings on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from animatediff.files import HERE, Roots, behind_tiny, find
from animatediff.render.options import PATH_FIELDS, names_file
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.request_inputs import is_note

PER_PROMPT = ("negative_prompt", "seed")


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `overrides` on top; other prompts than the file's take as many seeds as they need."""
    overrides = normal_prompts(overrides) if _starts_travel(overrides) else overrides
    merged = {**values, **overrides}
    if "prompt" in overrides and "prompt_travel" not in overrides:  # other prompts than the file's, not on its way
        merged.pop("prompt_travel", None)
    if "prompt" in overrides:
        count = len(overrides["prompt"]) if isinstance(overrides["prompt"], (list, tuple)) else 1
        for name in PER_PROMPT:
            if name not in overrides and isinstance(merged.get(name), list) and len(merged[name]) > 1:
                merged[name] = merged[name][:count] if len(merged[name]) >= count else merged[name][:1]
    return merged


def _starts_travel(overrides: Mapping[str, Any]) -> bool:
    """Whether these settings say what the clip shows from its first frame on, and on the way."""
    return "prompt" in overrides or any(str(frame) == "0" for frame in overrides.get("prompt_travel") or ())


def resolve(values: Mapping[str, Any], folders: Sequence[Path] = (), roots: Roots = HERE) -> dict[str, Any]:
    """`values` with every file name replaced by the file found (see `find`)."""

    def found(value: Any, kind: str) -> Any:
        if isinstance(value, str) and value:
            tiny, name = behind_tiny(value)
            return tiny + find(name, folders, kind, roots)
        if isinstance(value, (list, tuple)):
            return [found(item, kind) for item in value]
        if is_note(value):
            return value
        if isinstance(value, Mapping) and "path" in value:
            return {**value, "path": found(value["path"], kind)}
        if isinstance(value, Mapping):  # keyframes as {frame: file}
            return {key: found(item, kind) for key, item in value.items()}
        return value

    return {
        key: found(value, PATH_FIELDS[key])
        if key in PATH_FIELDS and not (isinstance(value, str) and not names_file(key, value))
        else value
        for key, value in values.items()
    }
