"""Prompts as the UNet takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.pipelines.assemble import is_sdxl
from animatediff.pipelines.clip_skip import skipped_states

if TYPE_CHECKING:
    from animatediff.pipelines.assemble import ImagePipeline


@dataclass(frozen=True)
class Texts:
    """Encoded prompts, one a clip; with guidance, the negative ones come first."""

    embeddings: Tensor
    """(b, n, d)."""
    pooled: Tensor | None = None
    """(b, d) of SDXL."""
    time_ids: Tensor | None = None
    """(b, 6) sizes and crops of SDXL."""


def encode_texts(
    image: ImagePipeline,
    prompts: list[str],
    negatives: list[str] | None,
    *,
    guidance: bool,
    clip_skip: int | None,
    size: tuple[int, int],
    device: torch.device,
) -> Texts:
    """Encode the prompts, and where there is guidance the negative ones. `size`: (height, width) in pixels."""
    anyhow: Any = image  # SD and SDXL differ in what they return
    texts: dict[str, Any] = {"prompt": prompts, "negative_prompt": negatives, "clip_skip": clip_skip or None}
    if clip_skip and not is_sdxl(image):
        texts = {"prompt": None, "prompt_embeds": skipped_states(image, prompts, clip_skip, device)}
        if guidance:
            empty = [""] * len(prompts)
            texts["negative_prompt_embeds"] = skipped_states(image, negatives or empty, clip_skip, device)
    encoded = anyhow.encode_prompt(
        device=device, num_images_per_prompt=1, do_classifier_free_guidance=guidance, **texts
    )
    positive, negative = encoded[:2]
    embeddings = torch.cat([negative, positive]) if guidance else positive
    if not is_sdxl(image):
        return Texts(embeddings)
    pooled, negative_pooled = encoded[2:]
    time_ids = anyhow._get_add_time_ids(
        size, (0, 0), size, positive.dtype, anyhow.text_encoder_2.config.projection_dim
    ).to(device)
    time_ids = time_ids.repeat(len(embeddings), 1)
    return Texts(embeddings, torch.cat([negative_pooled, pooled]) if guidance else pooled, time_ids)
