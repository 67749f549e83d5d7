"""From files to the image pipeline that the motion modules go into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    ImagePipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


def image_pipeline(components: Mapping[str, Any]) -> ImagePipeline:
    """diffusers' own image pipeline around `components` (named as there); SDXL if there is a second text encoder."""
    import diffusers

    parts: dict[str, Any] = dict(components)
    if parts.get("tokenizer_2") is not None or parts.get("text_encoder_2") is not None:
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    parts = {"safety_checker": None, "feature_extractor": None, **parts}
    return diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)


def is_sdxl(image: ImagePipeline) -> bool:
    """Whether the base model takes SDXL's second text encoder and size conditions."""
    return getattr(image, "text_encoder_2", None) is not None
