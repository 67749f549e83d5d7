"""Conditions of the UNet beside noisy latents and timesteps: prompt embeddings of each frame, and SDXL's sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class FrameEmbeddings(Protocol):
    """Embeddings of b rows that change from frame to frame."""

    def __call__(self, frames: Sequence[int], /) -> Tensor:
        """Embeddings of these f frames, (b*f, ...)."""
        ...

    def rows(self, rows: Sequence[int], /) -> FrameEmbeddings:
        """Those of some of the b rows."""
        ...


@dataclass(frozen=True)
class EachFrame:
    """Embeddings of each frame of a clip, as they are."""

    states: Tensor
    """(b, f, ...)."""

    def __call__(self, frames: Sequence[int]) -> Tensor:
        """Embeddings of these frames, (b*f, ...)."""
        return self.states[:, list(frames)].flatten(0, 1)

    def rows(self, rows: Sequence[int]) -> EachFrame:
        """Those of some of the b rows."""
        return EachFrame(self.states[list(rows)])


@dataclass(kw_only=True)
class Conditioning:
    """All that the UNet takes of clips beside their latents: one row a clip, with guidance two.

    Rows of negative prompts come first.
    """

    clips: Sequence[int]
    """Which clip of the call each of the r rows is."""
    num_negative: int = 0
    """Rows of negative prompts."""
    embeddings: Tensor | FrameEmbeddings
    """(r, n, d) prompt embeddings; or an object that gives (r*f, n, d) where frames differ."""
    pooled: Tensor | FrameEmbeddings | None = None
    """(r, d) pooled prompt embeddings of SDXL, likewise."""
    time_ids: Tensor | None = None
    """(r, 6) sizes and crops of SDXL."""
    image_embeds: Sequence[Tensor] = ()
    """Image embeddings of IP-Adapters, one each: (r, 1, ...) for all frames alike, or (r, f, ...) for all frames."""
    image_channels: Tensor | None = None
    """(r, c, f, h, w) channels behind the noisy latents, for all frames of the clip (PIA)."""
    guidance_embeds: Tensor | None = None
    """(r, d) embedding of the guidance scale, of UNets that take it (LCM, arXiv 2310.04378)."""
    chosen_of: tuple[Tensor, list[int]] | None = None
    """Where these are some rows of others: the prompt embeddings of those, and which rows these are."""

    @property
    def prompts(self) -> tuple[Tensor | None, list[int]]:
        """Prompt embeddings that are the same object at every step, and which of their rows these are.

        None where frames differ.
        """
        if not isinstance(self.embeddings, Tensor):
            return None, list(range(len(self.clips)))
        return self.chosen_of or (self.embeddings, list(range(len(self.clips))))

    @property
    def copies(self) -> int:
        """How often each clip is among the rows, in equal parts one behind the other."""
        return len(self.clips) // len(set(self.clips))

    @property
    def own(self) -> Sequence[int]:
        """Which clips of the call these are."""
        return self.clips[self.num_negative :]

    def of(self, rows: Sequence[int]) -> Conditioning:
        """Some of the rows, in this order."""
        chosen = list(rows)
        if chosen == list(range(len(self.clips))):
            return self
        prompts, rows = self.prompts
        return Conditioning(
            clips=[self.clips[row] for row in chosen],
            num_negative=sum(row < self.num_negative for row in chosen),
            embeddings=_chosen(self.embeddings, chosen),
            pooled=None if self.pooled is None else _chosen(self.pooled, chosen),
            time_ids=None if self.time_ids is None else self.time_ids[chosen],
            image_embeds=[part[chosen] for part in self.image_embeds],
            image_channels=None if self.image_channels is None else self.image_channels[chosen],
            guidance_embeds=None if self.guidance_embeds is None else self.guidance_embeds[chosen],
            chosen_of=None if prompts is None else (prompts, [rows[row] for row in chosen]),
        )


def _chosen(embeddings: Tensor | FrameEmbeddings, rows: list[int]) -> Tensor | FrameEmbeddings:
    return embeddings[rows] if isinstance(embeddings, Tensor) else embeddings.rows(rows)


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


def size_time_ids(
    size: tuple[int, int],
    num_clips: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    original: tuple[int, int] | None = None,
    crop: tuple[int, int] = (0, 0),
    target: tuple[int, int] | None = None,
) -> Tensor:
    """SDXL's sizes and crops (b, 6), for clips of `size` (height, width) pixels that are not cut from larger ones.

    original, crop, target: other values than these. SDXL (arXiv 2307.01952), section 2.2: original size, place of the
    crop, target size.

    >>> size_time_ids((64, 32), 1, dtype=torch.float32, device="cpu")
    tensor([[64., 32.,  0.,  0., 64., 32.]])
    """
    ids = torch.tensor([[*(original or size), *crop, *(target or size)]], dtype=dtype)
    return ids.to(device).repeat(num_clips, 1)
