"""Weight files from one layout, format or precision to another, and back without loss."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionLayout, MotionNumerics, frame_positions
from animatediff.unfinished import Unfinished
from animatediff.weights.diffusers_norm import runs_otherwise
from animatediff.weights.fit import check_fit
from animatediff.weights.keys import MOTION_KEY, POSITIONS, motion_keys, motion_shapes
from animatediff.weights.keys import to_original as names_to_original
from animatediff.weights.lora.key_formats import (
    fold_scale,
    image_lora_to_diffusers,
    image_lora_to_kohya,
    in_precision,
    lora_to_diffusers,
    lora_to_internal,
    lora_to_original,
    unet_lora,
)
from animatediff.weights.lora.settings import ADAPTER_METADATA, unpacked
from animatediff.weights.lora.source import check_settings, lora_header, lora_in_folder
from animatediff.weights.motion import MODEL, expected_shapes, family_of, find_header, motion_layout
from animatediff.weights.position_tables import attentions_of, own_tables
from animatediff.weights.recognise import Recognised, recognise_header
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header, load_tensors, read_header, save_tensors
from animatediff.weights.storage.paths import expanded
from animatediff.weights.trained_with import told, trained_with

logger = logging.getLogger(__name__)

Layout = Literal["original", "diffusers", "internal", "kohya"]
MotionNorm = Literal["per-frame", "over-frames"]
LORA_NAMES: dict[str, Callable[[str], str]] = {
    "original": lora_to_original,
    "diffusers": lora_to_diffusers,
    "internal": str,
}
ADAPTER_FILE = "diffusion_pytorch_model.safetensors"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The names under which diffusers looks for them in a folder."""


@dataclass
class _Result:
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    """Content of config.json of a diffusers folder."""
    folder_file: str = ADAPTER_FILE
    title: str = ""
    """Name of the family, for messages."""
    wrapper: str = "state_dict"
    """The entry of a .ckpt in which readers look for the tensors."""
    groups: dict[str, list[str]] | None = None
    """Several entries of a .ckpt, each with the names of its tensors."""
    note: str = ""
    otherwise: str | None = None
    """What other programs compute differently with it, for a warning."""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Layout = "original",
    dtype: torch.dtype | None = None,
    family: str | None = None,
    norm: MotionNorm | None = None,
) -> str:
    """Write `source` as `target` in the layout `to`; returns one sentence about it.

    Motion modules, SparseCtrl encoders, MotionLoRAs and domain adapters change layout, LoRAs of an image model between
    "diffusers" and "kohya"; any other weight file can change format and precision (`to="original"` keeps its names).
    A CameraCtrl model is written with the original's two dictionaries as .ckpt, and pruned, without them, as
    .safetensors. `target` is a .safetensors or .ckpt file, or, for "diffusers", a folder that diffusers loads. `dtype`
    None keeps the file's; `family` overrides what the file is recognised as, `norm` how the GroupNorm of motion modules
    was trained ("over-frames" by diffusers' own code). A warning says where diffusers computes something else with what
    is written for it. Raises UserError for what cannot be converted or written; the target is then as before.
    """
    target = expanded(target)
    header = _header(source)
    found = recognise_header(header)
    as_folder = to == "diffusers" and target.suffix.lower() not in WEIGHT_SUFFIXES
    _check_target(header, target, as_folder)
    if family is not None and found.kind != "motion_module":
        raise UserError(f"{header.path}: {found.title}; only motion modules have a family, leave {family} out")
    if norm is not None and found.kind != "motion_module":
        raise UserError(f"{header.path}: {found.title}; `norm` is of motion modules, leave it out")
    if found.kind in ("lora", "motion_lora", "domain_adapter"):
        check_settings(header)
    if (found.kind == "lora" and to == "diffusers") or (found.kind in ("lora", "domain_adapter") and to == "kohya"):
        result = _image_lora(found, to, dtype)
    elif to == "kohya":
        raise UserError(f"{header.path}: {found.title}; only LoRAs of an image model have a kohya layout")
    elif found.kind == "motion_module":
        result = _motion_module(found, to, dtype, family, norm)
    elif found.kind == "sparsectrl":
        result = _sparsectrl(found, to, dtype)
    elif found.kind == "cameractrl" and to == "original":
        result = _cameractrl(found, dtype)
    elif found.kind in ("motion_lora", "domain_adapter") or _is_renamed_adapter(found):
        result = _lora(found, to, dtype)
    elif to == "original":
        lasts = target.suffix.lower() == ".safetensors"
        result = _as_it_is(header, dtype, metadata_lasts=lasts, is_embedding=found.kind == "textual_inversion")
    else:
        raise UserError(
            f"{header.path}: {found.title}; only motion modules, SparseCtrl encoders and LoRAs have a {to} layout here "
            "(other files can change format and precision with the layout original)"
        )
    if target.suffix.lower() == ".safetensors" or as_folder:
        result.metadata["format"] = "pt"  # what transformers and diffusers look for
    if as_folder:
        _write_folder(target, result)
    else:
        save_tensors(target, result.tensors, result.metadata, wrapper=result.wrapper, groups=result.groups)
    if result.otherwise is not None:
        logger.warning("%s: %s", target, result.otherwise)
    precisions = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in result.tensors.values()})
    what = f"{found.title}{f' ({result.title})' if result.title else ''}"
    if settings := trained_with(header):
        result.note += f"; trained with {told(settings)}, which other programs have to be told"
    return f"{target}: {what}, {to} layout, {len(result.tensors)} tensors, {' and '.join(precisions)}{result.note}"


