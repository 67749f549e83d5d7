"""Motion-module keys in three dialects: `original` (guoyww/AnimateDiff), `internal` (ours), `diffusers`.

Internal keys are those of diffusers' `MotionAdapter`, less its position tables. HotshotXL's names can be read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from animatediff.motion import MotionLayout
from animatediff.motion.image_encoder import EncoderLayout

Dialect = Literal["original", "diffusers", "hotshot"]
Rules = tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]
T = TypeVar("T")

TO_INTERNAL: Rules = (  # original and HotshotXL -> internal; each at most once per key
    (re.compile(r"^(?:module\.)?(?:unet\.)?(?=(?:down|up|mid)_block)"), ""),
    (re.compile(r"\.temporal_attentions\."), ".motion_modules."),
    (re.compile(r"\.temporal_transformer\."), "."),
    (re.compile(r"\.attention_blocks\.([01])\."), lambda found: f".attn{int(found[1]) + 1}."),
    (re.compile(r"\.norms\.([01])\."), lambda found: f".norm{int(found[1]) + 1}."),
    (re.compile(r"\.ff_norm\."), ".norm3."),
)
TO_ORIGINAL: Rules = (  # internal -> original
    (re.compile(r"(\.motion_modules\.\d+\.)"), r"\1temporal_transformer."),
    (re.compile(r"\.attn([12])\."), lambda found: f".attention_blocks.{int(found[1]) - 1}."),
    (re.compile(r"\.norm([12])\."), lambda found: f".norms.{int(found[1]) - 1}."),
    (re.compile(r"\.norm3\."), ".ff_norm."),
)
POSITIONS = re.compile(r"\.pos_encoder\.(?:pe|pos_encoding|positional_encoding)$|\.pos_embed\.pe$")
"""Sinusoidal tables: only their length is read."""
MOTION_KEY = re.compile(
    r"^(?:module\.)?(?:unet\.)?(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:motion_modules|temporal_attentions)\.\d+\."
)
ANY_PROJ_IN = re.compile(
    r"^(?P<prefix>(?:.+\.)?)(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:motion_modules|temporal_attentions)\.\d+\."
    r"(?:temporal_transformer\.)?proj_in\.weight$"
)
"""The first layer of a motion module, whatever stands before its block: `unet.`, `model.diffusion_model.`, `ema.`."""
CONV_IN = re.compile(r"^(?:module\.)?(?:unet\.)?(?=conv_in\.(?:weight|bias)$)")
"""A first layer: one of the motion modules if it takes an image too, as PIA's does."""
CONV_IN_WEIGHT = "conv_in.weight"
NINE = 9
"""Channels of such a layer: four of noisy latents, one of the affinity mask, four of the image's latents."""
ENCODER_KEY = re.compile(r"^(?:module\.)?(?:unet\.)?(?=img_encoder\.(?!.*\.(?:pe|pos_encoding|positional_encoding)$))")
"""The image encoder of AnimateLCM-I2V, less codes of the frame index, which are computed."""
ENCODER = "img_encoder."
LCM_POSITIONS = ".pos_encoder.pos_encoding"
"""The end of a table's name in AnimateLCM's code; its published files have none."""
EMA_PREFIX = re.compile(r"(?:^|[._])ema(?:[._]|$)", re.IGNORECASE)
LDM_UNET = "model.diffusion_model.input_blocks."
"""Image layers of a single-file base model."""
PROJ_IN = re.compile(r"^(down|up)_blocks\.(\d+)\.motion_modules\.(\d+)\.proj_in\.weight$")


def motion_prefix(keys: Iterable[str]) -> str:
    """The prefix before the blocks that motion modules stand in, with its dot; "" where there is none to take away.

    Of a file with several copies the one without prefix counts, else the largest that is no average (EMA).
    """
    counts: Counter[str] = Counter()
    for key in keys:
        if key.startswith(LDM_UNET):
            return ""
        if found := ANY_PROJ_IN.match(key):
            counts[found["prefix"]] += 1
    if not counts or "" in counts:
        return ""
    return max(counts, key=lambda prefix: (EMA_PREFIX.search(prefix) is None, counts[prefix]))


