"""Configurations of image models: the ones that ship, and sizes read off the shapes in a file.

Values that shapes do not tell (number of heads, activation, scaling factor) come from the shipped configuration of the
base model version; the others are taken from them, so that slimmed and tiny variants load as the published ones do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

Generation = Literal["sd1", "sd2", "sdxl"]
Shapes = Mapping[str, tuple[int, ...]]

CONFIGS = Path(__file__).parent / "configs"
HEAD_WIDTH = 64
"""Channels per attention head in SD 2.x and SDXL UNets and in every CLIP text encoder (SD 1.x UNets: 8 heads)."""


@cache
def _read(generation: str, component: str) -> str:
    return (CONFIGS / generation / f"{component}.json").read_text("utf-8")


def shipped_config(generation: Generation, component: str) -> dict[str, Any]:
    """The standard configuration of one component ("unet", "text_encoder_2", "scheduler", ...) as a fresh dict."""
    return json.loads(_read(generation, component))


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that `pattern` finds, 0 if none."""
    compiled = re.compile(pattern)
    return max((int(found[1]) + 1 for key in shapes if (found := compiled.match(key))), default=0)


def _depths(shapes: Shapes, block: str) -> list[int]:
    """Transformer blocks behind each ResNet of a block, 0 for a ResNet without attention."""
    layers = _count(shapes, rf"{block}\.resnets\.(\d+)\.")
    return [_count(shapes, rf"{block}\.attentions\.{i}\.transformer_blocks\.(\d+)\.") for i in range(layers)]


def _uniform(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def _unet_blocks(shapes: Shapes, levels: int) -> dict[str, Any]:
    """The block types and depths of a UNet: of distilled ones they differ between layers, or the mid block is gone."""
    down = [_depths(shapes, rf"down_blocks\.{i}") for i in range(levels)]
    up = [_depths(shapes, rf"up_blocks\.{i}") for i in range(levels)]
    middle = _depths(shapes, "mid_block")
    mid_depth = max(middle, default=0)
    depths = [max(block, default=0) for block in down]
    settings: dict[str, Any] = {
        "layers_per_block": _uniform([len(block) for block in down]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if any(block) else "UpBlock2D" for block in up],
        "transformer_layers_per_block": [depth or 1 for depth in depths[:-1]] + [depths[-1] or mid_depth or 1],
    }
    if not any(up):  # the down path alone, as encoders have it
        return settings
    if not middle:
        settings["mid_block_type"] = None
    elif middle == [0]:
        settings["mid_block_type"] = "UNetMidBlock2D"
    alike = all(len(set(block)) == 1 for block in (*down, *up) if block)
    if not alike or any(any(block) and block[0] != (depth or 1) for block, depth in zip(up, depths[::-1], strict=True)):
        nested: list[Any] = [_uniform(block) or 1 for block in down]
        settings["transformer_layers_per_block"] = [*nested[:-1], _uniform(down[-1]) or mid_depth or 1]
        settings["reverse_transformer_layers_per_block"] = [_uniform(block) or 1 for block in up]
    return settings


def unet_config(shapes: Shapes, generation: Generation) -> dict[str, Any]:
    """Configuration of a UNet with diffusers' keys and these shapes."""
    config = shipped_config(generation, "unet")
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    if not levels or "conv_in.weight" not in shapes:
        return config
    channels = [shapes.get(f"down_blocks.{i}.resnets.0.conv1.weight", (0,))[0] for i in range(levels)]
    contexts = [shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight")]
    config |= {"in_channels": shapes["conv_in.weight"][1], "block_out_channels": channels}
    config |= _unet_blocks(shapes, levels)
    if contexts:
        config["cross_attention_dim"] = contexts[0]
    if "attention_head_dim" in config and isinstance(config["attention_head_dim"], list):
        config["attention_head_dim"] = [max(1, width // HEAD_WIDTH) for width in channels]
    for name in ("conv_in", "conv_out"):
        if (kernel := shapes.get(f"{name}.weight", (0, 0, 3))[-1]) != 3:
            config[f"{name}_kernel"] = kernel
    if (guidance := shapes.get("time_embedding.cond_proj.weight")) is not None:
        config["time_cond_proj_dim"] = guidance[1]
    if "add_embedding.linear_1.weight" in shapes:
        width = shapes["add_embedding.linear_1.weight"][1]
        config["projection_class_embeddings_input_dim"] = width
    return config


def vae_config(shapes: Shapes, generation: Generation) -> dict[str, Any]:
    """Configuration of an AutoencoderKL with diffusers' keys and these shapes."""
    config = shipped_config(generation, "vae")
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    if not levels or "decoder.conv_in.weight" not in shapes:
        return config
    return config | {
        "block_out_channels": [
            shapes.get(f"encoder.down_blocks.{i}.resnets.0.conv1.weight", (0,))[0] for i in range(levels)
        ],
        "layers_per_block": _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_config(shapes: Shapes, generation: Generation, component: str = "text_encoder") -> dict[str, Any]:
    """Configuration of a CLIP text encoder with transformers' keys (without `text_model.`) and these shapes."""
    config = shipped_config(generation, component)
    tokens = shapes.get("embeddings.token_embedding.weight")
    layers = _count(shapes, r"encoder\.layers\.(\d+)\.")
    if tokens is None or not layers:
        return config
    vocabulary, width = tokens
    config |= {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "intermediate_size": shapes.get("encoder.layers.0.mlp.fc1.weight", (4 * width,))[0],
        "max_position_embeddings": shapes.get("embeddings.position_embedding.weight", (77,))[0],
    }
    if "text_projection.weight" in shapes:
        config["projection_dim"] = shapes["text_projection.weight"][0]
    return config
