"""Settings of a base model that no sampling over frames carries out: refused by name before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from animatediff.errors import UserError
from animatediff.weights.base.unet_kinds import unet_refusal

SIZES = 6
"""Numbers of SDXL's size condition: original size, place of the crop, target size."""


def check_unet(unet: Any, *, pooled: int | None, ip_adapter: bool = False) -> None:
    """Raise UserError for the UNet of another kind of model.

    pooled: width of the pooled prompt embeddings of SDXL, None without second text encoder. ip_adapter: one is loaded.
    """
    config: Mapping[str, Any] = unet.config
    if reason := unet_refusal(config, ip_adapter=ip_adapter):
        raise UserError(f"the base model's UNet is {reason}")
    if config.get("addition_embed_type") != "text_time":
        return
    if pooled is None:
        raise UserError(
            "the base model's UNet takes pooled prompts and sizes as SDXL's does (addition_embed_type=text_time), and "
            "there is no second text encoder that makes them; give the whole SDXL model"
        )
    taken, width = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim")
    if taken and width and taken != pooled + SIZES * width:
        numbers = (taken - pooled) / width
        raise UserError(
            f"the base model's UNet takes {numbers:g} numbers beside the pooled prompt, and SDXL's size condition has "
            f"{SIZES}" + ("; 5 are those of the SDXL refiner (an aesthetics score)" if numbers == 5 else "")
        )


def check_vae(vae: Any, *, sdxl: bool) -> None:
    """Raise UserError for latent statistics of a VAE that diffusers' pipelines of Stable Diffusion leave out."""
    config: Mapping[str, Any] = vae.config
    if config.get("shift_factor"):
        raise UserError(
            f"the VAE states shift_factor={config['shift_factor']:g}, which belongs to newer kinds of models; give the "
            "VAE of this model by `vae`, or take it out of the VAE's config.json"
        )
    given = [name for name in ("latents_mean", "latents_std") if config.get(name) is not None]
    if len(given) == 1:
        raise UserError(f"the VAE states {given[0]} alone, and latents_mean and latents_std go together")
    if given and not sdxl:
        raise UserError(
            "the VAE states latents_mean and latents_std, which belong to SDXL's kind of model (Playground v2.5); give "
            "the VAE of this model by `vae`"
        )
