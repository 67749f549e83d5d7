"""LoRA keys from one format to another, for files without a model beside them.

MotionLoRAs and domain adapters: `original`, `internal` (PEFT's names), `diffusers` (the hub's). LoRAs of an image
model: `diffusers` and `kohya`, whose underscores hide where the dots were, so that the vocabulary is written down here;
on a live model no dots are needed (`load.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from animatediff.errors import UserError
from animatediff.weights.lora.pairs import Pair, read_pairs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LORA_KEY = re.compile(
    r"^(?:lora_unet_|unet[._]|base_model\.model\.)?(?P<block>(?:down|up)_blocks[._]\d+|mid_block)"
    r"[._](?P<site>motion_modules|attentions)[._](?P<index>\d+)(?:[._]temporal_transformer)?"
    r"[._]transformer_blocks[._](?P<layer>\d+)[._](?P<attention>attention_blocks[._][01]|attn[12])"
    r"(?:[._]processor)?[._]to_(?P<what>[qkv]|out)(?:[._]0)?"
    r"(?:[._]lora[._](?P<side>down|up|A|B)(?:\.[\w-]+)?\.weight|(?:[._]lora)?\.(?P<alpha>alpha))$"
)
"""One pattern for all formats: the original's `processor.to_q_lora.down`, `to_out.0_lora`, the hub's `unet.`, PEFT's
`lora_A`, the underscores of re-hosts for the WebUI."""
INTERNAL_KEY = re.compile(
    r"^(?P<module>.*)\.(?P<attention>attn[12])\.(?P<what>to_[qkv]|to_out)(?:\.0)?\."
    r"(?P<end>lora_A\.weight|lora_B\.weight|alpha)$"
)
_ANY_KEY = re.compile(r"^(?P<module>.*)\.(?P<end>lora_A\.weight|lora_B\.weight|alpha)$")
SIDES = {"down": "A", "up": "B", "A": "A", "B": "B"}
ENDS = {"lora_A.weight": "_lora.down.weight", "lora_B.weight": "_lora.up.weight", "alpha": "_lora.alpha"}


def lora_to_internal(key: str) -> str | None:
    """`BLOCK.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_A.weight`, or `.alpha`; None for other keys."""
    found = LORA_KEY.match(key)
    if found is None:
        return None
    attention = found["attention"]
    number = int(attention[-1]) + (1 if attention.startswith("attention_blocks") else 0)
    what = "to_out.0" if found["what"] == "out" else f"to_{found['what']}"
    end = "alpha" if found["alpha"] else f"lora_{SIDES[found['side']]}.weight"
    block = re.sub(r"blocks_(?=\d)", "blocks.", found["block"])
    layer = f"{found['site']}.{found['index']}.transformer_blocks.{found['layer']}"
    return f"{block}.{layer}.attn{number}.{what}.{end}"


def lora_to_original(key: str) -> str:
    """An internal key in the original's format; layers of the image model have diffusers' names there too."""
    if (found := INTERNAL_KEY.match(key)) is None:  # of another layer than an attention's
        other = _other_layer(key)
        return _temporal(other["module"]) + ENDS[other["end"]]
    module, attention = found["module"], found["attention"]
    if ".motion_modules." in module:
        module = _temporal(module)
        attention = f"attention_blocks.{int(attention[-1]) - 1}"
    return f"{module}.{attention}.processor.{found['what']}{ENDS[found['end']]}"


def lora_to_diffusers(key: str) -> str:
    """An internal key under the name that hub repositories use and diffusers' `load_lora_weights` takes."""
    if (found := INTERNAL_KEY.match(key)) is None:
        other = _other_layer(key)
        return f"unet.{other['module']}.{ENDS[other['end']].removeprefix('_')}"
    return f"unet.{found['module']}.{found['attention']}.processor.{found['what']}{ENDS[found['end']]}"


def _other_layer(key: str) -> re.Match[str]:
    found = _ANY_KEY.match(key)
    assert found, f"{key} is no internal LoRA key"
    return found


def _temporal(module: str) -> str:
    return re.sub(r"(\.motion_modules\.\d+)\.", r"\1.temporal_transformer.", module)


_UNET_DOTS = (  # each rule puts the dots around one kind of part; what no rule names has none inside
    (re.compile(r"\b(down_blocks|up_blocks)_(\d+)_"), r"\1.\2."),
    (re.compile(r"^mid_block_"), "mid_block."),
    (re.compile(r"\b(attentions|resnets|downsamplers|upsamplers|motion_modules)_(\d+)_"), r"\1.\2."),
    (re.compile(r"\btransformer_blocks_(\d+)_"), r"transformer_blocks.\1."),
    (re.compile(r"\b(attn[12])_"), r"\1."),
    (re.compile(r"\bto_out_0$"), "to_out.0"),
    (re.compile(r"\bff_net_0_proj$"), "ff.net.0.proj"),
    (re.compile(r"\bff_net_2$"), "ff.net.2"),
    (re.compile(r"^(time|add)_embedding_(linear_[12])$"), r"\1_embedding.\2"),
)
_TEXT_DOTS = (
    (re.compile(r"^encoder_layers_(\d+)_"), r"encoder.layers.\1."),
    (re.compile(r"\b(self_attn|mlp)_(?=\w)"), r"\1."),
)
_LAYER_NAMES = {
    *("to_q", "to_k", "to_v", "to_out.0", "proj", "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_shortcut"),
    *("time_emb_proj", "conv_in", "conv_out", "linear_1", "linear_2", "2", "0"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "text_projection"),
}
"""Names of the layers themselves."""
KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
_PROJECTION = "text_projection"
SDXL_TEXT_WIDTH = 2048
"""Width of SDXL's prompt embeddings."""


