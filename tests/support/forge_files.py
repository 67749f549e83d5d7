"""Models for Forge, which recognises a checkpoint by published widths; the other files as for other hosts.

SD 1.5 is what has a UNet of first width 320 and text of width 768; the configuration of the text encoder and of the VAE
is Forge's own, whatever is in the file. So only levels and layers of the UNet are free: four levels of one layer each,
all of the first width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from support import ldm_files
from support.webui_models import save_modules


def save_all(folder: Path) -> None:
    """Write a checkpoint `tiny.safetensors` in float16 (0.6 GB), motion modules, a MotionLoRA.

    The folder is laid out as the models of a host.
    """
    torch.manual_seed(11)
    unet = UNet2DConditionModel(
        block_out_channels=(320, 320, 320, 320), layers_per_block=1, cross_attention_dim=768, attention_head_dim=8
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    for name, value in text.named_parameters():
        if name.endswith("final_layer_norm.bias"):
            torch.nn.init.normal_(value, mean=0.5)  # hosts divide by the mean of its output
    with torch.no_grad():  # an encoder that is certain: hosts draw its latents with no seed
        vae.quant_conv.weight[4:] = 0  # pyright: ignore[reportOptionalMemberAccess]
        vae.quant_conv.bias[4:] = -30  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
    state = ldm_files.single_file("sd1", {"unet": unet, "vae": vae, "text_encoder": text})
    del state["betas"]  # of another length than a host's
    (folder / "Stable-diffusion").mkdir(parents=True)
    save_file({key: value.half() for key, value in state.items()}, folder / "Stable-diffusion" / "tiny.safetensors")
    save_modules(folder, unet)
