"""UNets of other kinds of models: recognised by their configuration, and refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from animatediff.weights.base.generation import LATENT_CHANNELS, OTHER_INPUTS

UNET = "UNet2DConditionModel"
_IMAGE_EMBEDS = "takes image embeddings beside or instead of a prompt (unCLIP, Kandinsky, or saved with an IP-Adapter)"
_ADDED = {
    "text_image": _IMAGE_EMBEDS,
    "image": _IMAGE_EMBEDS,
    "image_hint": "takes image embeddings and a hint image (Kandinsky ControlNet)",
}
"""`addition_embed_type` of UNets that take more than prompts and sizes."""
_HIDDEN = ("text_image_proj", "image_proj", "ip_image_proj")
"""`encoder_hid_dim_type` of UNets that take image embeddings."""


def unet_refusal(config: Mapping[str, Any], *, ip_adapter: bool = False) -> str | None:
    """The reason why a UNet of this configuration is not one of a text-to-image Stable Diffusion; None if it is.

    ip_adapter: an IP-Adapter may have been loaded into it, which marks the configuration.
    """
    if (name := config.get("_class_name", UNET)) != UNET:
        return f"a {name}; expected the {UNET} of a text-to-image model"
    if (channels := config.get("in_channels", LATENT_CHANNELS)) != LATENT_CHANNELS:
        kind = OTHER_INPUTS.get(channels, f"a UNet with {channels} input channels")
        return f"{kind}; motion modules need a text-to-image model with {LATENT_CHANNELS} input channels"
    if (channels := config.get("out_channels", LATENT_CHANNELS)) != LATENT_CHANNELS:
        return (
            f"a UNet with {channels} output channels; motion modules need a text-to-image model with {LATENT_CHANNELS}"
        )
    kind = config.get("class_embed_type")
    if kind is not None or config.get("num_class_embeds") is not None:
        return (
            f"a UNet with class embeddings (class_embed_type={kind}: an upscaler or unCLIP model), which a prompt does "
            "not give; motion modules need a text-to-image model"
        )
    if (added := config.get("addition_embed_type")) in _ADDED:
        return f"a UNet that {_ADDED[added]} (addition_embed_type={added}); motion modules need a text-to-image model"
    if config.get("dual_cross_attention"):
        return "a UNet with dual cross attention (Versatile Diffusion); motion modules need a text-to-image model"
    hidden = config.get("encoder_hid_dim_type")
    if hidden in _HIDDEN and not (ip_adapter and hidden == "ip_image_proj"):
        return f"a UNet that {_IMAGE_EMBEDS} (encoder_hid_dim_type={hidden}); motion modules need a text-to-image model"
    return None
