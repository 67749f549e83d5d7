"""Weights in 8 bits: plain float8 (e4m3), which diffusers, ComfyUI and every loader here read as they are.

A number is rounded to 4 significant bits, so that a matrix moves by 2.7 % (root mean square). Scales, one a row, would
make that 2.6 %, and no program that does not know of them could open the file. Layers by which the output of the UNet
moves most for their size stay in 16 bits (`KEPT`; measured one group at a time).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from animatediff.bundled import BUNDLED_MODEL
from animatediff.files import write_text
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors
from animatediff.weights.storage.folders import SHARED_PARTS, SHARED_WITH, read_json

KEPT = re.compile(r"(^|\.)(conv_in|conv_out|time_embedding|down_blocks\.0|up_blocks\.[12])\.")
"""Names of tensors that stay in 16 bits: first and last layers, the time, the finest levels (two on the way up)."""
LIMIT = 0.04
"""Root mean square of the rounding, as a share of the tensor's, above which the tensor stays in 16 bits.

Its numbers are too small or too large for float8, then.
"""
UNET_FILE = Path("unet") / "diffusion_pytorch_model.safetensors"


def rounded(name: str, tensor: Tensor) -> Tensor:
    """A matrix or kernel in float8, any other tensor in float16, both on the CPU.

    Tensors named in `KEPT` and those that float8 has no good numbers for count as others; float8 stays float8.
    """
    if tensor.dtype == torch.float8_e4m3fn or not tensor.is_floating_point():
        return tensor
    half = tensor.to("cpu", torch.float16)
    if tensor.ndim not in (2, 4) or not name.endswith("weight") or KEPT.search(name):
        return half
    small = tensor.to("cpu", torch.float8_e4m3fn)
    moved = (small.float() - tensor.cpu().float()).norm() / tensor.cpu().float().norm()
    return small if moved <= LIMIT else half  # not a number, too: beyond 448, or all zeros


def round_file(file: Path) -> None:
    """Store the tensors of a safetensors file as `rounded` has them, in place; its metadata stays."""
    header = read_header(file)
    tensors = load_tensors(header)
    save_tensors(file, {name: rounded(name, tensor) for name, tensor in tensors.items()}, header.metadata)


def share_parts(folder: Path, model: Path) -> list[str]:
    """Leave the parts out of the model `folder` that are those of `model`, byte for byte; returns their names.

    `model_index.json` then says that they are the bundled model's.
    """
    if any(not _same(folder / name, model / name) for name in SHARED_PARTS):
        return []
    index: Mapping[str, object] = read_json(folder / "model_index.json")
    write_text(folder / "model_index.json", json.dumps({**index, SHARED_WITH: BUNDLED_MODEL}, indent=2) + "\n")
    for name in SHARED_PARTS:
        shutil.rmtree(folder / name)
    return [*SHARED_PARTS]


def _same(folder: Path, other: Path) -> bool:
    files = [{path.name: path.read_bytes() for path in place.glob("*")} for place in (folder, other)]
    return bool(files[0]) and files[0] == files[1]


def store_model(model: Path, motion: Path) -> None:
    """Round the UNet of the image model in the folder `model`, and the motion module in the file `motion`."""
    round_file(model / UNET_FILE)
    round_file(motion)


def store_set(folder: Path, model: Path) -> None:
    """Round the encoders and the image models of the set in `folder`, and leave out what these share with `model`.

    LoRAs stay in 16 bits: they are small, and add to weights that are rounded already.
    """
    for file in sorted([*folder.glob("sparsectrl_*.safetensors"), *folder.glob("camera_control.safetensors")]):
        round_file(file)
    for file in sorted(folder.glob(f"*/{UNET_FILE}")):
        round_file(file)
        share_parts(file.parents[1], model)


def megabytes(path: Path) -> float:
    """Size of a file, or of all files in a folder, in MB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
