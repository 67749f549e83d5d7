"""Strengths of a LoRA that differ between models, blocks and layers, as diffusers writes them.

`{"unet": {"down": 0.8, "mid": 1.0, "up": {"block_0": 0.6, "block_1": [0.4, 0.8, 1.0]}}, "text_encoder": 0.5}`:
what is not named has 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError, unknown
from animatediff.weights.lora.pairs import Place

if TYPE_CHECKING:
    from torch import nn

Strength = float | Mapping[str, Any]
"""A number for all layers, or one for each model, side, block or layer."""
PLACES: tuple[Place, ...] = ("unet", "text_encoder", "text_encoder_2")
_SIDES = ("down", "mid", "up")
_IN_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(?:[a-z_]+\.(\d+)\.)?")


def layer_strength(strength: Strength, place: Place, model: nn.Module) -> Callable[[str], float]:
    """The strength at each layer of `model`, by its path. Raises UserError for one that cannot be read."""
    if isinstance(strength, Mapping):
        for name in strength:
            if name not in PLACES:
                raise unknown("model in the strengths of a LoRA", name, PLACES)
        strength = strength.get(place, 1.0)
    if not isinstance(strength, Mapping):
        value = _number(strength)
        return lambda path: value
    if place != "unet":
        raise UserError(f"the strength of a LoRA on a {place} is a number, got {strength!r}")
    by_block = _by_block(strength, model)

    def at(path: str) -> float:
        if path.startswith("mid_block"):
            return by_block.get("mid", [1.0])[0]
        found = _IN_BLOCK.match(path)
        values = by_block.get(f"{found[1]}.{found[2]}", [1.0]) if found else [1.0]
        number = int(found[3]) if found and found[3] else 0
        return values[min(number, len(values) - 1)]

    return at


def _by_block(strength: Mapping[str, Any], model: nn.Module) -> dict[str, list[float]]:
    """Strengths of a UNet by block, "down.0", "mid": one for all its layers, or one each."""
    found: dict[str, list[float]] = {}
    for side, value in strength.items():
        if side not in _SIDES:
            raise unknown("side of the UNet in the strengths of a LoRA", side, _SIDES)
        if side == "mid":
            found["mid"] = [_number(value)]
            continue
        blocks: Any = getattr(model, f"{side}_blocks")
        names = [f"block_{number}" for number in range(len(blocks))]
        for name in value if isinstance(value, Mapping) else ():
            if name not in names:
                raise unknown(f"block of the UNet's {side} side", name, names)
        for number, block in enumerate(blocks):
            own = value.get(f"block_{number}", 1.0) if isinstance(value, Mapping) else value
            values = [_number(one) for one in own] if isinstance(own, list | tuple) else [_number(own)]
            if len(values) not in (1, len(block.resnets)):
                raise UserError(
                    f"block_{number} of the UNet's {side} side has {len(block.resnets)} layers, got {len(values)} "
                    "strengths"
                )
            found[f"{side}.{number}"] = values
    return found


def _number(value: Any) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UserError(f"the strength of a LoRA is a number, or a mapping of models and blocks; got {value!r}")
    return float(value)
