"""Model files for tests in a real ComfyUI: as small as its loader accepts, under the names of published ones.

ComfyUI recognises SD 1.5 by 320 channels and text of 768; levels and ResNets may be fewer and narrower. It makes text
encoder and VAE at their full size whatever the file says, so that these have it: about 460 MB in half precision.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from animatediff.models.camera import CameraConfig, CameraCtrl
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.motion import MotionAdapter, MotionLayout
from animatediff.motion.image_encoder import EncoderLayout
from animatediff.weights.cameractrl import save_cameractrl
from animatediff.weights.families import FAMILIES
from animatediff.weights.lora.key_formats import lora_to_original
from animatediff.weights.motion import save_motion_module
from animatediff.weights.sparsectrl import save_sparsectrl
from animatediff.weights.storage.files import save_tensors
from support import ldm_files

CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
MODULES = {
    "mm_sd_v15.ckpt": "v1",
    "mm_sd_v15_v2.ckpt": "v2",
    "v3_sd15_mm.ckpt": "v3",
    "mm_sdxl_v10_beta.ckpt": "sdxl",
    "pia.ckpt": "pia",
    "AnimateLCM_sd15_i2v.ckpt": "animatelcm_i2v",
}
CAMERA = "CameraCtrl.ckpt"
MOTION_LORA = "v2_lora_PanLeft.ckpt"
ADAPTER = "v3_sd15_adapter.ckpt"
SPARSECTRL = {"v3_sd15_sparsectrl_rgb.ckpt": "rgb", "v3_sd15_sparsectrl_scribble.ckpt": "scribble"}

SD15 = {"block_out_channels": (320,) * 4, "layers_per_block": 1, "cross_attention_dim": 768}
KOALA = {
    "block_out_channels": (320,) * 3, "layers_per_block": 1, "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 5, 5),
    "transformer_layers_per_block": (1, 2, 5), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
"""The SDXL kind with the fewest layers that ComfyUI knows (KOALA 700M), in narrower levels."""


def base_unet(kind: str = "sd1") -> UNet2DConditionModel:
    """The UNet of the checkpoint (`sd1`), or one of the SDXL kind (`sdxl`); the same weights at each call."""
    torch.manual_seed(11)
    unet = UNet2DConditionModel(**(SD15 if kind == "sd1" else KOALA)).eval()
    unet.conv_out.weight.data.mul_(0.1)  # so that latents keep the size of noise
    return unet.half().float()


def write_checkpoint(path: Path) -> UNet2DConditionModel:
    """An SD 1.5 checkpoint with random weights in half precision; returns its UNet in float32."""
    unet = base_unet()
    torch.manual_seed(12)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, scaling_factor=0.18215,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            projection_dim=768, hidden_act="quick_gelu",
        )
    )  # fmt: skip
    tensors = ldm_files.single_file("sd1", {"unet": unet, "vae": vae, "text_encoder": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}, path)
    return unet


def write_unet(path: Path) -> UNet2DConditionModel:
    """A UNet of the SDXL kind alone, for ComfyUI's `UNETLoader`; returns it in float32."""
    unet = base_unet("sdxl")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = ldm_files.unet_keys(unet.state_dict(), prefix="")
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, path)
    return unet


def write_motion_module(path: Path, family: str, unet: UNet2DConditionModel | None = None) -> MotionAdapter:
    """A motion module of a published family that moves things, for these UNets, in the original's names."""
    facts = FAMILIES[family]
    unet = unet or base_unet("sdxl" if facts.base == "sdxl" else "sd1")
    torch.manual_seed(13)
    layout = MotionLayout.from_unet(unet, mid_block=family in ("v2", "animatelcm_i2v"))
    if family == "pia":
        layout = replace(layout, conv_in_channels=9)
    if family == "animatelcm_i2v":
        widths = tuple(block[0] for block in layout.down)
        layout = replace(layout, image_encoder=EncoderLayout(latents=4, first=widths[0], levels=widths))
    adapter = MotionAdapter(layout, facts.numerics)
    for name, value in adapter.named_parameters():
        if "proj_out.weight" in name:
            torch.nn.init.normal_(value, std=0.03)
    adapter.half().float()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_motion_module(adapter, path, family=facts, dtype=torch.float16)
    return adapter


def write_cameractrl(path: Path, adapter: MotionAdapter) -> None:
    """A CameraCtrl model for these motion modules whose merge layers are no longer zero."""
    torch.manual_seed(17)
    control = CameraCtrl(CameraConfig.of(adapter.layout)).eval()
    for name, value in control.named_parameters():
        if name.startswith(("down_blocks", "up_blocks")) and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_cameractrl(control, path, dtype=torch.float16)


def write_motion_lora(path: Path, adapter: MotionAdapter, rank: int = 2) -> None:
    """A MotionLoRA for every attention of the adapter, in the original's names."""
    torch.manual_seed(14)
    state = {}
    for key, weight in adapter.state_dict().items():
        if ".attn" in key and key.endswith("weight"):
            stem = key.removesuffix(".weight")
            state[lora_to_original(f"{stem}.lora_A.weight")] = torch.randn(rank, weight.shape[1]) * 0.1
            state[lora_to_original(f"{stem}.lora_B.weight")] = torch.randn(weight.shape[0], rank) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, state)


def write_domain_adapter(path: Path, unet: UNet2DConditionModel, rank: int = 2) -> None:
    """A domain adapter for the self and cross attentions of the UNet, in the original's names."""
    torch.manual_seed(15)
    state = {}
    for key, weight in unet.state_dict().items():
        stem = key.removesuffix(".weight")
        if ".transformer_blocks." in key and stem.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            state[lora_to_original(f"{stem}.lora_A.weight")] = torch.randn(rank, weight.shape[1]) * 0.1
            state[lora_to_original(f"{stem}.lora_B.weight")] = torch.randn(weight.shape[0], rank) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, state)


def write_sparsectrl(path: Path, unet: UNet2DConditionModel, kind: str) -> SparseCtrl:
    """A SparseCtrl encoder for the UNet whose zero convolutions are no longer zero."""
    torch.manual_seed(16)
    encoder = SparseCtrl.from_unet(unet, kind=kind).eval()
    for name, value in encoder.named_parameters():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")) and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sparsectrl(encoder.half(), path)
    encoder.float()
    return encoder


def write_models(models: Path) -> None:
    """All of the above in the folders of ComfyUI's `models/`; motion files in those of AnimateDiff-Evolved."""
    unet = write_checkpoint(models / "checkpoints" / CHECKPOINT)
    for name, family in MODULES.items():
        adapter = write_motion_module(models / "animatediff_models" / name, family)
        if family == "v2":
            write_motion_lora(models / "animatediff_motion_lora" / MOTION_LORA, adapter)
        if family == "v3":
            write_cameractrl(models / "animatediff_models" / CAMERA, adapter)
    write_domain_adapter(models / "loras" / ADAPTER, unet)
    for name, kind in SPARSECTRL.items():
        write_sparsectrl(models / "controlnet" / name, unet, kind)
