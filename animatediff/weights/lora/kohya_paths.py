"""Where the dots were: module paths of image LoRAs out of kohya's underscores, so that files go to diffusers and back.

On a live model no dots are needed (`lora.py`); a file by itself has only its names, so the vocabulary is written down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from animatediff.errors import UserError
from animatediff.weights.lora.pairs import Pair, read_pairs

if TYPE_CHECKING:
    from torch import Tensor

_UNET = (  # each rule puts the dots around one kind of part; what no rule names has none inside
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
_TEXT = (
    (re.compile(r"^encoder_layers_(\d+)_"), r"encoder.layers.\1."),
    (re.compile(r"\b(self_attn|mlp)_(?=\w)"), r"\1."),
)
_LAST = {
    *("to_q", "to_k", "to_v", "to_out.0", "proj", "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_shortcut"),
    *("time_emb_proj", "conv_in", "conv_out", "linear_1", "linear_2", "2", "0"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
"""Names of the layers themselves."""
KOHYA_PLACES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_", "text_encoder_2": "lora_te2_text_model_"}


def dotted(pair: Pair, label: str) -> str:
    """The path of a pair's layer, as a model has it. Raises UserError for a layer of no known kind."""
    path = pair.module
    for pattern, replacement in _UNET if pair.place == "unet" else _TEXT:
        path = pattern.sub(replacement, path)
    if path.split(".")[-1] not in _LAST and not path.endswith("to_out.0"):
        raise UserError(f"{label}: {pair.key} is of no layer whose name is known; the LoRA cannot change its layout")
    return path if pair.place == "unet" else f"text_model.{path}"


def to_diffusers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str) -> dict[str, Tensor]:
    """An image LoRA under diffusers' names, alpha multiplied into `up`. Raises UserError as `read_pairs`."""
    state: dict[str, Tensor] = {}
    for pair in read_pairs(tensors, name=label, metadata=metadata):
        stem = f"{pair.place}.{dotted(pair, label)}"
        scale = pair.alpha / pair.rank
        state[f"{stem}.lora_A.weight"] = pair.down
        state[f"{stem}.lora_B.weight"] = pair.up if scale == 1 else (pair.up.float() * scale).to(pair.up.dtype)
    return state


def to_kohya(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str) -> dict[str, Tensor]:
    """An image LoRA under kohya's names, alpha stated. Raises UserError as `read_pairs`."""
    import torch

    pairs = read_pairs(tensors, name=label, metadata=metadata)
    sdxl = any(pair.place == "text_encoder_2" for pair in pairs)
    state: dict[str, Tensor] = {}
    for pair in pairs:
        prefix = KOHYA_PLACES[pair.place]
        if sdxl and pair.place == "text_encoder":
            prefix = "lora_te1_text_model_"
        stem = prefix + pair.module
        state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"] = pair.down, pair.up
        state[f"{stem}.alpha"] = torch.tensor(pair.alpha, dtype=pair.up.dtype)
    return state
