"""A small SD 1.5 checkpoint that Forge recognises, and the same models for our pipeline.

Forge tells the kind of a checkpoint by the first width of its UNet (320) and the width of its text (768), and takes the
configuration of the text encoder and of the VAE from its own files: only levels and layers of the UNet are free, so
its four levels have one layer each, all of the first width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from support import ldm_files


def forge_models() -> dict[str, nn.Module]:
    """UNet, VAE and text encoder with random weights, each rounded to float16 and in float32."""
    torch.manual_seed(11)
    unet = UNet2DConditionModel(
        block_out_channels=(320, 320, 320, 320), layers_per_block=1, cross_attention_dim=768, attention_head_dim=8,
        sample_size=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, scaling_factor=0.18215,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(4)  # pyright: ignore[reportAttributeAccessIssue]
        # the host divides by the mean of the embeddings, which is zero behind a norm without bias
        last_norm = next(module for name, module in text.named_modules() if name.endswith("final_layer_norm"))
        last_norm.bias.normal_()  # pyright: ignore[reportCallIssue]
    parts: dict[str, nn.Module] = {"unet": unet, "vae": vae, "text_encoder": text}
    return {name: part.half().float().eval() for name, part in parts.items()}


def save_forge_checkpoint(path: Path, parts: dict[str, nn.Module]) -> Path:
    """Write the parts as one file in float16: UNet and text encoder under LDM names, the VAE under those of diffusers."""
    state = ldm_files.unet_keys(parts["unet"].state_dict())
    state |= {f"first_stage_model.{key}": value for key, value in parts["vae"].state_dict().items()}
    state |= ldm_files.clip_keys(parts["text_encoder"].state_dict(), "cond_stage_model.transformer.")
    save_file({key: value.half().contiguous() for key, value in state.items()}, path)
    return path
