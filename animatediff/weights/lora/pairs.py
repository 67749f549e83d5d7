"""Read a LoRA file, in whatever key format, as one list of low-rank pairs.

All formats (the original's `processor.to_q_lora.down`, diffusers, PEFT, kohya in diffusers' or LDM block names, the
underscore names of the A1111 re-hosts) meet in one spelling: the module's path with underscores. A live model has
exactly one module of each such spelling, so no format has to guess where the dots were.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.lora.settings import unpacked

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Place = Literal["unet", "text_encoder", "text_encoder_2"]
Kind = Literal["motion_lora", "domain_adapter", "lora"]

_TAIL = re.compile(
    r"(?:\.lora_(?P<ab>[AB])(?:\.[\w-]+)?|[._]lora(?:_linear_layer)?\.(?P<dot>down|up)|\.lora_(?P<bar>down|up))\.weight$"
)
_ALPHA = re.compile(r"(?:[._]lora(?:_linear_layer)?)?\.alpha$")
_PLACES: tuple[tuple[re.Pattern[str], Place], ...] = (  # in the order of trial
    # kohya, with underscores; OneTrainer and ComfyUI, with dots
    (re.compile(r"(lora|oft)_unet[._]|lycoris_(?!text_model_)|(model[._])?diffusion_model[._]|unet[.]"), "unet"),
    (re.compile(r"(lora|oft)_te2[._]|text_encoder_2\."), "text_encoder_2"),
    (re.compile(r"(lora|oft)_te1?[._]|text_encoder\.|lycoris_(?=text_model_)"), "text_encoder"),
    # ComfyUI's names of text encoders, OneTrainer's and those of single files
    (
        re.compile(r"(text_encoders\.)?clip_g\.(transformer\.)?|conditioner\.embedders\.1\.transformer\."),
        "text_encoder_2",
    ),
    (re.compile(r"(text_encoders\.)?clip_[lh]\.(transformer\.)?"), "text_encoder"),
    (re.compile(r"(cond_stage_model|conditioner\.embedders\.0)\.transformer\."), "text_encoder"),
)
_PEFT_PREFIX = "base_model.model."
_OF_TEXT = re.compile(r"(text_model[._])?encoder[._]layers[._]\d")
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
    (re.compile(r"_temporal_attentions_(?=\d)"), "_motion_modules_"),  # HotshotXL's
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
    up_key: str = ""
    """Key of `up` in the file."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def named_place(module: str) -> tuple[Place | None, str]:
    """The model that a LoRA key names before the path of the module, None where it names none, and that path."""
    module = module.removeprefix(_PEFT_PREFIX)
    for prefix, of in _PLACES:
        if found := prefix.match(module):
            return of, module[found.end() :].removeprefix(_PEFT_PREFIX)
    return None, module


def split_place(module: str) -> tuple[Place, str]:
    """The target model of a module of a LoRA key, and the path of the module there, as the file writes it."""
    place, path = named_place(module)
    return place or ("text_encoder" if _OF_TEXT.match(path) else "unet"), path


def spell(module: str, *, layers_per_block: int = 2) -> tuple[Place, str]:
    """The target model of a module of a LoRA key, and its underscored path there."""
    place, path = split_place(module)
    name = path.replace(".", "_")
    if place == "unet":
        name = ldm.unet_layer(name, layers_per_block + 1, dot="_") or name
    for pattern, replacement in _SPELLING if place == "unet" else (*_SPELLING, *_TEXT_SPELLING):
        name = pattern.sub(replacement, name)
    return place, name


def half_of(key: str) -> tuple[str, str] | None:
    """Module of a key of a low-rank pair, as the file names it, and its half, `down` or `up`; None for other keys."""
    if (found := _TAIL.search(key)) is None:
        return None
    return key[: found.start()], found["dot"] or found["bar"] or {"A": "down", "B": "up"}[found["ab"]]


def peft_path(path: str) -> str:
    """A path of a LoRA key, of whatever vintage, as PEFT has it, whose settings name layers so."""
    path = re.sub(r"\.processor(?=\.|$)", "", path)
    return re.sub(r"\.to_out$", ".to_out.0", path)


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
        if (half := half_of(key)) is not None:
            halves.setdefault(half[0], {})[half[1]] = key
        elif (found := _ALPHA.search(key)) and tensor.numel() == 1:
            alphas[key[: found.start()]] = float(tensor)
        else:
            odd_keys.append(key)
    if unknown is not None:
        unknown.extend(odd_keys)
    elif odd_keys:
        raise UserError(f"{name}: {len(odd_keys)} keys are of no LoRA, first {', '.join(odd_keys[:3])}")
    settings = unpacked(metadata or {}, label=name)
    if (without := len(halves.keys() - alphas.keys())) and not settings:
        _say_unread_alpha(metadata or {}, name, f"{without} of {len(halves)}")
    pairs = []
    for module, keys in halves.items():
        if len(keys) != 2:
            lacking = "up" if "down" in keys else "down"
            raise UserError(f"{name}: {next(iter(keys.values()))} has no `{lacking}` beside it; the file is incomplete")
        down, up = tensors[keys["down"]], tensors[keys["up"]]
        if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[1] != down.shape[0]:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise UserError(f"{name}: {keys['down']} and its `up` do not fit together: {shapes}")
        place, path = split_place(module)
        alpha = alphas.get(module)
        if alpha is None:
            own = settings.get(place)
            alpha = float(down.shape[0]) if own is None else own.alpha(peft_path(path), down.shape[0])
        if not math.isfinite(alpha):
            raise UserError(f"{name}: the alpha of {keys['down']} is {alpha}, no number; the file is damaged")
        _, spelled = spell(module, layers_per_block=layers_per_block)
        pairs.append(
            Pair(place=place, module=spelled, key=keys["down"], down=down, up=up, alpha=alpha, up_key=keys["up"])
        )
    for own in settings.values():
        own.say_other_ranks()
    return pairs


def _say_unread_alpha(metadata: Mapping[str, str], name: str, without: str) -> None:
    """Warn where training stated an alpha that the weights lack: kohya and the WebUI take the rank for it then.

    without: the number of layers that have none, for the message.
    """
    alpha, rank = (metadata.get(f"ss_network_{key}") for key in ("alpha", "dim"))
    if alpha and rank and alpha != "None" and rank.isdigit() and _number(alpha) not in (None, float(rank)):
        logger.warning(
            "%s: its metadata states alpha %s for rank %s, but %s layers have no tensor of it; alpha counts as the "
            "rank there, as in kohya",
            name,
            alpha,
            rank,
            without,
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def kind_of(pairs: Sequence[Any], keys: list[str]) -> Kind:
    """Tell LoRAs of the motion modules, of the image layers in the original's format, and all others apart."""
    if any("_motion_modules_" in pair.module for pair in pairs):
        return "motion_lora"
    original = all(".processor." in key and "_lora." in key for key in keys)
    return "domain_adapter" if original and all(pair.place == "unet" for pair in pairs) else "lora"
