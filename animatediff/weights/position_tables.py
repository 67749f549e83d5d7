"""Position tables of motion-module files: their length, and whether they hold the sinusoid that is computed otherwise.

Published tables are sinusoids of their length. Fine-tunes to longer clips also repeat the table they began with, and a
table may have been trained: such tables are evidence of the family, and are what the modules must be run with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import frame_positions
from animatediff.weights.keys import MOTION_KEY, POSITIONS, TO_INTERNAL, rename
from animatediff.weights.storage.files import Header, load_tensors

TOLERANCE = 0.02
"""Largest difference from a sinusoid, whose values reach 1, that rounding to 16 bits explains amply."""
TOLERANCE_8_BITS = 0.15
MIN_PERIOD = 8
"""Frames: no module was trained on clips shorter than this, so a shorter repetition is no table repeated."""

Kind = Literal["sinusoid", "repeated", "other", "zeros", "unread"]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The position tables of a file, judged by one of them."""

    lengths: tuple[int, ...]
    """Different lengths, in frames; one as a rule."""
    kind: Kind
    period: int | None = None
    """Of repeated sinusoids: frames until the table begins anew."""

    @property
    def length(self) -> int:
        """Frames that all of them have positions for."""
        return self.lengths[0]

    def __str__(self) -> str:
        lengths = f"{self.lengths[0]}" + (f" to {self.lengths[-1]}" if len(self.lengths) > 1 else "")
        note = {
            "repeated": f", the sinusoid of {self.period} frames repeated",
            "other": ", which are no sinusoids (trained, or stretched)",
            "zeros": ", which hold nothing but zeros",
        }.get(self.kind, "")
        return f"position tables of {lengths} frames{note}"


def tables_of(header: Header) -> Tables | None:
    """The position tables in a file of motion modules, or None where it has none; the values of one are read."""
    keys = [key for key in _keys(header) if 0 not in header.tensors[key].shape]
    if not keys:
        return None
    lengths = tuple(sorted({header.tensors[key].shape[-2] for key in keys}))
    first = min(keys, key=lambda key: header.tensors[key].place.nbytes)
    try:
        table = _table(load_tensors(header, [first])[first])
    except UserError:  # reported where the file is loaded
        return Tables(lengths=lengths, kind="unread")
    kind, period = _kind(table, _tolerance(header.tensors[first].dtype))
    return Tables(lengths=lengths, kind=kind, period=period)


def own_tables(header: Header) -> dict[str, Tensor]:
    """Attention (`BLOCK...transformer_blocks.0.attn1`) -> its table (L, c), of all that are no sinusoids nor zeros."""
    found: dict[str, Tensor] = {}
    for key in _keys(header):
        table = _table(load_tensors(header, [key])[key])
        if _kind(table, _tolerance(header.tensors[key].dtype))[0] in ("repeated", "other"):
            for attention in attentions_of(key):
                found[attention] = table
    return found


def attentions_of(key: str) -> tuple[str, ...]:
    """The attentions, by internal names, that a table serves: one in the original's layout, both in diffusers'."""
    block, _, kind = rename(key, TO_INTERNAL).rpartition(".")[0].rpartition(".")
    return (block,) if kind == "pos_encoder" else (f"{block}.attn1", f"{block}.attn2")


def _keys(header: Header) -> list[str]:
    return [
        key
        for key, info in header.tensors.items()
        if POSITIONS.search(key) and MOTION_KEY.match(key) and len(info.shape) in (2, 3)
    ]


def _table(tensor: Tensor) -> Tensor:
    """(1, L, c) or (L, c), of any number format, as (L, c) float32."""
    tensor = tensor.real if tensor.is_complex() else tensor
    return tensor.reshape(-1, *tensor.shape[-2:])[0].float()


def _tolerance(dtype: str) -> float:
    return TOLERANCE_8_BITS if re.search("float8|int8", dtype) else TOLERANCE


def _kind(table: Tensor, tolerance: float) -> tuple[Kind, int | None]:
    length, width = table.shape
    sinusoid = frame_positions(length, width)
    if _near(table, sinusoid, tolerance):
        return "sinusoid", None
    if not table.any():
        return "zeros", None
    for period in range(MIN_PERIOD, length):
        if _near(table, sinusoid[torch.arange(length) % period], tolerance):
            return "repeated", period
    return "other", None


def _near(table: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool(torch.allclose(table, other, rtol=0, atol=tolerance))
