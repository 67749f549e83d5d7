"""Load CameraCtrl models from files, and save them: the original's two dictionaries, or both in one (pruned)."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.models.camera import RAY_CHANNELS, CameraConfig, CameraCtrl
from animatediff.motion import MotionLayout, frame_positions
from animatediff.motion.module import TemporalAttention
from animatediff.parse import load_json
from animatediff.weights.fit import check_fit, load_into
from animatediff.weights.keys import POSITIONS, num_positions
from animatediff.weights.motion import find_header
from animatediff.weights.position_tables import TOLERANCE
from animatediff.weights.recognise import Recognised, recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, load_tensors, save_tensors

logger = logging.getLogger(__name__)

WHAT = "CameraCtrl model"
CONFIG_KEY = "animatediff.cameractrl"
"""Metadata of files of ours: what no tensor tells."""
ENCODER, MERGES = "pose_encoder_state_dict", "attention_processor_state_dict"
"""Entries of the original's file."""
_MERGE = re.compile(
    r"^(?P<side>down|up)_blocks\.(?P<block>\d+)\.motion_modules\.(?P<place>\d+)\.temporal_transformer\."
    r"transformer_blocks\.0\.attention_blocks\.0\.processor\.qkv_merge\.(?P<rest>weight|bias)$"
)
_LAYER = re.compile(r"^encoder\.encoder_down_conv_blocks\.(?P<level>\d+)\.(?P<place>\d+)\.block1\.weight$")
_INNER = (  # original -> internal names inside the encoder's temporal blocks
    (".attention_blocks.0.", ".attn1."),
    (".norms.0.", ".norm1."),
    (".ff_norm.", ".norm3."),
)

T = TypeVar("T")


def load_cameractrl(
    source: str | Path | Header, *, layout: MotionLayout | None = None, dtype: torch.dtype | None = None
) -> CameraCtrl:
    """Load a CameraCtrl model from a file of the original, a pruned one, or one of ours.

    layout: of the motion modules that it is to work with; checked before any tensor is read. `dtype` None keeps the
    file's. Raises UserError for another kind of file, missing, unknown or misshapen tensors, and other motion modules.
    """
    control, found = empty_cameractrl(source, layout=layout)
    header = found.header
    load_into(control, header, internal_entries({key: key for key in header.tensors}), dtype=dtype)
    _set_tables(control, header, dtype)
    logger.info("%s: %s, %s", header.path, found.title, ", ".join(found.evidence))
    return control.eval().requires_grad_(False)


def empty_cameractrl(
    source: str | Path | Header, *, layout: MotionLayout | None = None
) -> tuple[CameraCtrl, Recognised]:
    """The model of a file on the meta device: all checks of `load_cameractrl`, no weights. Raises UserError as it."""
    found = recognise_header(find_header(source))
    if found.kind != "cameractrl":
        raise wrong_kind(found, "cameractrl")
    header = found.header
    with torch.device("meta"):
        control = CameraCtrl(config_of(header))
    expected = {key: tuple(value.shape) for key, value in control.state_dict().items()}
    check_fit(internal_entries(header.shapes), expected, path=header.path, model=WHAT)
    if layout is not None:
        try:
            control.check_fits(layout)
        except ValueError as error:
            raise UserError(
                f"{header.path}: {error}; take the motion module that it was trained with (v3_sd15_mm.ckpt for the "
                "published one)"
            ) from None
    return control, found