def _header(source: str | Path) -> Header:
    """The header of a LoRA of whatever layout, or of other weights."""
    path = expanded(source)
    if path.is_file():
        return lora_header(path, say=True)
    return lora_in_folder(path, say=True) or find_header(source)


def _check_target(header: Header, target: Path, as_folder: bool) -> None:
    sources = {info.file or header.path for info in header.tensors.values()} or {header.path}
    if not as_folder:
        if target.suffix.lower() not in WEIGHT_SUFFIXES:
            raise UserError(f"{target}: the name must end in .safetensors (recommended), .ckpt, .pt, .pth or .bin")
        if target.exists() and any(target.samefile(source) for source in sources):
            raise UserError(f"{target}: is the source itself; choose another name")
        return
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"{target}: is there already and not an empty folder; choose another name or remove it")
    if not target.resolve().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.resolve().parent}; make it first")


def _motion_module(
    found: Recognised, to: Layout, dtype: torch.dtype | None, family: str | None, norm: MotionNorm | None
) -> _Result:
    header, facts = found.header, family_of(found, family)
    if norm is not None:
        facts = replace(facts, numerics=replace(facts.numerics, motion_norm_over_frames=norm == "over-frames"))
    shapes = header.shapes
    layout = motion_layout(found, facts)
    expected = expected_shapes(layout)
    check_fit(motion_shapes(shapes), expected, path=header.path, model=MODEL)
    config = adapter_config(layout, facts.numerics.max_positions, header.path) if to == "diffusers" else None
    sources = motion_keys(shapes)
    dropped = sum(not MOTION_KEY.match(key) for key in header.tensors.keys() - {*sources.values()})
    loaded = load_tensors(header, [*sources.values()], dtype=dtype)
    state = {key: loaded.pop(sources[key]).view(shape) for key, shape in expected.items()}
    note = f"; {dropped} tensors of other layers left out" if dropped else ""
    metadata = {**_plain(header.metadata), **facts.metadata()}
    if to == "internal":
        tables = {f"{name}.pos_encoder.pe": table for name, table in own_tables(header).items()}
        return _Result({**state, **tables}, metadata, title=facts.title, note=note)
    # Published AnimateLCM modules have no tables: other programs know them by that. diffusers needs them all the same.
    bare = to == "original" and facts.name in ("animatelcm", "animatelcm_i2v") and not own_tables(header)
    positions = {} if bare else _positions(found, state, facts.numerics.max_positions, dtype)
    if to == "original":
        tensors = {**names_to_original(state), **_original_tables(positions)}
    else:
        tensors = {**state, **_diffusers_tables(positions, header.path)}
    otherwise = runs_otherwise(facts.numerics) if to == "diffusers" else None
    return _Result(tensors, metadata, config, title=facts.title, note=note, otherwise=otherwise)


