"""Prompts as the UNet takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.pipelines.parts import is_sdxl
from animatediff.pipelines.prompt_embeds import encode_given
from animatediff.prompts import PromptTravel
from animatediff.prompts.clip_skip import skipped_states
from animatediff.prompts.encode import chunks_needed, is_plain
from animatediff.prompts.encode_prompts import encode_clips
from animatediff.prompts.travel_states import FrameStates
from animatediff.sampling.conditions import Conditioning, size_time_ids

if TYPE_CHECKING:
    from animatediff.pipelines.arguments import Arguments
    from animatediff.pipelines.parts import BasePipeline
    from animatediff.pipelines.texts import Texts


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
    prompts_2: Sequence[str] | None = None,
    negatives_2: Sequence[str] | None = None,
    call: Arguments | None = None,
) -> PromptEmbeds:
    """Encode the prompts, and where there is guidance the negative ones. `size`: (height, width) in pixels.

    plain: brackets are letters and long prompts are cut, as in diffusers and in the original AnimateDiff. prompts_2,
    negatives_2: other texts for SDXL's second text encoder. call: its sizes are told to SDXL.
    """
    still = [prompt for prompt in prompts if isinstance(prompt, str)]
    texts = (*still, *(prompts_2 or ()), *((*(negatives or ()), *(negatives_2 or ())) if guidance else ()))
    if len(still) == len(prompts) and (plain or all(is_plain(base, text) for text in texts)):
        second = {"prompt_2": prompts_2, "negative_prompt_2": negatives_2} if is_sdxl(base) else {}
        embeddings, pooled = _by_diffusers(base, still, negatives, guidance, clip_skip, device, second)
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
            prompts_2=prompts_2,
            negatives_2=negatives_2,
        )
    return _with_sizes(base, embeddings, pooled, len(prompts), size, guidance, call)


def _with_sizes(
    base: BasePipeline,
    embeddings: Tensor | FrameStates,
    pooled: Tensor | FrameStates | None,
    num_clips: int,
    size: tuple[int, int],
    guidance: bool,
    call: Arguments | None,
) -> PromptEmbeds:
    # text encoders may compute in another number format than the UNet
    if isinstance(embeddings, FrameStates):
        embeddings = replace(embeddings, states=embeddings.states.to(base.unet.dtype))
    else:
        embeddings = embeddings.to(base.unet.dtype)
    if not is_sdxl(base):
        return PromptEmbeds(embeddings)
    states = embeddings.states if isinstance(embeddings, FrameStates) else embeddings
    told = {} if call is None else _told_sizes(call)
    negative = told if call is None else _told_negative_sizes(call)
    ids = [
        size_time_ids(size, num_clips, dtype=states.dtype, device=states.device, **one)
        for one in ([negative, told] if guidance else [told])
    ]
    return PromptEmbeds(embeddings, pooled, torch.cat(ids))


def _told_sizes(call: Arguments) -> dict[str, Any]:
    return {"original": call.original_size, "crop": call.crops_coords_top_left, "target": call.target_size}


def _told_negative_sizes(call: Arguments) -> dict[str, Any]:
    """Each that is not given is as for prompts."""
    told = _told_sizes(call)
    given = {
        "original": call.negative_original_size,
        "crop": call.negative_crops_coords_top_left,
        "target": call.negative_target_size,
    }
    return told | {name: value for name, value in given.items() if value is not None}


def encode_groups(
    base: BasePipeline,
    texts: Texts,
    call: Arguments,
    *,
    num_frames: int,
    guidance: bool,
    size: tuple[int, int],
    device: Any,
) -> list[tuple[list[int], PromptEmbeds]]:
    """Encode the texts of a call: which clips, and their embeddings, all of one length.

    A clip's embeddings are as long as its own prompts ask for, so that they do not depend on its neighbours.
    """
    if texts.embeds is not None or texts.negative_embeds is not None or texts.negative_pooled is not None:
        embeddings, pooled = encode_given(
            base, texts, guidance=guidance, clip_skip=call.clip_skip, plain=call.plain_prompts, device=device
        )
        made = _with_sizes(base, embeddings, pooled, texts.num_clips, size, guidance, call)
        return [(list(range(texts.num_clips)), made)]
    lengths: dict[int, list[int]] = {}
    for clip in range(texts.num_clips):
        own = texts.clips([clip])
        lengths.setdefault(1 if call.plain_prompts else _length(base, own, guidance), []).append(clip)
    found = []
    for clips in lengths.values():
        own = texts.clips(clips)
        made = encode_prompts(
            base,
            own.prompts,
            own.negatives,
            num_frames=num_frames,
            guidance=guidance,
            clip_skip=call.clip_skip,
            plain=call.plain_prompts,
            size=size,
            device=device,
            prompts_2=own.prompts_2,
            negatives_2=own.negatives_2,
            call=call,
        )
        found.append((clips, made))
    return found


def empty_prompt(
    base: BasePipeline, call: Arguments, num_clips: int, size: tuple[int, int], device: torch.device
) -> Conditioning:
    """Conditioning of clips by an empty prompt alone, as a call has its own. size: (height, width) in pixels."""
    made = encode_prompts(
        base,
        [""] * num_clips,
        None,
        num_frames=1,
        guidance=False,
        clip_skip=call.clip_skip,
        plain=True,
        size=size,
        device=device,
        call=call,
    )
    return Conditioning(clips=range(num_clips), embeddings=made.embeddings, pooled=made.pooled, time_ids=made.time_ids)


def _length(base: BasePipeline, own: Texts, guidance: bool) -> int:
    """Chunks that the texts of one clip need."""
    (prompt,) = own.prompts
    shown = [prompt] if isinstance(prompt, str) else [prompt.whole(text) for text in prompt.texts.values()]
    texts = [*shown, *(own.prompts_2 or ())]
    if guidance:
        texts += [*(own.negatives or ()), *(own.negatives_2 or ())]
    return chunks_needed(base, texts)


def _by_diffusers(
    base: BasePipeline,
    prompts: list[str],
    negatives: Sequence[str] | None,
    guidance: bool,
    clip_skip: int | None,
    device: torch.device,
    second: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    encoder: Any = base  # SD and SDXL differ in what they return
    texts: dict[str, Any] = {"prompt": prompts, "negative_prompt": negatives, "clip_skip": clip_skip or None, **second}
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
