"""Read a LoRA file, in whatever key format, as one list of low-rank pairs.

All formats (the original's `processor.to_q_lora.down`, diffusers, PEFT, kohya in diffusers' or LDM block names, the
underscore names of the A1111 re-hosts) meet in one spelling: the module's path with underscores. A live model has
exactly one module of each such spelling, so no format has to guess where the dots were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from animatediff.errors import UserError
from animatediff.weights.base import ldm

if TYPE_CHECKING:
    from torch import Tensor

Place = Literal["unet", "text_encoder", "text_encoder_2"]
Kind = Literal["motion_lora", "domain_adapter", "lora"]

_TAIL = re.compile(
    r"(?:\.lora_(?P<ab>[AB])(?:\.[\w-]+)?|[._]lora(?:_linear_layer)?\.(?P<dot>down|up)|\.lora_(?P<bar>down|up))\.weight$"
)
_ALPHA = re.compile(r"(?:[._]lora(?:_linear_layer)?)?\.alpha$")
_PLACES: tuple[tuple[str, Place], ...] = (  # longest first: lora_te_ would match nothing of lora_te2_
    ("lora_unet_", "unet"),
    ("oft_unet_", "unet"),
    ("lycoris_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("oft_te_", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("unet.", "unet"),
    ("base_model.model.", "unet"),
)
_OTHER_METHODS = (
    (re.compile(r"\.lora_mid\."), "a LoCon with a Tucker core (lora_mid)"),
    (re.compile(r"\.hada_w\d"), "a LoHa (LyCORIS)"),
    (re.compile(r"\.lokr_w\d"), "a LoKr (LyCORIS)"),
    (re.compile(r"(\.dora_scale$|lora_magnitude_vector)"), "a DoRA"),
    (re.compile(r"\.oft_(blocks|diag)"), "an OFT"),
)
_SPELLING = (  # on the underscored path: what older formats put between or instead
    (re.compile(r"_processor(?=_|$)"), ""),
    (re.compile(r"_temporal_transformer(?=_)"), ""),
    (re.compile(r"_attention_blocks_([01])(?=_)"), lambda found: f"_attn{int(found[1]) + 1}"),
    (re.compile(r"_to_out$"), "_to_out_0"),
)
_TEXT_SPELLING = (  # diffusers once named the text encoder's matrices as the UNet's
    (re.compile(r"_to_(q|k|v)$"), r"_\1_proj"),
    (re.compile(r"_to_out_0$"), "_out_proj"),
    (re.compile(r"^text_model_"), ""),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One low-rank change: weight += strength * alpha / rank * up @ down."""

    place: Place
    module: str
    """Path of the module with underscores for dots, in diffusers' names."""
    key: str
    """Key of `down` in the file, for messages."""
    down: Tensor
    """(rank, in) or, for a convolution, (rank, in, h, w)."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1)."""
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def spell(module: str, *, layers_per_block: int = 2) -> tuple[Place, str]:
    """The target model of a module of a LoRA key, and its underscored path there."""
    place: Place = "unet"
    for prefix, of in _PLACES:
        if module.startswith(prefix):
            module, place = module[len(prefix) :], of
            break
    name = module.replace(".", "_")
    if place == "unet":
        name = name.removeprefix("diffusion_model_")
        name = ldm.unet_layer(name, layers_per_block + 1, dot="_") or name
    for pattern, replacement in _SPELLING if place == "unet" else (*_SPELLING, *_TEXT_SPELLING):
        name = pattern.sub(replacement, name)
    return place, name


def _alphas_of_metadata(metadata: Mapping[str, str]) -> Mapping[str, object]:
    """Metadata that diffusers writes beside PEFT weights: `unet.lora_alpha`, `unet.alpha_pattern` and so on."""
    try:
        found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_pairs(
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    metadata: Mapping[str, str] | None = None,
    layers_per_block: int = 2,
    unknown: list[str] | None = None,
) -> list[Pair]:
    """All pairs of a LoRA file called `name`. A pair without alpha has alpha = rank, so that strength alone counts.

    Keys that belong to no pair are added to `unknown`; without that list they raise UserError. So do other methods.
    """
    for pattern, method in _OTHER_METHODS:
        if odd := next((key for key in tensors if pattern.search(key)), None):
            raise UserError(f"{name}: {method}, which is not supported (first key {odd}); give a plain LoRA or LoCon")
    halves: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    odd_keys = []
    for key, tensor in tensors.items():
        if found := _TAIL.search(key):
            half = found["dot"] or found["bar"] or {"A": "down", "B": "up"}[found["ab"]]
            halves.setdefault(key[: found.start()], {})[half] = key
        elif (found := _ALPHA.search(key)) and tensor.numel() == 1:
            alphas[key[: found.start()]] = float(tensor)
        else:
            odd_keys.append(key)
    if unknown is not None:
        unknown.extend(odd_keys)
    elif odd_keys:
        raise UserError(f"{name}: {len(odd_keys)} keys are of no LoRA, first {', '.join(odd_keys[:3])}")
    settings = _alphas_of_metadata(metadata or {})
    pairs = []
    for module, keys in halves.items():
        if len(keys) != 2:
            lacking = "up" if "down" in keys else "down"
            raise UserError(f"{name}: {next(iter(keys.values()))} has no `{lacking}` beside it; the file is incomplete")
        down, up = tensors[keys["down"]], tensors[keys["up"]]
        if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[1] != down.shape[0]:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise UserError(f"{name}: {keys['down']} and its `up` do not fit together: {shapes}")
        place, spelled = spell(module, layers_per_block=layers_per_block)
        alpha = alphas.get(module)
        if alpha is None:
            patterns = settings.get(f"{place}.alpha_pattern")
            own = patterns.get(module.removeprefix(f"{place}.")) if isinstance(patterns, dict) else None
            stated = own if own is not None else settings.get(f"{place}.lora_alpha")
            alpha = float(stated) if isinstance(stated, int | float) else float(down.shape[0])
        pairs.append(Pair(place=place, module=spelled, key=keys["down"], down=down, up=up, alpha=alpha))
    return pairs


def kind_of(pairs: Sequence[Any], keys: list[str]) -> Kind:
    """Tell LoRAs of the motion modules, of the image layers in the original's format, and all others apart."""
    if any("_motion_modules_" in pair.module for pair in pairs):
        return "motion_lora"
    original = all(".processor." in key and "_lora." in key for key in keys)
    return "domain_adapter" if original and all(pair.place == "unet" for pair in pairs) else "lora"
