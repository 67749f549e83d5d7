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
from animatediff.weights.base.components import planned_shapes
from animatediff.weights.base.prediction import restated
from animatediff.weights.base.quantized import quantization, scale_of
from animatediff.weights.fit import Fit, leave_out
from animatediff.weights.keys import MOTION_KEY
from animatediff.weights.recognise import recognise_header, wrong_kind
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors
from animatediff.weights.storage.folders import SHARED_PARTS, SHARED_WITH, part_folder, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

UNET_FILE = "diffusion_pytorch_model.safetensors"


def load_unet(unet: nn.Module, path: str | Path) -> None:
    """Replace the weights of `unet` by those of a file, in diffusers' names or LDM's; motion modules are left out.

    Such files are what an `image_finetune` run of the original saves. Tensors that the UNet has no place for are left
    out with a warning. Raises UserError, with the UNet as it was, for missing and misshapen tensors.
    """
    header = read_header(path)
    state = unet.state_dict()
    plan, unknown = ldm.unet_plan_of(key for key in header.tensors if not MOTION_KEY.match(key))
    expected = {name: tuple(value.shape) for name, value in state.items()}
    fit = Fit.of(planned_shapes(header, plan), expected)
    if fit.missing or (fit.surplus and not fit.problems() and len(fit.surplus) > len(expected)):
        found = recognise_header(header)
        if found.kind not in ("unet", "motion_module", "base_model"):
            raise wrong_kind(found, "unet")
    if problems := fit.problems():
        raise UserError(f"{path}: not the UNet of this image model: {'; '.join(problems)}")
    if (kind := quantization(header, [plan[name].key for name in expected])) is not None:
        raise UserError(f"{path}: {kind}")
    leave_out([*unknown, *(plan[name].key for name in fit.surplus)], path=path, model="UNet")
    tensors = load_tensors(header, {plan[name].key for name in expected})
    unet.load_state_dict(
        {name: tensors[plan[name].key].to(value.dtype).reshape(value.shape) for name, value in state.items()}
    )
    if motion := sum(1 for key in header.tensors if MOTION_KEY.match(key)):
        logger.info("%s: %d tensors of motion modules left out", path, motion)


def save_image_model(
    target: Path,
    unet: Mapping[str, Tensor],
    source: Path,
    *,
    metadata: Mapping[str, str],
    schedule: Mapping[str, Any] | None = None,
) -> None:
    """Write the model `source` with the weights `unet` (diffusers names) in place of its own, in the same layout.

    `source` is a single file or a diffusers folder; `schedule` is laid over a folder's scheduler, or stated by the
    file, in its metadata and by the tensors that other programs look for. Each file appears whole or not at all.
    """
    if source.is_file():
        _single_file(target, unet, source, metadata, dict(schedule or {}))
    else:
        _folder(target, unet, source, metadata, dict(schedule or {}))


def _single_file(
    target: Path, unet: Mapping[str, Tensor], source: Path, metadata: Mapping[str, str], schedule: dict[str, Any]
) -> None:
    header = read_header(source)
    plan, _ = ldm.unet_plan_of(header.tensors)
    places = {found.key: name for name, found in plan.items() if name in unet}
    assert set(places.values()) == set(unet), "a tensor without a key"
    others = [
        key
        for key in header.tensors
        if key not in places and not key.startswith(ldm.EMA_PREFIX) and not scale_of(header, key)
    ]
    kept = load_tensors(header, others)
    tensors = {
        key: unet[places[key]].reshape(info.shape) if key in places else kept[key]
        for key, info in header.tensors.items()
        if key in places or key in kept
    }
    own = dict(header.metadata) if header.format == "safetensors" else {}
    if schedule:
        own, tensors = restated(schedule, own, tensors)
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
        _add_shared_parts(target, source)
    config = read_json(source / "unet" / "config.json")
    write_text(target / "unet" / "config.json", json.dumps(config, indent=2) + "\n")
    scheduler = target / "scheduler" / "scheduler_config.json"
    if schedule and scheduler.is_file():
        own_betas = {"trained_betas": None} if "beta_schedule" in schedule else {}
        write_text(scheduler, json.dumps({**read_json(scheduler), **own_betas, **schedule}, indent=2) + "\n")
    save_tensors(target / "unet" / UNET_FILE, unet, metadata)


def _add_shared_parts(target: Path, source: Path) -> None:
    """Make the copy of a model whole that shares its VAE and text encoder with another."""
    index = read_json(source / "model_index.json")
    if index.pop(SHARED_WITH, None) is None:
        return
    for name in SHARED_PARTS:
        if not (target / name).exists():
            shutil.copytree(part_folder(source, name), target / name)
    write_text(target / "model_index.json", json.dumps(index, indent=2) + "\n")
