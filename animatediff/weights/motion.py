"""Load motion modules from files, and save them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, MotionLayout, frame_positions
from animatediff.motion.module import TemporalAttention
from animatediff.weights.families import Family, family_named
from animatediff.weights.family_evidence import contradictions, family_missing
from animatediff.weights.fit import check_fit, leave_out, load_into
from animatediff.weights.hub import fetch_folder, is_hub_id
from animatediff.weights.keys import (
    ENCODER,
    ENCODER_KEY,
    MOTION_KEY,
    TO_ORIGINAL,
    below_loras,
    layout_of,
    motion_keys,
    motion_shapes,
    rename,
    to_original,
)
from animatediff.weights.kinds import SHORT_TITLES
from animatediff.weights.position_tables import own_tables
from animatediff.weights.recognise import Recognised, recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, read_header, save_tensors
from animatediff.weights.storage.paths import expanded
from animatediff.weights.trained_with import trained_with

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

logger = logging.getLogger(__name__)

BY_LEVELS = {3: "sdxl", 4: "sd1"}
"""Number of down blocks -> kind of base model."""
DEEPER = re.compile(r"\.transformer_blocks\.[1-9]|\.(attention_blocks|norms)\.([2-9]|\d\d)|\.attn[3-9]\.")
"""Internal names that modules of one transformer block with at most two attentions do not have."""
MODEL = "motion module"
"""Name of the kind in messages."""
PLACES = ("motion_adapter", "unet")
"""Folders that motion modules lie in: a pipeline of diffusers keeps them apart, HotshotXL has them in its UNet."""


def load_motion_module(
    source: str | Path | Header,
    *,
    family: str | None = None,
    unet: UNet2DConditionModel | None = None,
    dtype: torch.dtype | None = None,
    conv_in_from_file: bool | None = None,
) -> tuple[MotionAdapter, Family]:
    """Motion modules from a file, a diffusers `MotionAdapter` folder, a HotshotXL folder, or (by network) a hub id.

    The file says which family it is, or leaves open (`family_evidence.py`); `family` overrides that (for "lightning"
    the file's name hints at the steps). `unet` is checked against before any tensor is read. `dtype` None keeps the
    file's. `conv_in_from_file`: PIA's first layer is wholly the file's, else that of the image model for the noisy
    latents; None is what the file states. Tensors of image layers are left out, and a warning says so. Raises
    UserError for another kind of file, a family that is not given where several remain possible, missing or misshapen
    tensors, and modules that do not fit `unet`.
    """
    adapter, facts, found = empty_motion_module(source, family=family, unet=unet, conv_in_from_file=conv_in_from_file)
    header = found.header
    sources = motion_keys(header.shapes)
    taken = {*sources.values()}
    others = [key for key in header.tensors if key not in taken and not MOTION_KEY.match(key)]
    leave_out(others, path=header.path, model=MODEL)
    load_into(adapter, header, sources, dtype=dtype)
    set_tables(adapter, own_tables(header), dtype)
    title = facts.title if family is not None or found.judgement is None else found.judgement.title()
    level = logging.DEBUG if facts.name == "bundled" else logging.INFO  # of our own there is nothing to find out
    logger.log(level, "%s: %s; %s", header.path, title, ", ".join(found.evidence))
    return adapter.eval().requires_grad_(False), facts


def empty_motion_module(
    source: str | Path | Header,
    *,
    family: str | None = None,
    unet: UNet2DConditionModel | None = None,
    conv_in_from_file: bool | None = None,
) -> tuple[MotionAdapter, Family, Recognised]:
    """The modules of a file on the meta device, and its facts: `load_motion_module` without the weights."""
    found = recognise_header(find_header(source))
    facts = family_of(found, family)
    header = found.header
    layout = motion_layout(found, facts)
    if conv_in_from_file is not None:
        if layout.conv_in_channels is None:
            raise UserError(
                f"{header.path}: has no first layer that `conv_in_from_file` could take; only PIA has (pia.ckpt)"
            )
        facts = replace(facts, numerics=replace(facts.numerics, conv_in_from_file=conv_in_from_file))
    if unet is not None:
        _check_fit(layout, unet, found)
    adapter = _empty(layout, facts)
    expected = {key: tuple(value.shape) for key, value in adapter.state_dict().items()}
    check_fit(motion_shapes(header.shapes), expected, path=header.path, model=MODEL)
    return adapter, facts, found


def family_of(found: Recognised, family: str | None) -> Family:
    """The family that a file of motion modules is run as: the given one, or the recognised one; doubts are logged.

    Raises UserError as `check_family`.
    """
    check_family(found, family)
    path, judged = found.header.path, found.judgement
    layout = layout_of(motion_shapes(found.header.shapes))
    if judged is None or layout is None or found.dialect is None:
        facts, said = found.family if family is None else family_named(family), []
    elif family is None:
        facts, said = judged.family, [*judged.doubts]
    else:
        facts = judged.run_as(family)
        against = contradictions(judged, family, layout, found.dialect)
        said = [f"run as {family}, as `family` says, though {reason}" for reason in against]
    assert facts is not None, "check_family lets no other pass"
    if facts.name == "pia" and layout is not None and layout.conv_in_channels is None:
        raise UserError(
            f"{path}: has no first layer of nine channels, by which PIA sees its image, so it is not of the family "
            "pia; leave `family` out"
        )
    if facts.name == "animatelcm_i2v" and not any(map(ENCODER_KEY.match, found.header.tensors)):
        raise UserError(
            f"{path}: has no image encoder (img_encoder), so it is not of the family animatelcm_i2v; leave `family` out"
        )
    for line in [*said, *(judged.warnings if judged is not None else ())]:
        logger.warning("%s: %s", path, line)
    return replace(facts, sampling=trained_with(found.header))


def check_family(found: Recognised, family: str | None) -> None:
    """Raise UserError unless the family of motion modules is known or given.

    Raised for another kind of file, for an unknown family, and where several remain possible and none is given.
    """
    if found.kind != "motion_module":
        raise wrong_kind(found, "motion_module")
    if family is not None:
        family_named(family)
    elif found.family is None:
        assert found.judgement is not None, "a file without a family was judged"
        raise family_missing(found.judgement, found.header.path)


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
    state = {key: value.detach().to("cpu", dtype) for key, value in below_loras(adapter.state_dict()).items()}
    tensors = original_tensors(state, family.numerics.max_positions, tables_in(adapter))
    save_tensors(path, tensors, {**family.metadata(), **(metadata or {})})


def original_tensors(
    state: Mapping[str, Tensor], num_positions: int | None, tables: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Internal tensors under original names, with the position tables (1, L, c) that other programs expect.

    tables: those of attentions that have one of their own (`tables_in`); the others get sinusoids of that length.
    """
    tensors = to_original(state)
    own = {rename(f"{name}.", TO_ORIGINAL): table for name, table in (tables or {}).items()}
    if num_positions is not None:
        for key, weight in list(tensors.items()):
            if key.endswith(".to_q.weight"):
                attention = key.removesuffix("to_q.weight")
                table = own.get(attention)
                table = frame_positions(num_positions, weight.shape[0]) if table is None else table.cpu()
                tensors[f"{attention}pos_encoder.pe"] = table[None].to(weight.dtype)
    return tensors


def tables_in(adapter: MotionAdapter) -> dict[str, Tensor]:
    """Attention -> its position table (L, c), of all that have one of their own in place of the sinusoid."""
    return {
        name: layer.table
        for name, layer in adapter.named_modules()
        if isinstance(layer, TemporalAttention) and layer.table is not None
    }


def set_tables(adapter: MotionAdapter, tables: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Give attentions position tables (L, c) of their own in place of the sinusoid; the number is logged."""
    for name, table in tables.items():
        layer = adapter.get_submodule(name)
        assert isinstance(layer, TemporalAttention)
        layer.table = table.to(dtype or layer.to_q.weight.dtype)
    if tables:
        logger.info("%d attentions have position tables of their own, which are no sinusoids", len(tables))


def expected_shapes(layout: MotionLayout) -> dict[str, tuple[int, ...]]:
    """Internal key -> shape of every tensor that modules of this layout have."""
    return {key: tuple(value.shape) for key, value in _empty(layout, None).state_dict().items()}


def _empty(layout: MotionLayout, facts: Family | None) -> MotionAdapter:
    """Modules without memory, to be filled by assignment."""
    with torch.device("meta"):
        return MotionAdapter(layout, facts.numerics if facts else None)


def motion_layout(found: Recognised, facts: Family) -> MotionLayout:
    """The layout of the modules in a file. Raises UserError for one that these modules have no place for."""
    path, shapes = found.header.path, motion_shapes(found.header.shapes)
    layout = layout_of(shapes, norm_groups=facts.norm_groups, num_heads=facts.num_heads)
    if layout is None:
        raise UserError(f"{path}: its blocks or modules are not numbered from 0 without a gap; is it whole?")
    _check_encoder(layout, shapes, path)
    if deeper := next(filter(DEEPER.search, shapes), None):
        raise UserError(
            f"{path}: has motion modules of more than one transformer block, or of more than two attentions "
            f"({deeper}), which are not supported"
        )
    widths: set[int] = {*chain(*layout.down, *layout.up)} | ({layout.mid} if layout.mid is not None else set())
    for width in sorted(widths):
        for number, parts in ((layout.num_heads, "attention heads"), (layout.norm_groups, "norm groups")):
            if number < 1 or width % number:
                raise UserError(f"{path}: its modules of width {width} do not divide into {number} {parts}")
    return layout


def _check_encoder(layout: MotionLayout, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise UserError for an image encoder that is not whole, or whose features do not fit the down blocks."""
    if not any(name.startswith(ENCODER) for name in shapes):
        return
    if layout.image_encoder is None:
        raise UserError(f"{path}: its image encoder (img_encoder) lacks layers; is the download complete?")
    if (levels := layout.image_encoder.levels) != (widths := tuple(block[0] for block in layout.down)):
        raise UserError(f"{path}: its image encoder makes features of {levels} channels, its down blocks have {widths}")


def _check_fit(layout: MotionLayout, unet: UNet2DConditionModel, found: Recognised) -> None:
    wanted = MotionLayout.from_unet(unet, mid_block=layout.mid is not None)
    if layout.stands_as(wanted):
        return
    made_for, given = (SHORT_TITLES.get(BY_LEVELS.get(len(side.down), ""), "another kind") for side in (layout, wanted))
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


def find_header(source: str | Path | Header) -> Header:
    """The header of a weight file, or of the one in a diffusers or HotshotXL folder, or (by network) hub repository.

    Raises UserError if there is none.
    """
    if isinstance(source, Header):
        return source
    path = expanded(source)
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

    folder = next((f"{place}/" for place in PLACES if any(name.startswith(f"{place}/") for name in files)), "")
    chosen = preferred_weights(name.removeprefix(folder) for name in files if name.startswith(folder))
    wanted = ["config.json", *(() if chosen is None else chosen.names)]
    return [folder + name for name in wanted if folder + name in files]


def _folder_header(folder: Path) -> Header:
    from animatediff.weights.storage.folders import folder_header

    return folder_header(next((folder / name for name in PLACES if (folder / name).is_dir()), folder))
