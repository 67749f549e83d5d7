"""What whoever deploys the model decides: `settings.yaml`, and the folder `models/` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, unknown
from animatediff.files import parse_yaml, read_text

HERE = Path(__file__).resolve().parents[1]
"""The folder of `cog.yaml`."""
BOUNDS = {"max_frames": 512, "max_clip_pixels": 2**28, "max_pixels": 2**25, "max_prompt_chars": 8000}
"""Limits of the library that are lower here, unless the environment sets them."""
SECTIONS = ("defaults", "limits")
KEYS = (*SECTIONS, "models_in_memory")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one deployment."""

    models: Path = HERE / "models"
    """A folder like the original's models/, with everything that a request can name."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of inputs that a request leaves out."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The largest value of an input."""
    models_in_memory: int = 1
    """Models that are kept at most; an image model with its motion module and its LoRAs is one."""


def read_settings(folder: Path = HERE) -> Settings:
    """The settings in `folder`. Raises UserError for a file that does not read, and for an unknown section or input."""
    from .inputs import settable

    path = folder / "settings.yaml"
    content = (parse_yaml(read_text(path), path.name)[0] if path.exists() else None) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path.name}: expected {', '.join(KEYS)}")
    if extra := next((key for key in content if key not in KEYS), None):
        raise unknown(f"section of {path.name}", extra, KEYS)
    kept = content.get("models_in_memory", 1)
    if not isinstance(kept, int) or kept < 1:
        raise UserError(f"{path.name}: models_in_memory is a whole number, at least 1")
    found: dict[str, dict[str, Any]] = {name: content.get(name) or {} for name in SECTIONS}
    for section, values in found.items():
        if not isinstance(values, dict):
            raise UserError(f"{path.name}: {section} holds no inputs with their values")
        for name, value in values.items():
            if name not in settable():
                raise unknown(f"input in {section} of {path.name}", name, settable())
            if section == "limits" and not isinstance(value, int | float):
                raise UserError(f"{path.name}: the limit of {name} is no number")
    return Settings(models=folder / "models", models_in_memory=kept, **found)
