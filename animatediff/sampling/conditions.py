"""Conditions of the UNet beside noisy latents and timesteps: prompt embeddings of each frame, and SDXL's sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FrameEmbeddings = Callable[[Sequence[int]], Tensor]
"""f frames of a clip -> embeddings at each of them, (b*f, ...): for prompts that change from frame to frame."""


def per_frame(embeddings: Tensor | FrameEmbeddings, frames: Sequence[int]) -> Tensor:
    """Embeddings of the UNet's batch (b*f, ...): those of each clip (b, ...) for all its `frames`, or of each frame.

    >>> per_frame(torch.tensor([1, 2]), range(3))
    tensor([1, 1, 1, 2, 2, 2])
    """
    if isinstance(embeddings, Tensor):
        return embeddings.repeat_interleave(len(frames), 0)
    return embeddings(frames)


def added_conditions(
    pooled: Tensor | FrameEmbeddings | None, time_ids: Tensor | None, frames: Sequence[int]
) -> dict[str, Tensor] | None:
    """SDXL's `added_cond_kwargs` (b*f, ...), of pooled prompt embeddings (b, d) and sizes (b, 6); None without them."""
    if pooled is None or time_ids is None:
        return None
    return {"text_embeds": per_frame(pooled, frames), "time_ids": per_frame(time_ids, frames)}


def size_time_ids(size: tuple[int, int], num_clips: int, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """SDXL's sizes and crops (b, 6), for clips of `size` (height, width) pixels that are not cut from larger ones.

    SDXL (arXiv 2307.01952), section 2.2: original size, place of the crop, target size.

    >>> size_time_ids((64, 32), 1, dtype=torch.float32, device="cpu")
    tensor([[64., 32.,  0.,  0., 64., 32.]])
    """
    ids = torch.tensor([[*size, 0, 0, *size]], dtype=dtype)
    return ids.to(device).repeat(num_clips, 1)
