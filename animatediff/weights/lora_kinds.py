"""What the names and shapes in a LoRA file say: what it changes, by which methods, and of which model."""

from __future__ import annotations

from typing import Any

from animatediff.weights.kind_rules import LORA, LOW_RANK, OTHER_LORAS, OTHER_UNETS, TEXT_PARTS, UNET_PARTS
from animatediff.weights.lora.methods import method_names, refusal
from animatediff.weights.lora.settings import refusal_of_settings
from animatediff.weights.names import BY_WIDTH, TEXT_WIDTHS, Names

_DOWN = r"[._](lora_)?(lora[._])?(down|A|hada_w1_b|diff)(\.\w+)?(\.weight)?$"
"""End of the name of a tensor that is as wide, along its second axis, as the layer's input."""
_UNET_BLOCK = r"^(?:unet\.)?(?:down|up|mid)_block\w*\..*"


NUMBERED = r"^(unet|text_encoder):\d+:(up|down)$"
"""Layers of cloneofsimo's LoRAs."""


def lora_facts(names: Names) -> dict[str, Any] | None:
    """Kind, evidence, dialect, variant and base of a LoRA file, as fields of `Recognised`; None for other files."""
    key = names.find(LORA)
    if key is None:
        return None
    keys = names.header.tensors
    methods = method_names(keys)
    plain = names.find(LOW_RANK)
    key = next((name for name in keys if not name.endswith(".alpha")), key)
    evidence = [
        f"low-rank layers such as {plain}" if plain else f"layers of {' and '.join(methods) or 'a LoRA'}: {key}"
    ]
    if methods and plain:
        evidence.append(f"also {', '.join(methods)}")
    if (bundled := names.find(r"^bundle_emb\.")) is not None:
        evidence.append(f"brings an embedding: {bundled}")
    facts: dict[str, Any] = {"evidence": evidence, "variant": ", ".join(methods) or None}
    other = _other_model(names)
    if other is not None:
        facts["evidence"].insert(0, f"changes layers of {other[0]}: {other[1]}")
        return {**facts, "kind": "lora_other", "variant": other[0]}
    metadata, label = names.header.metadata, str(names.header.path)
    if reason := refusal(keys) or refusal_of_settings(metadata, keys, label=label):
        return {**facts, "kind": "lora_unsupported", "variant": None, "evidence": [reason, *facts["evidence"]]}
    temporal = names.find(r"motion_modules|temporal_attentions")
    if temporal is not None:
        facts["evidence"].append(f"on the motion modules: {temporal}")
        dialect = "original" if "processor" in temporal or "attention_blocks" in temporal else "diffusers"
        return {**facts, "kind": "motion_lora", "dialect": dialect, "base": _motion_base(names)}
    base, why = _image_base(names)
    if why:
        facts["evidence"].append(why)
    if names.find(r"^(lora|lycoris|oft)_(unet|te\d?)_|^lycoris_"):
        dialect = "kohya"
    elif base in (None, "sd1") and _whole_adapter(names):
        sd1 = names.find(r"up_blocks[._]3[._]|down_blocks[._]0[._]attentions[._]")
        return {**facts, "kind": "domain_adapter", "dialect": "original", "base": "sd1" if sd1 else base}
    else:
        dialect = "peft" if names.find(r"lora_A") else "diffusers"
    return {**facts, "kind": "lora", "dialect": dialect, "base": base}


def _other_model(names: Names) -> tuple[str, str] | None:
    """The other kind of model whose layers a LoRA changes, and the first of their names."""
    ours = names.find(UNET_PARTS) or names.find(r"motion_modules|temporal_attentions")
    for model, patterns in OTHER_UNETS if ours else (*OTHER_UNETS, *OTHER_LORAS):
        found = [names.find(pattern) for pattern in patterns]
        if None not in found:
            return model, str(found[0])
    if ours:
        return None
    if names.find(TEXT_PARTS) or names.find(rf"{NUMBERED}|^bundle_emb\.|^(lora|oft|lycoris)_unet_"):
        return None
    key = names.find(LORA)
    return "a model that is not known", str(key)


def _whole_adapter(names: Names) -> bool:
    """Whether all attention layers of the UNet are changed, and no others, in the original's names."""
    wanted = [rf"{_UNET_BLOCK}attn{n}\.processor\.to_{part}_lora\." for n in (1, 2) for part in ("q", "k", "v", "out")]
    others = r"^(?!(unet\.)?(down|up|mid)_block.*\.processor\.).+$"
    return all(names.find(pattern) for pattern in wanted) and names.find(others) is None


def _image_base(names: Names) -> tuple[str | None, str | None]:
    """Kind of base model, and the evidence for it."""
    if widths := names.sizes(r"attn2[._](processor[._])?to_[kv]" + r"(_lora)?" + _DOWN, 1):
        width = widths.pop()
        if not widths and width in BY_WIDTH:
            return BY_WIDTH[width], f"its cross attentions take prompt embeddings of width {width}"
    if key := names.find(r"^lora_te2_|^text_encoder_2\.|^text_encoders\.clip_g\.|^bundle_emb\..*\.clip_g$"):
        return "sdxl", f"a second text encoder: {key}"
    if key := names.find(r"(input_blocks_[478]_1|[._]attentions[._]\d)[._]transformer_blocks[._][1-9]"):
        return "sdxl", f"more than one transformer block in a place: {key}"
    widths = names.sizes(r"(^lora_te_|^text_encoder\.|text_model\.).*q_proj" + _DOWN, 1)
    if len(widths) == 1 and (width := widths.pop()) == 1024:
        return TEXT_WIDTHS[width], f"a text encoder of width {width}"
    return None, None


def _motion_base(names: Names) -> str | None:
    """Of a MotionLoRA: the fourth level tells SD 1.x, the widths of the last levels SDXL."""
    if names.find(r"(down|up)_blocks[._]3[._]"):
        return "sd1"
    widths = {level: names.sizes(rf"up_blocks[._]{level}[._].*to_q(_lora)?{_DOWN}", 1) for level in (1, 2)}
    if widths[1] == {640} or widths[2] == {320}:
        return "sdxl"
    return "sd1" if widths[1] == {1280} or widths[2] == {640} else None
