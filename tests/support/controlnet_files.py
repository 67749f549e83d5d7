"""Tiny ControlNets with outputs, in the folders and files of published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from support import ldm_files


def save_controlnet(folder: Path, unet: UNet2DConditionModel, seed: int, ladder: tuple[int, ...]) -> Path:
    """A ControlNet with outputs, as after training, for a VAE that halves pictures once a rung of the ladder."""
    torch.manual_seed(seed)
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=ladder)
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    net.save_pretrained(folder)
    return folder


def in_original_names(net: Any) -> dict[str, torch.Tensor]:
    """A ControlNet as its first release named it."""
    state, found = net.state_dict(), {}
    own = {key: value for key, value in state.items() if key.startswith("controlnet_")}
    for key, value in ldm_files.unet_keys({k: v for k, v in state.items() if k not in own}).items():
        found[key.removeprefix("model.diffusion_model.")] = value
    rungs = len(net.controlnet_cond_embedding.blocks)
    places = {"conv_in": 0, "conv_out": rungs + 1, **{f"blocks.{i}": i + 1 for i in range(rungs)}}
    for key, value in own.items():
        part, name = key.split(".", 1)
        place, tail = name.rsplit(".", 1) if "." in name else ("", name)
        if part == "controlnet_cond_embedding":
            found[f"input_hint_block.{2 * places[place]}.{tail}"] = value
        else:
            found[f"zero_convs.{place}.0.{tail}" if place else f"middle_block_out.0.{tail}"] = value
    return found