def without_prefix(entries: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The entries with this prefix under shorter names, the others as they are, less those that would be hidden."""
    short = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    return short | {key: value for key, value in entries.items() if not key.startswith(prefix) and key not in short}


def below_loras(state: Mapping[str, T]) -> dict[str, T]:
    """The entries of a model without the LoRAs on it, under the names that they have without."""
    return {
        key.replace(".base_layer.", "."): value
        for key, value in state.items()
        if not any(part.startswith("lora_") for part in key.split("."))
    }


def rename(key: str, rules: Rules) -> str:
    """One key by a table of rules."""
    for pattern, by in rules:
        key = pattern.sub(by, key, count=1)
    return key


def to_internal(entries: Mapping[str, T]) -> dict[str, T]:
    """The motion-module entries of a file under internal names; position tables and other layers left out."""
    return {
        rename(key, TO_INTERNAL): value
        for key, value in entries.items()
        if MOTION_KEY.match(key) and not POSITIONS.search(key)
    }


def motion_keys(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Internal name -> key of a file, of each tensor of its motion modules, of their first layer and image encoder.

    Tables are left out. A first layer belongs to them if it has nine channels; that of an image model does not.
    """
    found = to_internal({key: key for key in shapes})
    if found:
        found |= {ENCODER_KEY.sub("", key): key for key in shapes if ENCODER_KEY.match(key)}
    first = {CONV_IN.sub("", key): key for key in shapes if CONV_IN.match(key)}
    weight = shapes.get(first.get(CONV_IN_WEIGHT, ""), ())
    return found | first if found and len(weight) == 4 and weight[1] == NINE else found


def motion_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Internal name -> shape of each tensor of `motion_keys`."""
    return {name: shapes[key] for name, key in motion_keys(shapes).items()}


def to_original(entries: Mapping[str, T]) -> dict[str, T]:
    """Internal entries under original names."""
    return {rename(key, TO_ORIGINAL): value for key, value in entries.items()}


def dialect_of(keys: Iterable[str]) -> Dialect:
    """The dialect of the motion-module keys of a file."""
    seen = [key for key in keys if MOTION_KEY.match(key)]
    if any(".temporal_attentions." in key for key in seen):
        return "hotshot"
    return "original" if any(".temporal_transformer." in key for key in seen) else "diffusers"


def num_positions(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Length of the position tables, (1, L, c) or (L, c), in a file, or None where it has none."""
    lengths = {shape[-2] for key, shape in shapes.items() if POSITIONS.search(key) and len(shape) in (2, 3)}
    return min(lengths) if lengths else None


def layout_of(
    shapes: Mapping[str, tuple[int, ...]], *, norm_groups: int = 32, num_heads: int = 8
) -> MotionLayout | None:
    """The layout of the modules in a file, from internal names; None if blocks or modules are missing."""
    widths: dict[str, dict[int, dict[int, int]]] = {"down": {}, "up": {}}
    for key, shape in shapes.items():
        if (found := PROJ_IN.match(key)) and len(shape) in (2, 4):
            widths[found[1]].setdefault(int(found[2]), {})[int(found[3])] = shape[0]
    sides = {side: _as_blocks(blocks) for side, blocks in widths.items()}
    if not sides["down"] or not sides["up"]:
        return None
    mid = shapes.get("mid_block.motion_modules.0.proj_in.weight")
    encoder = {key.removeprefix(ENCODER): shape for key, shape in shapes.items() if key.startswith(ENCODER)}
    return MotionLayout(
        down=sides["down"],
        mid=mid[0] if mid else None,
        up=sides["up"],
        num_attentions=2 if any(".attn2." in key for key in shapes) else 1,
        norm_groups=norm_groups,
        num_heads=num_heads,
        image_encoder=EncoderLayout.of(encoder),
        conv_in_channels=first[1] if len(first := shapes.get(CONV_IN_WEIGHT, ())) == 4 else None,
    )


def _as_blocks(blocks: dict[int, dict[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Numbered blocks of numbered widths as tuples; empty unless both are numbered from 0 without a gap."""
    if sorted(blocks) != list(range(len(blocks))):
        return ()
    if any(sorted(block) != list(range(len(block))) for block in blocks.values()):
        return ()
    return tuple(tuple(block[j] for j in range(len(block))) for _, block in sorted(blocks.items()))
