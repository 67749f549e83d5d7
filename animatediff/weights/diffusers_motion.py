"""Motion modules as objects and folders of diffusers, there and back, sharing their tensors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, frame_positions
from animatediff.weights.convert import ADAPTER_FILE, adapter_config
from animatediff.weights.families import FAMILIES, Family
from animatediff.weights.keys import ENCODER, MOTION_KEY, below_loras, motion_keys
from animatediff.weights.motion import save_motion_module, tables_in
from animatediff.weights.storage.files import Header, save_tensors
from animatediff.weights.storage.memory import memory_header

if TYPE_CHECKING:
    import diffusers

ORIGIN = "animatediff_origin"
"""Attribute of a diffusers object that was made of modules of ours: (those modules, their family)."""
_LABEL = Path("motion_adapter")


def header_of(module: Any) -> Header:
    """A diffusers `MotionAdapter` or `UNetMotionModel` in memory, as the header of a file."""
    config = dict(module.config)
    config.setdefault("_class_name", type(module).__name__)
    name = config.get("_name_or_path") or type(module).__name__
    state = module.state_dict()
    own = motion_keys({key: tuple(value.shape) for key, value in state.items()}).values()  # with PIA's first layer
    state = {key: value for key, value in state.items() if MOTION_KEY.match(key) or key in {*own}}
    return memory_header(state, str(name), config=config)


def stated_family(adapter: MotionAdapter, family: Family | None) -> Family:
    """The family to write beside modules: theirs, or for modules of none the facts that they run by."""
    if family is not None:
        return family
    return replace(
        FAMILIES["custom"],
        numerics=adapter.numerics,
        norm_groups=adapter.layout.norm_groups,
        num_heads=adapter.layout.num_heads,
    )


def diffusers_state(adapter: MotionAdapter) -> dict[str, Tensor]:
    """The tensors of modules under diffusers' names, with the position tables that are needed there.

    Raises UserError where the two attentions of a block have different tables.
    """
    state = {key: value.detach() for key, value in below_loras(adapter.state_dict()).items()}
    own, length = tables_in(adapter), adapter.numerics.max_positions
    tables: dict[str, Tensor] = {}
    for key, weight in state.items():
        if key.endswith(".to_q.weight"):
            attention = key.removesuffix(".to_q.weight")
            table = own.get(attention)
            table = frame_positions(length, weight.shape[0]) if table is None else table
            name = f"{attention.rpartition('.')[0]}.pos_embed.pe"
            table = table[None].to(weight)
            if not torch.equal(tables.setdefault(name, table), table):
                raise UserError(f"{_LABEL}: diffusers has one position table for two attentions, but theirs differ")
    return state | tables


def as_diffusers(adapter: MotionAdapter, family: Family | None) -> diffusers.MotionAdapter:
    """diffusers' `MotionAdapter` of these modules, sharing their weights.

    It knows where it came from: given back, it is these modules and this family again. An image encoder, which it has
    no place for, is with those alone. Raises UserError for modules
    that diffusers has no place for.
    """
    import diffusers
    from accelerate import init_empty_weights

    config = adapter_config(adapter.layout, adapter.numerics.max_positions, _LABEL)
    state = {key: value for key, value in diffusers_state(adapter).items() if not key.startswith(ENCODER)}
    with init_empty_weights(include_buffers=False):
        made: Any = diffusers.MotionAdapter.from_config(config)
    made.load_state_dict(state, assign=True)
    made.requires_grad_(False)
    setattr(made, ORIGIN, (adapter, family))
    return made.eval()


def origin_of(module: Any) -> tuple[MotionAdapter, Family | None] | None:
    """The modules of ours that a diffusers object was made of, and their family; None for others."""
    return getattr(module, ORIGIN, None)


def save_motion_folder(
    adapter: MotionAdapter, family: Family | None, folder: Path, *, variant: str | None = None
) -> str | None:
    """Write modules as a folder that diffusers' `MotionAdapter.from_pretrained` reads, their family in the metadata.

    Modules that diffusers has no place for are written in the original's names, and the reason is returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = stated_family(adapter, family)
    file = ADAPTER_FILE if variant is None else ADAPTER_FILE.replace(".", f".{variant}.", 1)
    try:
        config = adapter_config(adapter.layout, adapter.numerics.max_positions, folder)
        tensors = diffusers_state(adapter)
    except UserError as error:
        save_motion_module(adapter, folder / file, family=facts, metadata={"format": "pt"})
        return str(error)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {key: value.cpu() for key, value in tensors.items()}
    save_tensors(folder / file, tensors, {**facts.metadata(), "format": "pt"})
    return None
