"""Tiny models under the names, in the files and with the blocks of published ones, for tests that really render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from animatediff.motion import MotionAdapter
from animatediff.weights.families import FAMILIES
from animatediff.weights.lora.key_formats import lora_to_original
from animatediff.weights.motion import save_motion_module
from animatediff.weights.storage.files import save_tensors
from support import ldm_files

UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "cross_attention_dim": 64},
    "sdxl": {
        "block_out_channels": (32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 96,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (1, 1, 1),
        "transformer_layers_per_block": (1, 1, 2), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
}  # fmt: skip


def save_base(path: Path, generation: str) -> UNet2DConditionModel:
    """A base model of the generation's levels as a single file in the LDM layout; returns its UNet."""
    parts = ldm_files.models(generation)
    unet = UNet2DConditionModel(**UNETS[generation]).eval()
    save_file(ldm_files.single_file(generation, parts | {"unet": unet}), path)
    return unet


def save_motion(path: Path, unet: UNet2DConditionModel, family: str) -> MotionAdapter:
    """A motion module of a published family that moves things, in the original grammar."""
    facts = FAMILIES[family]
    adapter = MotionAdapter.from_unet(unet, mid_block=family == "v2", numerics=facts.numerics)
    for name, value in adapter.named_parameters():
        if "proj_out.weight" in name:
            torch.nn.init.normal_(value, std=0.1)
    save_motion_module(adapter, path, family=facts)
    return adapter


def save_motion_lora(path: Path, adapter: MotionAdapter, rank: int = 2) -> None:
    """A MotionLoRA for every attention of the adapter, in the original grammar and wrapper."""
    state = {}
    for key, weight in adapter.state_dict().items():
        if ".attn" in key and key.endswith("weight"):
            stem = key.removesuffix(".weight")
            state[lora_to_original(f"{stem}.lora_A.weight")] = torch.randn(rank, weight.shape[1])
            state[lora_to_original(f"{stem}.lora_B.weight")] = torch.randn(weight.shape[0], rank)
    save_tensors(path, state, {"made": "for tests"})
