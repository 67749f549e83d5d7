"""A SparseCtrl encoder that lies in models/ and belongs to the base model at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.recognise import recognise_header
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.folders import weights_file

SUFFIXES = (".safetensors", ".ckpt", ".pth", ".bin")
CROSS_ATTENTION = ".attn2.to_k.weight"


def find_rgb_encoder(model: str, folders: Iterable[Path]) -> Path | None:
    """The first RGB encoder, by name, in these folders that reads the text states of the base model; None if none.

    model: a diffusers folder or a single file; of a hub id nothing is known, so that none is found. Only headers are
    read, and what cannot be read is passed over: nobody asked for that file.
    """
    width = _base_width(Path(model))
    if width is None:
        return None
    for folder in folders:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                continue
            try:
                found = recognise_header(read_header(file))
            except (UserError, OSError):
                continue
            if found.kind == "sparsectrl" and found.variant == "rgb" and _width(found.header) == width:
                return file
    return None


def _base_width(model: Path) -> int | None:
    try:
        if model.is_dir():
            return _width(read_header(weights_file(model / "unet")))
        return _width(read_header(model)) if model.is_file() else None
    except (UserError, OSError):  # whoever loads the model says what is wrong with it
        return None


def _width(header: Header) -> int | None:
    """Width of the text states that the cross attentions of a UNet, or of an encoder made from one, read."""
    of_unet = (key for key in header.tensors if key.endswith(CROSS_ATTENTION) and "motion_modules" not in key)
    key = next((key for key in of_unet if not key.startswith(("cond_stage_model.", "conditioner."))), None)
    return None if key is None else header.tensors[key].shape[1]