def save_cameractrl(
    control: CameraCtrl,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a CameraCtrl model: the original's layout as .ckpt, the pruned one as .safetensors.

    Raises UserError if it cannot be written.
    """
    state = {key: value.detach().to("cpu", dtype) for key, value in control.state_dict().items()}
    tensors = original_entries(state, control)
    save_tensors(path, tensors, {**config_metadata(control.config), **(metadata or {})}, groups=groups_of(tensors))


def groups_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The dictionaries of the original's file, each with its names; a .safetensors, the pruned layout, has none."""
    groups: dict[str, list[str]] = {ENCODER: [], MERGES: []}
    for name in names:
        groups[ENCODER if name.startswith("encoder_") else MERGES].append(name)
    return groups


def config_of(header: Header) -> CameraConfig:
    """The configuration of a file, from its tensors. Raises UserError where blocks or layers are missing."""
    shapes = internal_entries(header.shapes)
    levels: dict[int, dict[int, int]] = {}
    for key, shape in shapes.items():
        if (match := _LAYER.match(key)) and len(shape) == 4:
            levels.setdefault(int(match["level"]), {})[int(match["place"])] = shape[0]
    merges: dict[str, dict[int, dict[int, int]]] = {"down": {}, "up": {}}
    for key, shape in shapes.items():
        side, _, rest = key.partition("_blocks.")
        if side in merges and key.endswith(".weight") and len(shape) == 2:
            block, place, _ = rest.split(".")
            merges[side].setdefault(int(block), {})[int(place)] = shape[0]
    first = shapes.get("encoder.encoder_conv_in.weight", ())
    factor = math.isqrt(first[1] // RAY_CHANNELS) if len(first) == 4 else 0
    numbers = [dict(levels), merges["down"], merges["up"], *levels.values(), *merges["down"].values()]
    whole = all(part and sorted(part) == list(range(len(part))) for part in [*numbers, *merges["up"].values()])
    if not whole or not factor or RAY_CHANNELS * factor**2 != first[1]:
        part = "the pose encoder" if not levels or not factor else "merge layers (qkv_merge)"
        raise UserError(f"{header.path}: {part} of this {WHAT} is missing or not whole; is the download complete?")
    stated = _stated(header)
    try:
        return CameraConfig(
            channels=tuple(levels[level][0] for level in range(len(levels))),
            merges=MotionLayout(down=_blocks(merges["down"]), up=_blocks(merges["up"])),
            blocks=len(levels[0]),
            factor=factor,
            num_heads=int(stated.get("num_heads", 8)),
            max_positions=num_positions(header.shapes) or int(stated.get("max_positions", 16)),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{header.path}: {error}; is it a {WHAT}?") from None


def config_metadata(config: CameraConfig) -> dict[str, str]:
    """Metadata with what no tensor tells."""
    return {CONFIG_KEY: json.dumps({"num_heads": config.num_heads, "max_positions": config.max_positions})}


def internal_entries(entries: Mapping[str, T]) -> dict[str, T]:
    """The entries of a file under internal names, position tables left out; unknown ones keep theirs."""
    found = {}
    for key, value in bare_entries(entries).items():
        if POSITIONS.search(key):
            continue
        if match := _MERGE.match(key):
            key = f"{match['side']}_blocks.{match['block']}.{match['place']}.{match['rest']}"
        elif key.startswith("encoder_"):
            key = f"encoder.{_renamed(key, _INNER)}"
        found[key] = value
    return found


def bare_entries(entries: Mapping[str, T]) -> dict[str, T]:
    """The entries of a file under the names of the pruned layout."""
    prefix = re.compile(rf"^(?:{ENCODER}|{MERGES})\.(?:module\.)?")
    return {prefix.sub("", key): value for key, value in entries.items()}


def original_entries(state: Mapping[str, Tensor], control: CameraCtrl) -> dict[str, Tensor]:
    """Internal tensors under original names, with the position tables (1, L, c) of the encoder."""
    found: dict[str, Tensor] = {}
    back = [(internal, original) for original, internal in _INNER]
    for key, value in state.items():
        if key.startswith("encoder."):
            name = _renamed(key.removeprefix("encoder."), back)
            found[name] = value
            if name.endswith(".to_q.weight"):
                layer = control.get_submodule(key.removesuffix(".to_q.weight"))
                assert isinstance(layer, TemporalAttention)
                positions = frame_positions(control.config.max_positions, value.shape[0])
                table = positions if layer.table is None else layer.table.cpu()
                found[name.replace(".to_q.weight", ".pos_encoder.pe")] = table[None].to(value.dtype)
        else:
            side, block, place, rest = key.split(".")
            module = f"{side}.{block}.motion_modules.{place}.temporal_transformer.transformer_blocks.0"
            found[f"{module}.attention_blocks.0.processor.qkv_merge.{rest}"] = value
    return found


def _renamed(key: str, pairs: Any) -> str:
    for old, new in pairs:
        key = key.replace(old, new)
    return key


def _blocks(found: Mapping[int, Mapping[int, int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(found[block][place] for place in sorted(found[block])) for block in sorted(found))


def _stated(header: Header) -> dict[str, Any]:
    if CONFIG_KEY not in header.metadata:
        return {}
    try:
        stated = load_json(header.metadata[CONFIG_KEY])
    except ValueError as error:
        raise UserError(f"{header.path}: its metadata {CONFIG_KEY} cannot be read ({error}); was it edited?") from error
    return stated if isinstance(stated, dict) else {}


def _set_tables(control: CameraCtrl, header: Header, dtype: torch.dtype | None) -> None:
    """Give attentions of the encoder the position tables of the file that are no sinusoids."""
    for name, key in bare_entries({key: key for key in header.tensors}).items():
        if not POSITIONS.search(name):
            continue
        table = load_tensors(header, [key])[key].float()
        table = table.reshape(-1, *table.shape[-2:])[0] if table.ndim == 3 else table.reshape(table.shape[1], -1)
        if not torch.allclose(table, frame_positions(*table.shape), rtol=0, atol=TOLERANCE):
            layer = control.get_submodule(f"encoder.{_renamed(name, _INNER)}".removesuffix(".pos_encoder.pe"))
            assert isinstance(layer, TemporalAttention)
            layer.table = table.to(dtype or layer.to_q.weight.dtype)
