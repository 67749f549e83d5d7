"""Folders in the diffusers layout: where a component's configuration and weights are, whatever their vintage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from animatediff.errors import UserError

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of weight files: diffusers, transformers, transformers before safetensors."""
VARIANTS = ("", ".fp16", ".bf16", ".non_ema")
SUFFIXES = (".safetensors", ".bin")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it is missing or damaged."""
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for its writer
            raise UserError(f"{path}: not a file; download it again")
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the diffusers folder is incomplete, download it again") from None
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}; download it again")
    return content


def component_folder(folder: Path, name: str) -> Path:
    """The folder of component `name`: a whole model's subfolder, or `folder` itself if it is the component.

    Raises UserError if it is neither.
    """
    if (folder / name).is_dir():
        return folder / name
    if (folder / "config.json").is_file():
        return folder
    raise UserError(f"{folder}: neither a folder {name}/ nor a config.json is in it; give a diffusers folder or a file")


def preferred_weights(names: list[str], *, half: bool = False, variant: str | None = None) -> str | None:
    """The weight file to read of those in a component folder, or None. safetensors first, then the wanted precision.

    `half` prefers the 16-bit variant; `variant` ("fp16") allows only that one.
    """
    variants = [f".{variant}"] if variant else [".fp16", ".bf16", "", ".non_ema"] if half else list(VARIANTS)
    ordered = [stem + precision + suffix for suffix in SUFFIXES for precision in variants for stem in STEMS]
    return next((name for name in ordered if name in names), None)


def weights_file(folder: Path, *, half: bool = False, variant: str | None = None) -> Path:
    """The weight file of a component folder. Raises UserError that says what is there instead."""
    names = sorted(child.name for child in folder.iterdir())
    chosen = preferred_weights(names, half=half, variant=variant)
    if chosen is not None:
        return folder / chosen
    if any(name.endswith(".index.json") for name in names):
        raise UserError(
            f"{folder}: weights in several parts (shards); save the model in one part (max_shard_size='99GB')"
        )
    wanted = f"{STEMS[0]}{'.' + variant if variant else ''}.safetensors"
    raise UserError(f"{folder}: no weights found (expected {wanted} or the like), only {', '.join(names) or 'nothing'}")
