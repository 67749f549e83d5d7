"""Pipelines of published sizes with random weights, ours and diffusers', around one copy of the UNet's weights."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

SIDES = ("diffusers", "ours")
_TINY_TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
_TINY_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {},
    "half": {
        "unet": {"block_out_channels": (160, 320, 640, 640)},
        "vae": {"block_out_channels": (64, 128, 256, 256)},
    },
    "tiny": {
        "unet": {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "cross_attention_dim": 32},
        "vae": _TINY_VAE,
        "text_encoder": _TINY_TEXT,
    },
    "sdxl": {},
    "tiny-sdxl": {
        "unet": {
            "block_out_channels": (32, 32, 64), "layers_per_block": 1, "cross_attention_dim": 64,
            "attention_head_dim": (1, 1, 1), "transformer_layers_per_block": (1, 1, 2),
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8,
        },
        "vae": _TINY_VAE,
        "text_encoder": _TINY_TEXT,
        "text_encoder_2": {**_TINY_TEXT, "projection_dim": 32},
    },
}  # fmt: skip
"""Size -> part -> what differs from the published configuration; `half` has half of SD 1.5's channels."""


def quiet() -> None:
    """Silence what libraries say about models that are made here and thrown away."""
    import logging

    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    logging.getLogger("animatediff").setLevel(logging.ERROR)


def generation_of(size: str) -> Any:
    """The published model that a size is made after."""
    return "sdxl" if "sdxl" in size else "sd1"


def family_of(size: str) -> Any:
    """The family of motion modules that a size is animated by."""
    from animatediff.weights.families import FAMILIES

    return FAMILIES["sdxl" if generation_of(size) == "sdxl" else "v2"]


@cache
def tokenizers_of(generation: Any) -> dict[str, Any]:
    """The tokenizers that ship, read once."""
    from animatediff.weights.base.single_file import tokenizers

    return tokenizers(generation)


def image_parts(size: str, dtype: Any, device: str = "cpu") -> dict[str, Any]:
    """The parts of an image model in diffusers' classes, weights on `device`."""
    import torch
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from animatediff.weights.base.model_configs import shipped_config

    generation = generation_of(size)

    def config(part: str) -> dict[str, Any]:
        return {**shipped_config(generation, part), **CHANGES[size].get(part, {})}

    parts: dict[str, Any] = {}
    with torch.device("meta"):
        parts["unet"] = UNet2DConditionModel.from_config(config("unet"))
        parts["vae"] = AutoencoderKL.from_config(config("vae"))
        for name in ("text_encoder", "text_encoder_2") if generation == "sdxl" else ("text_encoder",):
            projected = name == "text_encoder_2"
            made = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
            parts[name] = made(transformers.CLIPTextConfig(**config(name)))
    for part in parts.values():
        fill(part, dtype, device)
    betas = {"beta_schedule": "scaled_linear" if generation == "sdxl" else "linear", "beta_start": 0.00085}
    betas |= dict(family_of(size).betas or {})
    scheduler = DDIMScheduler(**{"beta_end": 0.012, **betas}, clip_sample=False, steps_offset=1)
    return {**parts, **tokenizers_of(generation), "scheduler": scheduler}


def fill(module: Any, dtype: Any, device: str = "cpu") -> None:
    """Give a module on the meta device random weights; position ids count, norms multiply by one."""
    import torch

    module.to(dtype).to_empty(device=device)
    numbers = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device, dtype)
    for name, tensor in module.named_parameters():
        flat = tensor.data.view(-1)
        for start in range(0, len(flat), len(numbers)):
            part = flat[start : start + len(numbers)]
            part.copy_(numbers[: len(part)])
        if "norm" in name and name.endswith("weight") and tensor.ndim == 1:
            tensor.data.fill_(1)
    for _, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.zero_()
        else:
            buffer.copy_(torch.arange(buffer.numel(), device=device).view_as(buffer))
    module.eval().requires_grad_(False)


def pipelines(size: str, dtype: Any, device: str = "cpu") -> dict[str, Any]:
    """Side -> its pipeline; the UNets share every weight, so that a side costs little memory of its own."""
    ours = our_pipeline(size, dtype, device)
    theirs = diffusers_pipeline(ours)
    theirs.vae = copy.deepcopy(ours.vae)  # which calls of ours lay out in memory
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    theirs.vae.disable_slicing()
    return {"diffusers": theirs, "ours": ours}


def our_pipeline(size: str, dtype: Any, device: str = "cpu") -> Any:
    """Ours, with motion modules of mm_sd_v15_v2's or mm_sdxl_v10_beta's layout."""
    import torch

    from animatediff.motion import MotionAdapter
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.parts import base_pipeline

    base = base_pipeline(image_parts(size, dtype, device))
    family = family_of(size)
    with torch.device("meta"):
        adapter = MotionAdapter.from_unet(base.unet, mid_block=family.name == "v2", numerics=family.numerics)
    fill(adapter, dtype, device)
    pipe: Any = AnimateDiffPipeline(base)
    pipe.set_motion_adapter(adapter, family)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def diffusers_pipeline(ours: Any) -> Any:
    """The installed diffusers' pipeline around the weights of ours."""
    import diffusers
    import torch

    motion = ours.motion_adapter
    with torch.device("meta"):
        unet = diffusers.UNetMotionModel.from_unet2d(ours.unet, motion, load_weights=False)
    names = unet.state_dict().keys()
    state = {name: value for name, value in ours.unet.state_dict().items() if name in names}
    state |= motion.state_dict()
    unet.load_state_dict(state, strict=True, assign=True)
    unet.eval().requires_grad_(False)
    parts = {name: part for name, part in ours.components.items() if part is not None and name != "motion_adapter"}
    made = diffusers.AnimateDiffSDXLPipeline if "text_encoder_2" in parts else diffusers.AnimateDiffPipeline
    known = set(made.__init__.__annotations__)
    parts = {name: part for name, part in parts.items() if name in known}
    return made(**{**parts, "unet": unet, "motion_adapter": motion})
