"""Prompts as the UNet takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.pipelines.parts import is_sdxl
from animatediff.prompts import PromptTravel
from animatediff.prompts.clip_skip import skipped_states
from animatediff.prompts.encode import is_plain
from animatediff.prompts.encode_prompts import encode_clips
from animatediff.prompts.travel_states import FrameStates
from animatediff.sampling.conditions import size_time_ids

if TYPE_CHECKING:
    from animatediff.pipelines.parts import BasePipeline


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompts, one a clip; with guidance, the negative ones come first."""

    embeddings: Tensor | FrameStates
    """(b, n, d); where a prompt travels, a function of frames that gives (b*f, n, d)."""
    pooled: Tensor | FrameStates | None = None
    """(b, d) of SDXL, likewise."""
    time_ids: Tensor | None = None
    """(b, 6) sizes and crops of SDXL."""


def encode_prompts(
    base: BasePipeline,
    prompts: Sequence[str | PromptTravel],
    negatives: Sequence[str] | None,
    *,
    num_frames: int,
    guidance: bool,
    clip_skip: int | None,
    plain: bool,
    size: tuple[int, int],
    device: torch.device,
) -> PromptEmbeds:
    """Encode the prompts, and where there is guidance the negative ones. `size`: (height, width) in pixels.

    plain: brackets are letters and long prompts are cut, as in diffusers and in the original AnimateDiff.
    """
    still = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(still) == len(prompts) and (
        plain or all(is_plain(base, text) for text in (*still, *((negatives or ()) if guidance else ())))
    ):
        embeddings, pooled = _by_diffusers(base, still, negatives, guidance, clip_skip, device)
    else:
        embeddings, pooled = encode_clips(
            base,
            prompts,
            (negatives or [""] * len(prompts)) if guidance else None,
            nothing_is_zero=negatives is None and is_sdxl(base) and bool(base.config["force_zeros_for_empty_prompt"]),
            num_frames=num_frames,
            clip_skip=clip_skip,
            plain=plain,
            device=device,
        )
    # text encoders may compute in another number format than the UNet
    if isinstance(embeddings, FrameStates):
        embeddings = replace(embeddings, states=embeddings.states.to(base.unet.dtype))
    else:
        embeddings = embeddings.to(base.unet.dtype)
    if not is_sdxl(base):
        return PromptEmbeds(embeddings)
    dtype = (embeddings.states if isinstance(embeddings, FrameStates) else embeddings).dtype
    time_ids = size_time_ids(size, len(prompts) * (1 + guidance), dtype=dtype, device=device)
    return PromptEmbeds(embeddings, pooled, time_ids)


def _by_diffusers(
    base: BasePipeline,
    prompts: list[str],
    negatives: Sequence[str] | None,
    guidance: bool,
    clip_skip: int | None,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    encoder: Any = base  # SD and SDXL differ in what they return
    texts: dict[str, Any] = {"prompt": prompts, "negative_prompt": negatives, "clip_skip": clip_skip or None}
    if clip_skip and not is_sdxl(base):
        texts = {"prompt": None, "prompt_embeds": skipped_states(base, prompts, clip_skip, device)}
        if guidance:
            empty = [""] * len(prompts)
            texts["negative_prompt_embeds"] = skipped_states(base, negatives or empty, clip_skip, device)
    encoded = encoder.encode_prompt(
        device=device, num_images_per_prompt=1, do_classifier_free_guidance=guidance, **texts
    )
    positive, negative = encoded[:2]
    embeddings = torch.cat([negative, positive]) if guidance else positive
    if not is_sdxl(base):
        return embeddings, None
    pooled, negative_pooled = encoded[2:]
    return embeddings, torch.cat([negative_pooled, pooled]) if guidance else pooled