def dotted(pair: Pair, label: str) -> str:
    """The path of a pair's layer, as a model has it. Raises UserError for a layer of no known kind."""
    path = pair.module
    for pattern, replacement in _UNET_DOTS if pair.place == "unet" else _TEXT_DOTS:
        path = pattern.sub(replacement, path)
    if path.split(".")[-1] not in _LAYER_NAMES and not path.endswith("to_out.0"):
        raise UserError(f"{label}: {pair.key} is of no layer whose name is known; the LoRA cannot change its layout")
    return path if pair.place == "unet" or path == _PROJECTION else f"text_model.{path}"


def scaled_up(pair: Pair) -> Tensor:
    """`up` times alpha / rank; in float32 where the file's precision would round the product."""
    import torch

    scale = pair.alpha / pair.rank
    if scale == 1:
        return pair.up
    exact = pair.up.to(torch.promote_types(pair.up.dtype, torch.float32)) * scale
    rounded = exact.to(pair.up.dtype)
    return rounded if torch.equal(rounded.to(exact.dtype), exact) else exact


def unet_lora(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str) -> tuple[dict[str, Tensor], int]:
    """A LoRA of the UNet or its motion modules under internal names, alpha multiplied into `up`.

    Returns the number of layers that alpha changed too. Raises UserError as `read_pairs`, and for text encoders.
    """
    pairs = read_pairs(tensors, name=label, metadata=metadata)
    if text := next((pair for pair in pairs if pair.place != "unet"), None):
        raise UserError(
            f"{label}: changes the text encoder ({text.key}), for which only diffusers and kohya have names"
        )
    state: dict[str, Tensor] = {}
    for pair in pairs:
        stem = dotted(pair, label)
        state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"] = pair.down, scaled_up(pair)
    return state, sum(pair.alpha != pair.rank for pair in pairs)


def fold_scale(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str) -> dict[str, Tensor]:
    """The tensors of a LoRA with the alpha that its settings state multiplied into `up`, under their own names.

    Raises UserError as `read_pairs`.
    """
    pairs = read_pairs(tensors, name=label, metadata=metadata)
    return {
        **{key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")},
        **{pair.up_key: scaled_up(pair) for pair in pairs},
    }


def image_lora_to_diffusers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str
) -> dict[str, Tensor]:
    """An image LoRA under diffusers' names, alpha multiplied into `up`. Raises UserError as `read_pairs`."""
    state: dict[str, Tensor] = {}
    for pair in read_pairs(tensors, name=label, metadata=metadata):
        stem = f"{pair.place}.{dotted(pair, label)}"
        state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"] = pair.down, scaled_up(pair)
    return state


def image_lora_to_kohya(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str) -> dict[str, Tensor]:
    """An image LoRA under kohya's names, alpha stated. Raises UserError as `read_pairs`."""
    import torch

    pairs = read_pairs(tensors, name=label, metadata=metadata)
    sdxl = any(_is_sdxl(pair) for pair in pairs)
    state: dict[str, Tensor] = {}
    for pair in pairs:
        dotted(pair, label)  # no other program would know a layer of another name
        prefix = "lora_te1_" if sdxl and pair.place == "text_encoder" else KOHYA_PREFIXES[pair.place]
        inside = "" if pair.place == "unet" or pair.module == _PROJECTION else "text_model_"
        stem = prefix + inside + pair.module
        state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"] = pair.down, pair.up
        state[f"{stem}.alpha"] = in_precision(f"{stem}.alpha", torch.tensor(pair.alpha), pair.up.dtype)
    return state


def in_precision(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor in another precision (None: its own); an alpha that would be rounded stays as it is."""
    if dtype is None or not tensor.is_floating_point():
        return tensor
    converted = tensor.to(dtype)
    rounded = key.endswith(".alpha") and tensor.numel() == 1 and float(converted) != float(tensor)
    return tensor if rounded else converted


def _is_sdxl(pair: Pair) -> bool:
    cross = pair.place == "unet" and pair.module.endswith(("attn2_to_k", "attn2_to_v"))
    return pair.place == "text_encoder_2" or (cross and pair.down.shape[1] == SDXL_TEXT_WIDTH)
