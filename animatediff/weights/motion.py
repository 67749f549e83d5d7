"""Load motion modules from files, and save them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, MotionLayout, frame_positions
from animatediff.weights.families import Family, family_named
from animatediff.weights.fit import check_fit
from animatediff.weights.hub import fetch_folder, is_hub_id
from animatediff.weights.keys import MOTION_KEY, POSITIONS, TO_INTERNAL, layout_of, rename, to_internal, to_original
from animatediff.weights.recognise import Recognised, recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, load_tensors, read_header, save_tensors
from animatediff.weights.storage.pickles import Place

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

logger = logging.getLogger(__name__)

BASE_TITLES = {3: "SDXL", 4: "SD 1.x"}
"""Number of down blocks -> base model."""
MODEL = "motion module"
"""Name of the kind in messages."""


def load_motion_module(
    source: str | Path,
    *,
    family: str | None = None,
    unet: UNet2DConditionModel | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[MotionAdapter, Family]:
    """Motion modules from a file, a diffusers `MotionAdapter` folder, a HotshotXL folder, or (by network) a hub id.

    The file says which family it is; `family` overrides that (for "lightning" the file's name hints at the steps).
    `unet` is checked against before any tensor is read. `dtype` None keeps the file's. Raises UserError for another
    kind of file, missing, unknown or misshapen tensors, and modules that do not fit `unet`.
    """
    header = find_header(source)
    found = recognise_header(header)
    if found.kind != "motion_module" or found.family is None:
        raise wrong_kind(found, "motion_module")
    facts = found.family
    if family is not None:
        facts = family_named(family).with_steps_of(header.path.name)
        # The file's own table is a fact about the weights, whatever family they are run as.
        facts = facts.with_positions(found.family.numerics.max_positions)
    layout = _layout(found, facts)
    if unet is not None:
        _check_fit(layout, unet, found)
    adapter = _empty(layout, facts)
    sources = {rename(key, TO_INTERNAL): key for key in header.tensors if _is_weight(key)}
    expected = {key: tuple(value.shape) for key, value in adapter.state_dict().items()}
    check_fit(to_internal(header.shapes), expected, path=header.path, model=MODEL)
    tensors = load_tensors(header, [sources[key] for key in expected], dtype=dtype)
    adapter.load_state_dict({key: tensors[sources[key]].view(shape) for key, shape in expected.items()}, assign=True)
    logger.info("%s: %s; %s", header.path, facts.title, ", ".join(found.evidence))
    return adapter.eval().requires_grad_(False), facts


def save_motion_module(
    adapter: MotionAdapter,
    path: str | Path,
    *,
    family: Family,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write motion modules in the original key format, position tables included, the family in the metadata.

    `convert.convert` makes diffusers folders of it.
    """
    state = {key: value.detach().to("cpu", dtype) for key, value in adapter.state_dict().items()}
    tensors = original_tensors(state, family.numerics.max_positions)
    save_tensors(path, tensors, {**family.metadata(), **(metadata or {})})


def original_tensors(state: Mapping[str, Tensor], num_positions: int | None) -> dict[str, Tensor]:
    """Internal tensors under original names, with the position tables (1, L, c) that other programs expect."""
    tensors = to_original(state)
    if num_positions is not None:
        for key, weight in list(tensors.items()):
            if key.endswith(".to_q.weight"):
                table = frame_positions(num_positions, weight.shape[0])[None].to(weight.dtype)
                tensors[f"{key.removesuffix('to_q.weight')}pos_encoder.pe"] = table
    return tensors


def expected_shapes(layout: MotionLayout) -> dict[str, tuple[int, ...]]:
    """Internal key -> shape of every tensor that modules of this layout have."""
    return {key: tuple(value.shape) for key, value in _empty(layout, None).state_dict().items()}


def _empty(layout: MotionLayout, facts: Family | None) -> MotionAdapter:
    """Modules without memory, to be filled by assignment."""
    with torch.device("meta"):
        return MotionAdapter(layout, facts.numerics if facts else None)


def _is_weight(key: str) -> bool:
    return MOTION_KEY.match(key) is not None and POSITIONS.search(key) is None


def _layout(found: Recognised, facts: Family) -> MotionLayout:
    shapes = to_internal(found.header.shapes)
    layout = layout_of(shapes, norm_groups=facts.norm_groups)
    if layout is None:
        raise UserError(
            f"{found.header.path}: its blocks or modules are not numbered from 0 without a gap; is it whole?"
        )
    return layout


def _check_fit(layout: MotionLayout, unet: UNet2DConditionModel, found: Recognised) -> None:
    wanted = MotionLayout.from_unet(unet, mid_block=layout.mid is not None)
    if layout.stands_as(wanted):
        return
    made_for, given = (BASE_TITLES.get(len(side.down), "another kind") for side in (layout, wanted))
    if given == "SDXL" and unet.config.get("addition_embed_type") != "text_time":
        given = made_for  # distilled ones of SD 1.x have three levels too
    if made_for != given:
        raise other_base(found.header.path, made_for, given)
    raise UserError(
        f"{found.header.path}: does not fit the base model: its modules are ({layout}), the model's blocks ({wanted})"
    )


def other_base(path: Path, made_for: str, given: str) -> UserError:
    """The message for motion modules made for one kind of base model ("SDXL") and given with another."""
    return UserError(
        f"{path}: a motion module for {made_for} base models, but the base model is {given}; "
        f"give a base model of the kind {made_for}, or a motion module for {given}"
    )


def find_header(source: str | Path) -> Header:
    """The header of a weight file, or of the one in a diffusers or HotshotXL folder, or (by network) hub repository.

    Raises UserError if there is none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder_header(path)
    if not path.exists() and is_hub_id(str(source)):
        return _folder_header(fetch_folder(str(source), hub_files))
    return read_header(path)


def hub_files(files: Sequence[str]) -> list[str]:
    """The files to fetch of a hub repository of motion modules or of a SparseCtrl encoder, shards included.

    >>> hub_files(["README.md", "config.json", "diffusion_pytorch_model.fp16.safetensors"])
    ['config.json', 'diffusion_pytorch_model.fp16.safetensors']
    """
    from animatediff.weights.storage.folders import preferred_weights

    folder = "unet/" if any(name.startswith("unet/") for name in files) else ""
    chosen = preferred_weights(name.removeprefix(folder) for name in files if name.startswith(folder))
    wanted = ["config.json", *(() if chosen is None else chosen.names)]
    return [folder + name for name in wanted if folder + name in files]


def _folder_header(folder: Path) -> Header:
    from animatediff.weights.storage.folders import folder_header, read_json

    inner = folder / "unet" if (folder / "unet").is_dir() else folder  # HotshotXL is published as a whole model
    header = folder_header(inner)
    config: dict[str, Any] = read_json(inner / "config.json") if (inner / "config.json").is_file() else {}
    positions = config.get("motion_max_seq_length")
    if not isinstance(positions, int) or any(POSITIONS.search(key) for key in header.tensors):
        return header
    # diffusers keeps the length of the tables in the configuration; stated as the table the weights would carry.
    first = next((k for k in header.tensors if MOTION_KEY.match(k) and k.endswith(".attn1.to_q.weight")), None)
    if first is None:
        return header
    # Without bytes: there is no table in the file to be read.
    nowhere = Place(offset=0, nbytes=0)
    table = replace(header.tensors[first], shape=(1, positions, header.tensors[first].shape[0]), place=nowhere)
    return replace(header, tensors={**header.tensors, f"{first.removesuffix('attn1.to_q.weight')}pos_embed.pe": table})
