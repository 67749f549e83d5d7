"""Tiny models in ComfyUI, of diffusers' UNets, and one call of them. Import it by `comfy_host.models()`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.supported_models_base
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from torch import Tensor

from support import ldm_files
from support.golden import load_unet

CPU = torch.device("cpu")


class TinyConfig(comfy.supported_models_base.BASE):
    """Configuration of a model as the host detects it from a file, of no published size."""

    unet_config: ClassVar[dict[str, Any]] = {}
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_head_channels": -1}
    latent_format = comfy.latent_formats.SD15


class TinyModel(comfy.model_base.BaseModel):
    """A model whose sizes and pooled text, where it has them, come whole as `pooled_output`."""

    def encode_adm(self, **kwargs: Any) -> Any:
        return kwargs.get("pooled_output") if self.adm_channels else None


def ldm_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The UNet's configuration in the names of the first Stable Diffusion code, as the host writes it."""
    config = unet.config
    widths, per_level = config["block_out_channels"], config["layers_per_block"]
    depths = config["transformer_layers_per_block"]
    depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
    down = [depth if "CrossAttn" in kind else 0 for depth, kind in zip(depths, config["down_block_types"], strict=True)]
    sdxl = config["addition_embed_type"] == "text_time"
    heads = config["attention_head_dim"]  # the name is diffusers', for the number of heads
    return {
        "num_heads": heads if isinstance(heads, int) else heads[-1],
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": [per_level] * len(widths),
        "transformer_depth": [depth for depth in down for _ in range(per_level)],
        "transformer_depth_output": [depth for depth in down for _ in range(per_level + 1)],
        "transformer_depth_middle": depths[-1],
        "channel_mult": [width // widths[0] for width in widths],
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config["use_linear_projection"],
        "legacy": False,
        "num_classes": "sequential" if sdxl else None,
        "adm_in_channels": config["projection_class_embeddings_input_dim"] if sdxl else None,
    }


def sizes_and_text(text_embeds: Tensor, time_ids: Tensor) -> Tensor:
    """SDXL's vector of pooled text (b, d) and of sizes (b, 6) embedded in 8 numbers each, as the host makes it."""
    frequencies = torch.exp(torch.arange(4) * (-math.log(10000) / 4))
    angles = time_ids.flatten()[:, None] * frequencies
    embedded = torch.cat([angles.cos(), angles.sin()], dim=-1).view(len(time_ids), -1)
    return torch.cat([text_embeds, embedded], dim=1)


def patcher_of(
    unet: UNet2DConditionModel, *, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None
) -> Any:
    """A MODEL of the host with the weights of `unet`.

    dtype: of the weights; compute: in which the host computes, where it is another one.
    """
    config = TinyConfig(ldm_config(unet))
    config.set_inference_dtype(dtype, compute)
    model = TinyModel(config, comfy.model_base.ModelType.EPS)
    per_level = unet.config["layers_per_block"] + 1
    state = ldm_files.unet_keys(unet.state_dict(), per_level=per_level, prefix="")
    model.diffusion_model.load_state_dict({key: value.to(dtype) for key, value in state.items()})
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


@cache
def _golden_unet(family: str) -> UNet2DConditionModel:
    return load_unet(family)


def golden_model(family: str, **types: torch.dtype | None) -> Any:
    """A MODEL of a golden case, without motion modules; types: as of `patcher_of`."""
    return patcher_of(_golden_unet(family), **types)


def load(patcher: Any) -> None:
    """Load a MODEL with its additional models, as the host does before it samples."""
    comfy.model_management.load_models_gpu([patcher, *patcher.get_nested_additional_models()])


def load_offloaded(patcher: Any) -> None:
    """Load a MODEL of the real host, with no memory for the weights of its additional models."""
    load(patcher)
    for more in patcher.get_nested_additional_models():
        more.unpatch_model(CPU)
        more.load(CPU, lowvram_model_memory=1)


@torch.no_grad()
def call(
    patcher: Any,
    tensors: dict[str, Tensor],
    *,
    apart: bool = False,
    y: Tensor | None = None,
    prepare: Callable[[Any], None] = load,
) -> Tensor:
    """What the UNet of a MODEL returns for the tensors of a golden case: (b, c, f, h, w).

    apart: one clip a call, as where the host has not the memory for conditional and unconditional in one batch.
    """
    prepare(patcher)
    sample, model = tensors["unet.sample"], patcher.model
    num_clips, num_frames = sample.shape[0], sample.shape[2]
    sigma = model.model_sampling.sigmas[int(tensors["unet.timestep"])]
    parts = [range(i, i + 1) for i in range(num_clips)] if apart else [range(num_clips)]
    found = []
    patcher.pre_run()
    for part in parts:
        rows = list(part)
        x = rearrange(sample[rows], "b c f h w -> (b f) c h w") * (sigma**2 + 1) ** 0.5

        def each(value: Tensor, rows: list[int] = rows) -> Tensor:
            return value[rows].repeat_interleave(num_frames, 0)

        options = {
            "wrappers": comfy.patcher_extension.copy_nested_dicts(patcher.wrappers),
            "cond_or_uncond": [index % 2 for index in rows],
            "sigmas": sigma[None],
        }
        more = {} if y is None else {"y": each(y)}
        text = each(tensors["unet.encoder_hidden_states"])
        denoised = model.apply_model(x, sigma.expand(len(x)), c_crossattn=text, transformer_options=options, **more)
        found.append(rearrange((x - denoised) / sigma, "(b f) c h w -> b c f h w", f=num_frames))
    patcher.cleanup()
    return torch.cat(found)


class StoredLatents:
    """A VAE that knows the scaled latents (n, c, h, w) of images, and the size that they come from."""

    def __init__(self, latents: Tensor, factor: int = 2) -> None:
        self.latents, self.factor = latents, factor

    def spacial_compression_encode(self) -> int:
        return self.factor

    def encode(self, images: Tensor) -> Tensor:
        assert images.shape == (len(self.latents), *(self.factor * side for side in self.latents.shape[-2:]), 3)
        return self.latents / 0.18215


def texts() -> tuple[Tensor, Tensor]:
    """Embeddings of the prompt and of the negative prompt, (1, n, d)."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(1, 9, 32, generator=generator), torch.randn(1, 9, 32, generator=generator)


def by_pipeline(
    pipe: Any, latents: Tensor, factor: int = 2, steps: int = 2, **settings: Any
) -> tuple[Tensor, list[int]]:
    """The latents of our own pipeline with these texts, and the timesteps that it took.

    latents: (1, c, f, h, w), factor times smaller than the images.
    """
    positive, negative = texts()
    out = pipe(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        num_frames=latents.shape[2],
        height=factor * latents.shape[3],
        width=factor * latents.shape[4],
        num_inference_steps=steps,
        guidance_scale=7.5,
        latents=latents,
        output_type="latent",
        **settings,
    )
    return out.frames, [int(step) for step in pipe.scheduler.timesteps]


def conditioning(embeddings: Tensor, **settings: Any) -> list[Any]:
    """A conditioning of the host. embeddings: (1 or f, n, d)."""
    return [[embeddings, settings]]


def sampled(
    patcher: Any,
    latents: Tensor,
    timesteps: list[int],
    positive: list[Any],
    negative: list[Any],
    *,
    cfg: float = 7.5,
    sampler: str = "euler",
    callback: Any = None,
) -> Tensor:
    """Sample a clip with a sampler of the host at these timesteps; latents: (1, c, f, h, w) noise, likewise returned.

    The noise has variance 1 at the first timestep, as DDIM has it.
    """
    noise = rearrange(latents, "1 c f h w -> f c h w")
    sampling = patcher.get_model_object("model_sampling")
    sigmas = torch.cat([sampling.sigmas[timesteps], torch.zeros(1)])
    is_most = bool(sigmas[0] * (1 + 1e-5) >= sampling.sigma_max)
    out = comfy.sample.sample_custom(
        patcher,
        noise if is_most else noise * (1 + sigmas[0] ** -2) ** 0.5,
        cfg,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        positive,
        negative,
        torch.zeros_like(noise),
        callback=callback,
        disable_pbar=True,
        seed=1,
    )
    return rearrange(patcher.model.process_latent_in(out), "f c h w -> 1 c f h w")


def hooked(patcher: Any) -> int:
    """How many layers of the UNet call something."""
    layers = patcher.model.diffusion_model.modules()
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in layers)
