"""Tiny IP-Adapters with their image encoder, random, in the files and folders of published ones."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

WIDTH = 24
TOKENS = 4  # as diffusers takes for granted


def save_ip_adapter(
    folder: Path, unet: UNet2DConditionModel, name: str = "ip-adapter.safetensors", kind: str = "plain"
) -> Path:
    """`folder/models/NAME` and `folder/models/image_encoder`, in the grammar of the published files.

    kind: "plain", "plus" or "full-face".
    """
    torch.manual_seed(0)
    models = folder / "models"
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=40, projection_dim=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(models / "image_encoder")
    text = unet.config["cross_attention_dim"]
    state = {f"image_proj.{key}": value for key, value in _projection(kind, text, config.hidden_size).items()}
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


def _projection(kind: str, text: int, hidden: int) -> dict[str, torch.Tensor]:
    """The image projection of a published file of this kind."""

    def ones(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}

    def linear(name: str, out: int, into: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.randn(out, into) * into**-0.5, f"{name}.bias": torch.randn(out) * 0.1}

    if kind == "plain":
        return {
            "proj.weight": torch.randn(TOKENS * text, WIDTH),
            "proj.bias": torch.randn(TOKENS * text),
            **ones("norm", text),
        }
    if kind == "full-face":
        return linear("proj.0", hidden, hidden) | linear("proj.2", text, hidden) | ones("proj.3", text)
    inner, wide = 64, 4 * hidden  # one head
    state = {"latents": torch.randn(1, 3, hidden), **linear("proj_in", hidden, hidden)}
    state |= linear("proj_out", text, hidden) | ones("norm_out", text)
    for layer in (f"layers.{number}" for number in range(4)):
        state |= ones(f"{layer}.0.norm1", hidden) | ones(f"{layer}.0.norm2", hidden) | ones(f"{layer}.1.0", hidden)
        for name, shape in (
            ("0.to_q", (inner, hidden)), ("0.to_kv", (2 * inner, hidden)), ("0.to_out", (hidden, inner)),
            ("1.1", (wide, hidden)), ("1.3", (hidden, wide)),
        ):  # fmt: skip
            state[f"{layer}.{name}.weight"] = torch.randn(shape) * shape[1] ** -0.5
    return state
