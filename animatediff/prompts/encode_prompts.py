"""Encode the prompts of several clips, which may travel, have weights, or be long, for one batch of the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from animatediff.prompts.encode import Encoded, Text, chunks_needed, encode
from animatediff.prompts.travel import Blend, PromptTravel
from animatediff.prompts.travel_states import FrameStates

States = Tensor | FrameStates


def encode_clips(
    image: Any,
    prompts: Sequence[str | PromptTravel],
    negatives: Sequence[str] | None,
    *,
    nothing_is_zero: bool,
    num_frames: int,
    clip_skip: int | None,
    plain: bool,
    device: torch.device,
    prompts_2: Sequence[str] | None = None,
    negatives_2: Sequence[str] | None = None,
) -> tuple[States, States | None]:
    """Encode prompts, one a clip, behind the negative ones: prompt embeddings and, of SDXL, pooled prompt embeddings.

    negatives: one a clip, None without guidance. nothing_is_zero: take zeros in their place, as SDXL was trained. All
    are padded to as many chunks as the longest needs, negative or not. Tensors (b, n, d) and (b, d) where no prompt
    travels, else `FrameStates`, which make them frame by frame. prompts_2, negatives_2: other texts for SDXL's second
    text encoder, one a clip.
    """
    clips = [
        [_Pair(_with(blend.first, prompts_2, clip), _with(blend.second, prompts_2, clip), blend.share) for blend in row]
        for clip, row in enumerate(_blends(prompt, num_frames) for prompt in prompts)
    ]
    texts = list(dict.fromkeys(text for clip in clips for blend in clip for text in (blend.first, blend.second)))
    less_wanted = [_with(text, negatives_2, clip) for clip, text in enumerate(negatives or ())]
    avoided = list(dict.fromkeys(less_wanted))
    length = chunks_needed(image, [*texts, *([] if nothing_is_zero else avoided)], plain=plain)
    found = encode(image, texts, num_chunks=length, clip_skip=clip_skip, plain=plain, device=device)
    rows = [[(texts.index(b.first), texts.index(b.second), b.share) for b in clip] for clip in clips]
    arcs = [isinstance(prompt, PromptTravel) and prompt.interpolation == "slerp" for prompt in prompts]
    if negatives is not None:
        if nothing_is_zero:
            less = Encoded(torch.zeros_like(found.states[:1]), _zeros(found.pooled))
        else:
            # as in diffusers, negative prompts of SDXL come from the same layer whatever clip_skip is
            skip = clip_skip if found.pooled is None else None
            less = encode(image, avoided, num_chunks=length, clip_skip=skip, plain=plain, device=device)
        found = _joined(found, less)
        places = [len(texts) + (0 if nothing_is_zero else avoided.index(text)) for text in less_wanted]
        rows = [[(place, place, 0.0)] * num_frames for place in places] + rows
        arcs = [False] * len(places) + arcs
    return _by_frame(found.states, rows, arcs), None if found.pooled is None else _by_frame(found.pooled, rows, arcs)


class _Pair(NamedTuple):
    """A `Blend` of texts for both encoders."""

    first: Text
    second: Text
    share: float


def _with(text: str, others: Sequence[str] | None, clip: int) -> Text:
    return text if others is None else (text, others[clip])


def _blends(prompt: str | PromptTravel, num_frames: int) -> list[Blend]:
    return [Blend(prompt, prompt, 0.0)] * num_frames if isinstance(prompt, str) else prompt.blends(num_frames)


def _zeros(pooled: Tensor | None) -> Tensor | None:
    return None if pooled is None else torch.zeros_like(pooled[:1])


def _joined(a: Encoded, b: Encoded) -> Encoded:
    pooled = None if a.pooled is None or b.pooled is None else torch.cat([a.pooled, b.pooled])
    return Encoded(torch.cat([a.states, b.states]), pooled)


def _by_frame(states: Tensor, rows: list[list[tuple[int, int, float]]], arcs: list[bool]) -> States:
    if all(len(set(row)) == 1 for row in rows):
        return states[torch.tensor([row[0][0] for row in rows], device=states.device)]
    first, second, share = (torch.tensor([[frame[i] for frame in row] for row in rows]) for i in range(3))
    return FrameStates(states, first.to(states.device), second.to(states.device), share, arcs)
