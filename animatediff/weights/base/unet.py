"""The UNet of an image model by itself: from a training checkpoint, and back into a whole model of the same layout."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.files import write_errors, write_text
from animatediff.weights.base import ldm
from animatediff.weights.keys import MOTION_KEY
from animatediff.weights.recognise import recognise_header, wrong_kind
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors
from animatediff.weights.storage.folders import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

UNET_FILE = "diffusion_pytorch_model.safetensors"


def load_unet(unet: nn.Module, path: str | Path) -> None:
    """Replace the weights of `unet` by those of a file in diffusers names; motion modules in it are left out.

    Such files are what an `image_finetune` run of the original saves. Raises UserError, with the UNet as it was, for
    missing, unknown or misshapen tensors.
    """
    header = read_header(path)
    state = unet.state_dict()
    names = {key.removeprefix("unet."): key for key in header.tensors if not MOTION_KEY.match(key)}
    missing, unknown = sorted(state.keys() - names.keys()), sorted(names.keys() - state.keys())
    if missing or unknown:
        found = recognise_header(header)
        if found.kind not in ("unet", "motion_module"):
            raise wrong_kind(found, "unet")
        differences = f"{len(missing)} tensors missing (first {missing[0]})" if missing else ""
        differences += f"{', ' if differences else ''}{len(unknown)} unknown (first {unknown[0]})" if unknown else ""
        raise UserError(f"{path}: not the UNet of this image model: {differences}")
    for name, key in names.items():
        if (shape := header.tensors[key].shape) != tuple(state[name].shape):
            raise UserError(f"{path}: {key} has shape {shape}, the image model's {tuple(state[name].shape)}")
    tensors = load_tensors(header, names.values())
    unet.load_state_dict({name: tensors[key].to(state[name].dtype) for name, key in names.items()})
    if len(names) != len(header.tensors):
        logger.info("%s: %d tensors of motion modules left out", path, len(header.tensors) - len(names))


def save_image_model(
    target: Path,
    unet: Mapping[str, Tensor],
    source: Path,
    *,
    metadata: Mapping[str, str],
    schedule: Mapping[str, Any] | None = None,
) -> None:
    """Write the model `source` with the weights `unet` (diffusers names) in place of its own, in the same layout.

    `source` is a single file in the LDM layout, which gives one, or a diffusers folder, which gives one; `schedule` is
    laid over a folder's scheduler. Each file appears whole or not at all.
    """
    if source.is_file():
        _single_file(target, unet, source, metadata)
    else:
        _folder(target, unet, source, metadata, dict(schedule or {}))


def _single_file(target: Path, unet: Mapping[str, Tensor], source: Path, metadata: Mapping[str, str]) -> None:
    header = read_header(source)
    plan, _ = ldm.unet_plan(ldm.strip(header.tensors, ldm.UNET_PREFIX))
    places = {ldm.UNET_PREFIX + found.key: name for name, found in plan.items()}
    assert places.keys() >= {key for key in header.tensors if key.startswith(ldm.UNET_PREFIX)}, "a key without a name"
    others = [key for key in header.tensors if key not in places and not key.startswith(ldm.EMA_PREFIX)]
    kept = load_tensors(header, others)
    tensors = {
        key: unet[places[key]].reshape(info.shape) if key in places else kept[key]
        for key, info in header.tensors.items()
        if key in places or key in kept
    }
    own = header.metadata if header.format == "safetensors" else {}
    save_tensors(target, tensors, {**own, **metadata})


def _folder(
    target: Path, unet: Mapping[str, Tensor], source: Path, metadata: Mapping[str, str], schedule: dict[str, Any]
) -> None:
    with write_errors(target):
        (target / "unet").mkdir(parents=True, exist_ok=True)
        for child in sorted(source.iterdir()):
            place = target / child.name
            if child.name == "unet" or child.name.startswith(".") or place.exists():
                continue
            if child.is_dir():
                shutil.copytree(child, place)
            else:
                shutil.copyfile(child, place)
    config = read_json(source / "unet" / "config.json")
    write_text(target / "unet" / "config.json", json.dumps(config, indent=2) + "\n")
    scheduler = target / "scheduler" / "scheduler_config.json"
    if schedule and scheduler.is_file():
        write_text(scheduler, json.dumps({**read_json(scheduler), **schedule}, indent=2) + "\n")
    save_tensors(target / "unet" / UNET_FILE, unet, metadata)
