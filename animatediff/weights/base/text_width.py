"""Width of the prompt embeddings that a network takes, which tells the base model it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.kinds import SHORT_TITLES
from animatediff.weights.names import BY_WIDTH
from animatediff.weights.storage.files import read_header
from animatediff.weights.storage.folders import folder_header

CROSS_ATTENTION = ".attn2.to_k.weight"

Shape = tuple[int, ...]


def base_cross_attentions(model: Path) -> list[Shape]:
    """Shapes of the key projections of a base model's cross attentions, of a diffusers folder or a single file.

    Empty where nothing says it; files that cannot be read are reported where the model is loaded.
    """
    try:
        if model.is_dir():
            return cross_attentions(folder_header(model / "unet").shapes)
        return cross_attentions(read_header(model).shapes) if model.is_file() else []
    except (UserError, OSError):
        return []


def cross_attentions(shapes: Mapping[str, Shape]) -> list[Shape]:
    """Shapes (width, text width) of the key projections in a UNet, or in a network made from one."""
    others = ("cond_stage_model.", "conditioner.")  # text encoders of single files
    keys = (key for key in shapes if key.endswith(CROSS_ATTENTION) and "motion_modules" not in key)
    return [shapes[key] for key in keys if not key.startswith(others) and len(shapes[key]) > 1]


def base_text_width(model: Path) -> int | None:
    """Width of a base model's prompt embeddings, of a diffusers folder or a single file; None where nothing says it."""
    return next((shape[1] for shape in base_cross_attentions(model)), None)


def text_width(shapes: Mapping[str, Shape]) -> int | None:
    """Width of the prompt embeddings that the cross attentions of a UNet, or of a network made from one, take."""
    return next((shape[1] for shape in cross_attentions(shapes)), None)


def in_words(width: int) -> str:
    """A width with its base model, for a message.

    >>> in_words(2048), in_words(32)
    ('2048 (SDXL)', '32')
    """
    return f"{width} ({SHORT_TITLES[BY_WIDTH[width]]})" if width in BY_WIDTH else str(width)
