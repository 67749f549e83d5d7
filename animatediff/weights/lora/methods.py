"""Kinds of changes that a LoRA file holds, told by the ends of its keys: beside low-rank pairs those of LyCORIS.

One table for all who ask: the loader, the check before a base model is loaded, and `inspect`. Names: LyCORIS
(`lycoris/modules`, `weight_list` of each), kohya's sd-scripts (`networks/oft.py`), ComfyUI (`comfy/weight_adapter`,
`LoraSave`: `diff`, `diff_b`, `set_weight`, `reshape_weight`), PEFT (`lora_magnitude_vector`, `lora_B.bias`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from animatediff.weights.lora.pairs import half_of

LOHA, LOKR, GLORA, IA3 = "LoHa (LyCORIS)", "LoKr (LyCORIS)", "GLoRA (LyCORIS)", "IA3 (LyCORIS)"
OFT, FULL, DORA = "OFT", "weight differences", "DoRA"
TUCKER, BIAS, SCALE = "LoCon with a Tucker core", "biases of `up`", "scales of its own"

_TAILS = (  # end of a key -> method, name of the part
    (re.compile(r"\.(hada_w[12]_[ab]|hada_t[12])$"), LOHA),
    (re.compile(r"\.(lokr_w[12](?:_[ab])?|lokr_t2)$"), LOKR),
    (re.compile(r"\.([ab][12])\.weight$"), GLORA),
    (re.compile(r"\.(on_input)$"), IA3),
    (re.compile(r"\.(oft_blocks|rescale)$"), OFT),
    (re.compile(r"\.(diff|set_weight|diff_b|w_norm|b_norm)$"), FULL),
    (re.compile(r"\.(dora_scale)$"), DORA),
    (re.compile(r"\.(lora_magnitude_vector)(?:\.[\w-]+)*$"), DORA),
    (re.compile(r"\.(lora_mid)\.weight$"), TUCKER),
    (re.compile(r"[._](?:lora_B(?:\.[\w-]+)?|lora_up|lora\.up)\.(bias)$"), BIAS),
    (re.compile(r"\.(scalar|scale)$"), SCALE),
)
_NEEDS = {  # sets of parts of which a layer must have one whole
    LOHA: ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},),
    LOKR: tuple(
        {*first, *second}
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
    GLORA: ({"a1", "a2", "b1", "b2"},),
    IA3: ({"on_input", "weight"},),
    OFT: ({"oft_blocks"},),
}
_REFUSED = (  # methods that neither LyCORIS nor PEFT can put on a layer that other LoRAs share
    (re.compile(r"\.oft_diag$"), "an OFT in the early form of LyCORIS (oft_diag)"),
    (re.compile(r"\.oft_R(\.|$)"), "an OFT in PEFT's form (oft_R)"),
    (re.compile(r"\.boft_[RS](\.|$)"), "a BOFT in PEFT's form (boft_R)"),
    (re.compile(r"\.ia3_l(\.|$)"), "an IA3 in PEFT's form (ia3_l)"),
    (re.compile(r"\.vera_lambda_[bd](\.|$)"), "a VeRA (vera_lambda)"),
    (re.compile(r"\.(q_layer\.weight|p_layer\.weight|lambda_layer)$"), "a T-LoRA (lambda_layer)"),
    (re.compile(r"\.bm\.weight$"), "a GLoRA with a Tucker core (bm)"),
    (re.compile(r"\.reshape_weight$"), "a LoRA that changes the sizes of layers (reshape_weight)"),
    (re.compile(r"\.(bias_indices|bias_values|bias_size)$"), "a LoRA with sparse biases (bias_indices)"),
)
_EMBEDDING = re.compile(r"^bundle_emb\.(?P<word>.+?)\.(?P<part>string_to_param\.\*|clip_[lg])$")


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """Keys of a LoRA file by the kind of change that they belong to."""

    layers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Layer as the file names it -> part -> key, of every kind but low-rank pairs."""
    embeddings: dict[str, dict[str, str]] = field(default_factory=dict)
    """Word -> part -> key, of textual inversions that came with the LoRA."""
    rest: tuple[str, ...] = ()
    """Keys of low-rank pairs, their alphas, and unknown ones."""
    methods: tuple[str, ...] = ()
    """Names of the methods in the file beside low-rank pairs."""


def sort_keys(keys: Iterable[str]) -> Sorted:
    """Sort the keys of a LoRA file by kind of change."""
    layers: dict[str, dict[str, str]] = {}
    embeddings: dict[str, dict[str, str]] = {}
    methods: dict[str, None] = {}
    rest = []
    for key in keys:
        if found := _EMBEDDING.match(key):
            embeddings.setdefault(found["word"], {})[found["part"]] = key
            continue
        method, found = next(((name, hit) for tail, name in _TAILS if (hit := tail.search(key))), (None, None))
        if method is None or found is None:
            rest.append(key)
        else:
            layers.setdefault(key[: found.start()], {})[found[1]] = key
            methods[method] = None
    if IA3 in methods:
        for name, parts in layers.items():
            if "on_input" in parts and f"{name}.weight" in rest:
                rest.remove(f"{name}.weight")
                parts["weight"] = f"{name}.weight"
    return Sorted(layers=layers, embeddings=embeddings, rest=tuple(rest), methods=tuple(methods))


def is_lora(keys: Collection[str]) -> bool:
    """Whether a file with these keys is a LoRA of any kind, supported or not."""
    return any(
        "lora" in key or any(tail.search(key) for tail, method in _TAILS if method not in (BIAS, SCALE))
        or any(tail.search(key) for tail, _ in _REFUSED)
        for key in keys
    )  # fmt: skip


def refusal(keys: Collection[str]) -> str | None:
    """The reason why a LoRA file with these keys cannot be loaded into any model; None where it may be."""
    for tail, method in _REFUSED:
        if first := next((key for key in keys if tail.search(key)), None):
            return f"{method}, which is not supported (first key {first})"
    found = sort_keys(keys)
    for parts in found.layers.values():
        for method, sets in _NEEDS.items():
            known = set().union(*sets)
            if known & parts.keys() and not any(wanted <= parts.keys() for wanted in sets):
                nearest = max(sets, key=lambda wanted: len(wanted & parts.keys()) - len(wanted - parts.keys()))
                lacking = sorted(nearest - parts.keys())
                first = next(iter(parts.values()))
                return f"{first} of a {method} has no `{', '.join(lacking)}` beside it; the file is incomplete"
    halves: dict[str, dict[str, str]] = {}
    for key in found.rest:
        if (half := half_of(key)) is not None:
            halves.setdefault(half[0], {})[half[1]] = key
    for pair in halves.values():
        if len(pair) != 2:
            lacking = "up" if "down" in pair else "down"
            return f"{next(iter(pair.values()))} has no `{lacking}` beside it; the file is incomplete"
    return None


def method_names(keys: Iterable[str]) -> tuple[str, ...]:
    """Names of the methods beside low-rank pairs, for people: `LoHa (LyCORIS)`, `DoRA`."""
    return tuple(name for name in sort_keys(keys).methods if name not in (BIAS, SCALE))
