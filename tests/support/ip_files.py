"""Tiny IP-Adapters with their image encoder, random, in the files and folders of published ones."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

WIDTH = 24
TOKENS = 4  # as diffusers takes for granted


def save_ip_adapter(folder: Path, unet: UNet2DConditionModel, name: str = "ip-adapter.safetensors") -> Path:
    """`folder/models/NAME` and `folder/models/image_encoder`, in the grammar of the published files."""
    torch.manual_seed(0)
    models = folder / "models"
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=40, projection_dim=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(models / "image_encoder")
    text = unet.config["cross_attention_dim"]
    state = {
        "image_proj.proj.weight": torch.randn(TOKENS * text, WIDTH),
        "image_proj.proj.bias": torch.randn(TOKENS * text),
        "image_proj.norm.weight": torch.ones(text),
        "image_proj.norm.bias": torch.zeros(text),
    }
    number = 1
    for key, value in unet.state_dict().items():
        if key.endswith("attn2.to_k.weight") and "motion_modules" not in key:
            for part in ("k", "v"):
                state[f"ip_adapter.{number}.to_{part}_ip.weight"] = torch.randn_like(value) * 0.3
            number += 2
    if name.endswith(".safetensors"):
        save_file(state, models / name)
    else:
        nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in state.items():
            part, _, rest = key.partition(".")
            nested[part][rest] = value
        torch.save(nested, models / name)
    return models / name