def _sparsectrl(found: Recognised, to: Layout, dtype: torch.dtype | None) -> _Result:
    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.weights import sparsectrl

    header = found.header
    config = sparsectrl.config_of(found)
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in SparseCtrl(config).state_dict().items()}
    shapes = sparsectrl.internal_entries(header.shapes)
    check_fit(shapes, expected, path=header.path, model=sparsectrl.WHAT)
    folder = sparsectrl.diffusers_config(config, header.path) if to == "diffusers" else None
    names = sparsectrl.internal_entries({key: key for key in header.tensors})
    loaded = load_tensors(header, [names[key] for key in expected], dtype=dtype)
    state = {key: loaded.pop(names[key]).view(shape) for key, shape in expected.items()}
    metadata = {**_plain(header.metadata), **sparsectrl.config_metadata(config)}
    if to == "internal":
        return _Result(state, metadata, wrapper=sparsectrl.WRAPPER)
    motion = {key: tensor for key, tensor in state.items() if MOTION_KEY.match(key)}
    positions = _positions(found, motion, config.max_positions, dtype)
    if to == "original":
        tables = _original_tables(positions)
        return _Result({**sparsectrl.original_entries(state, None), **tables}, metadata, wrapper=sparsectrl.WRAPPER)
    otherwise = runs_otherwise(MotionNumerics(), model="pipe.controlnet") if motion else None
    tensors = {**state, **_diffusers_tables(positions, header.path)}
    return _Result(tensors, metadata, folder, otherwise=otherwise)


def _cameractrl(found: Recognised, dtype: torch.dtype | None) -> _Result:
    from animatediff.weights import cameractrl

    cameractrl.empty_cameractrl(found.header)  # checks it
    tensors = cameractrl.bare_entries(load_tensors(found.header, dtype=dtype))
    return _Result(tensors, _plain(found.header.metadata), groups=cameractrl.groups_of(tensors))


def _plain(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key != "format"}


