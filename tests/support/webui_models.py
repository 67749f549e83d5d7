"""Models for hosts of the first Stable Diffusion code (A1111 and its children), small enough to sample on a CPU."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from animatediff.motion import MotionAdapter
from animatediff.weights.base.single_file import CONFIGS
from support import ldm_files
from support.tiny_models import UNETS, save_motion, save_motion_lora

WIDTH = 64
"""Of the text encoder."""
FAMILIES = ("v1", "v2", "v3")

_CONFIG: dict[str, Any] = {
    "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
    "params": {
        "linear_start": 0.00085, "linear_end": 0.0120, "num_timesteps_cond": 1, "timesteps": 1000,
        "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 64, "channels": 4,
        "cond_stage_trainable": False, "conditioning_key": "crossattn", "monitor": "val/loss_simple_ema",
        "scale_factor": 0.18215, "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
                "attention_resolutions": [4, 2, 1], "num_res_blocks": 1, "channel_mult": [1, 1, 1, 1], "num_heads": 8,
                "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": WIDTH,
                "use_checkpoint": False, "legacy": False,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"},
                "ddconfig": {
                    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
                    "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
                },
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder", "params": {},
        },
    },
}  # fmt: skip


def save_all(folder: Path) -> dict[str, MotionAdapter]:
    """Write a checkpoint `tiny.safetensors` with its `tiny.yaml`, motion modules, a MotionLoRA; the modules by family.

    The folder is laid out as the models of a host.
    """
    torch.manual_seed(11)
    checkpoints = folder / "Stable-diffusion"
    checkpoints.mkdir(parents=True, exist_ok=True)
    return save_modules(folder, _save_checkpoint(checkpoints))


def save_modules(folder: Path, unet: UNet2DConditionModel) -> dict[str, MotionAdapter]:
    """Write motion modules for `unet` and a MotionLoRA into a host's folder of models; the modules by family."""
    modules, loras = folder / "animatediff", folder / "Lora"
    for place in (modules, loras):
        place.mkdir(parents=True, exist_ok=True)
    adapters = {family: save_motion(modules / f"tiny_{family}.safetensors", unet, family) for family in FAMILIES}
    save_motion_lora(loras / "tiny_PanLeft.safetensors", adapters["v2"])
    xl = UNet2DConditionModel(**UNETS["sdxl"])
    save_motion(modules / "tiny_sdxl.safetensors", xl, "sdxl")
    return adapters


def _save_checkpoint(folder: Path) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**UNETS["sd1"]).eval()
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, sample_size=64,
    ).eval()  # fmt: skip
    with torch.no_grad():  # no randomness in what images are encoded to
        vae.quant_conv.weight[4:], vae.quant_conv.bias[4:] = 0, -40
    text = ldm_files.text_encoder(WIDTH, layers=2, openclip=False).eval()
    for name, value in text.named_parameters():
        if name.endswith("final_layer_norm.bias"):
            torch.nn.init.normal_(value, mean=0.5)  # hosts divide by the mean of its output
    state = ldm_files.single_file("sd1", {"unet": unet, "vae": vae, "text_encoder": text})
    del state["betas"]  # of another length than a host's
    save_file(state, folder / "tiny.safetensors")
    clip = _save_clip(folder.parent / "tiny_clip", text)
    config = copy.deepcopy(_CONFIG)
    config["params"]["cond_stage_config"]["params"]["version"] = str(clip)
    (folder / "tiny.yaml").write_text(json.dumps({"model": config}))  # JSON is YAML
    return unet


def _save_clip(folder: Path, text: Any) -> Path:
    """The folder of a text encoder's configuration and tokenizer, where a host would ask the hub."""
    shutil.copytree(CONFIGS / "clip", folder)
    config = text.config.to_dict() | {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
