"""The small model that ships with the package, and the sprite world it was trained on."""

from __future__ import annotations

from pathlib import Path


def bundled_path() -> Path:
    """Folder of the bundled image model, in the diffusers layout."""
    return Path(__file__).parent / "model"


def motion_module_path() -> Path:
    """File of the bundled motion module, in the original key grammar."""
    return Path(__file__).parent / "motion_module.safetensors"