def _positions(
    found: Recognised, state: Mapping[str, Tensor], length: int, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Attention (internal name) -> its table (1, L, c): the file's own, or the sinusoid computed anew."""
    stored = {
        attention: key
        for key in found.header.tensors
        if POSITIONS.search(key) and MOTION_KEY.match(key)
        for attention in attentions_of(key)
    }
    own = load_tensors(found.header, sorted({*stored.values()}), dtype=dtype)
    tables = {}
    for key, weight in state.items():
        if key.endswith(".to_q.weight"):
            attention = key.removesuffix(".to_q.weight")
            table = own.get(stored.get(attention, ""))
            kind = torch.float16 if weight.dtype.itemsize == 1 else weight.dtype  # positions are no weights to round
            computed = frame_positions(length, weight.shape[0])[None].to(kind)
            tables[attention] = computed if table is None else table
    return tables


def _original_tables(positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return names_to_original({f"{attention}.pos_encoder.pe": table for attention, table in positions.items()})


def _diffusers_tables(positions: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """One table for both attentions of a block. Raises UserError where these differ."""
    tables: dict[str, Tensor] = {}
    for attention, table in positions.items():
        name = f"{attention.rpartition('.')[0]}.pos_embed.pe"
        if not torch.equal(tables.setdefault(name, table), table):
            raise UserError(f"{path}: diffusers' layout has one position table for two attentions, but theirs differ")
    return tables


def adapter_config(layout: MotionLayout, max_positions: int, path: Path) -> dict[str, Any]:
    """config.json of diffusers' `MotionAdapter` for these modules. Raises UserError if it cannot express them."""
    widths = [block[0] if block else 0 for block in layout.down]
    counts = [len(block) for block in layout.down]
    up = tuple((width,) * (count + 1) for width, count in zip(reversed(widths), reversed(counts), strict=True))
    uniform = tuple((width,) * count for width, count in zip(widths, counts, strict=True))
    if layout.down != uniform or layout.up != up or layout.num_attentions != 2 or layout.mid not in (None, widths[-1]):
        raise UserError(f"{path}: diffusers' MotionAdapter has no place for modules of this layout ({layout})")
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": widths,
        "conv_in_channels": layout.conv_in_channels,
        "motion_layers_per_block": counts[0] if len(set(counts)) == 1 else counts,
        "motion_max_seq_length": max_positions,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": layout.norm_groups,
        "motion_num_attention_heads": layout.num_heads,
        "use_motion_mid_block": layout.mid is not None,
    }


def _is_renamed_adapter(found: Recognised) -> bool:
    """A domain adapter in PEFT's names, which look like any LoRA's."""
    return found.dialect == "peft" and all(lora_to_internal(key) for key in found.header.tensors)


def _as_it_is(header: Header, dtype: torch.dtype | None, *, metadata_lasts: bool, is_embedding: bool) -> _Result:
    """All tensors under their own names; of a LoRA, alpha that is stated beside the weights becomes part of them.

    A file of diffusers that stays one keeps what it states.
    """
    tensors = load_tensors(header)
    metadata = dict(header.metadata)
    if header.format == "pickle":  # its plain entries are of any kind; an embedding's word is one
        metadata = {key: metadata[key] for key in ("name",) if key in metadata and is_embedding}
    settings = unpacked(header.metadata, label=str(header.path))
    note = ""
    if settings and not (metadata_lasts and header.format == "safetensors" and ADAPTER_METADATA in _own(header)):
        try:
            tensors = fold_scale(tensors, header.metadata, str(header.path))
            metadata.pop(ADAPTER_METADATA, None)
            note = "; the alpha of its settings is multiplied into the weights"
        except UserError:  # more than pairs: what the settings state goes along
            metadata[ADAPTER_METADATA] = header.metadata[ADAPTER_METADATA]
            note = "; its settings, with their alpha, are in the metadata"
    return _Result({key: in_precision(key, tensor, dtype) for key, tensor in tensors.items()}, metadata, note=note)


def _own(header: Header) -> Mapping[str, str]:
    """Metadata that the file itself has; none for a folder of several."""
    return read_header(header.path).metadata if header.path.is_file() else {}


def _lora(found: Recognised, to: Layout, dtype: torch.dtype | None) -> _Result:
    header = found.header
    state, folded = unet_lora(load_tensors(header), header.metadata, str(header.path))
    spell = LORA_NAMES[to]
    tensors = {spell(key): tensor.to(dtype) if dtype else tensor for key, tensor in state.items()}
    note = f"; alpha of {folded} layers folded into their weights" if folded else ""
    return _Result(tensors, _without_settings(header), folder_file=LORA_FILE, note=note)


def _image_lora(found: Recognised, to: Layout, dtype: torch.dtype | None) -> _Result:
    header = found.header
    spell = image_lora_to_diffusers if to == "diffusers" else image_lora_to_kohya
    tensors = spell(load_tensors(header), header.metadata, str(header.path))
    tensors = {key: in_precision(key, tensor, dtype) for key, tensor in tensors.items()}
    return _Result(tensors, _without_settings(header), folder_file=LORA_FILE)


def _without_settings(header: Header) -> dict[str, str]:
    """Metadata without PEFT's settings, which are in the weights or beside them by now."""
    return {key: value for key, value in _plain(header.metadata).items() if key != ADAPTER_METADATA}


def _write_folder(target: Path, result: _Result) -> None:
    """Write a diffusers folder; it appears whole or not at all."""
    unfinished = Unfinished(target)
    temporary = unfinished.path
    try:
        unfinished.create(folder=True)
        if result.config is not None:
            (temporary / "config.json").write_text(json.dumps(result.config, indent=2) + "\n", encoding="utf-8")
        save_tensors(temporary / result.folder_file, result.tensors, result.metadata)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(
            f"{target}: could not be written ({error.strerror or error}); check free space and permissions"
        ) from error
    finally:
        unfinished.remove()
