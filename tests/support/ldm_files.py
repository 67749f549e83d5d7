"""Tiny Stable Diffusion single files for tests: diffusers models written in the LDM layout, names inverted by hand."""

from __future__ import annotations

import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

PER_LEVEL = 2
"""Blocks of one level of the down path: one ResNet and the downsampler."""
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
FIXED = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def models(generation: str) -> dict[str, nn.Module]:
    """Tiny random components of a generation."""
    torch.manual_seed(5)
    width = 64 if generation != "sdxl" else 96
    extra: dict = {}
    if generation != "sd1":
        extra = {"use_linear_projection": True, "attention_head_dim": [1, 1]}
    if generation == "sdxl":
        extra |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                  "projection_class_embeddings_input_dim": 32 + 6 * 8,
                  "transformer_layers_per_block": [1, 2]}  # fmt: skip
    kinds = ["DownBlock2D", "CrossAttnDownBlock2D"] if generation == "sdxl" else ["CrossAttnDownBlock2D", "DownBlock2D"]
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=width, down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)], **extra,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, sample_size=16,
        scaling_factor=0.13025 if generation == "sdxl" else 0.18215,
    )  # fmt: skip
    found: dict[str, nn.Module] = {"unet": unet, "vae": vae}
    found["text_encoder"] = text_encoder(64, layers=23 if generation == "sd2" else 2, openclip=generation == "sd2")
    if generation == "sdxl":
        found["text_encoder_2"] = text_encoder(32, layers=2, openclip=True, projection=True)
    return {name: model.eval() for name, model in found.items()}


def text_encoder(width: int, *, layers: int, openclip: bool, projection: bool = False) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=1,
        projection_dim=width, hidden_act="gelu" if openclip else "quick_gelu",
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def unet_keys(
    state: dict[str, Tensor], *, per_level: int = PER_LEVEL, prefix: str = "model.diffusion_model."
) -> dict[str, Tensor]:
    out = {}
    for key, value in state.items():
        stem, tail = key.rsplit(".", 1)
        if stem in FIXED:
            out[f"{prefix}{FIXED[stem]}.{tail}"] = value
            continue
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", key):
            side, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            number = level * per_level + layer + (side == "down")
            if kind == "resnets":
                child, rest = 0, _resnet(rest)
            else:
                child = 1
            name = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{child}.{rest}"
        elif found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", key):
            name = f"input_blocks.{(int(found[1]) + 1) * per_level}.0.op.{found[2]}"
        elif found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.+)", key):
            attention = any(other.startswith(f"up_blocks.{found[1]}.attentions") for other in state)
            name = f"output_blocks.{(int(found[1]) + 1) * per_level - 1}.{1 + attention}.{found[2]}"
        else:
            found = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key)
            assert found is not None, key
            resnet = found[1] == "resnets"
            name = f"middle_block.{2 * int(found[2]) if resnet else 1}.{_resnet(found[3]) if resnet else found[3]}"
        out[f"{prefix}{name}"] = value
    return out


def _resnet(rest: str) -> str:
    child, tail = rest.split(".")
    return f"{RESNET[child]}.{tail}"


def vae_keys(state: dict[str, Tensor], *, axes: int = 4, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    last = max(int(key.split(".")[2]) for key in state if key.startswith("decoder.up_blocks."))
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    last = max(int(found[1]) for key in state if (found := re.match(r"decoder\.up_blocks\.(\d+)", key)))
    out = {}
    for key, value in state.items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
            name = f"{found[1]}.mid.attn_1.{attention[found[2]]}.{found[3]}"
            if value.ndim == 2 and axes == 4:
                value = value[:, :, None, None]
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        out[prefix + name] = value
    return out


def clip_keys(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


def openclip_keys(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    rename = (
        ("encoder.layers", "transformer.resblocks"), ("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"), ("self_attn", "attn"), ("embeddings.token_embedding", "token_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"), ("final_ln_", "ln_final"),
    )  # fmt: skip
    out = {}
    for key, value in state.items():
        if key == "text_projection.weight":
            out[f"{prefix}text_projection"] = value.T.contiguous()
            continue
        if found := re.fullmatch(r"(encoder\.layers\.\d+\.)self_attn\.q_proj\.(weight|bias)", key):
            fused = torch.cat([state[f"{found[1]}self_attn.{letter}_proj.{found[2]}"] for letter in "qkv"])
            name = f"{found[1].replace('encoder.layers', 'transformer.resblocks')}attn.in_proj_{found[2]}"
            out[prefix + name] = fused
            continue
        if re.search(r"self_attn\.[kv]_proj", key):
            continue
        for old, new in rename:
            key = key.replace(old, new)
        out[prefix + key] = value
    return {**out, f"{prefix}logit_scale": torch.tensor(1.0)}


def single_file(generation: str, parts: dict[str, nn.Module], *, axes: int = 4) -> dict[str, Tensor]:
    """All components in one LDM-layout dict, with what trainers leave beside them."""
    state = {name: model.state_dict() for name, model in parts.items()}
    out = {"betas": torch.zeros(10), **unet_keys(state["unet"]), **vae_keys(state["vae"], axes=axes)}
    if generation == "sd1":
        out |= clip_keys(state["text_encoder"], "cond_stage_model.transformer.")
        out["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77.0)[None]
    elif generation == "sd2":
        text = openclip_keys(state["text_encoder"], "cond_stage_model.model.")
        last = {k.replace(".22.", ".23."): v.clone() for k, v in text.items() if ".resblocks.22." in k}
        out |= text | last | {"cond_stage_model.model.text_projection": torch.zeros(64, 64)}
    else:
        out |= clip_keys(state["text_encoder"], "conditioner.embedders.0.transformer.")
        out["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
        out |= openclip_keys(state["text_encoder_2"], "conditioner.embedders.1.model.")
    return {key: value.clone() for key, value in out.items()}
