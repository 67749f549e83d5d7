"""Prompt embeddings that a call brings along, beside texts that are still to be encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines.parts import is_sdxl
from animatediff.prompts import PromptTravel
from animatediff.prompts.encode import chunks_needed, encode, is_plain

if TYPE_CHECKING:
    from animatediff.pipelines.parts import BasePipeline
    from animatediff.pipelines.texts import Texts


def encode_given(
    base: BasePipeline, texts: Texts, *, guidance: bool, clip_skip: int | None, plain: bool, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Embeddings (b, n, d) and, of SDXL, pooled ones (b, d); with guidance the negative ones first.

    Texts are encoded at the length of the embeddings beside them. Raises UserError where they need another one.
    """
    if texts.embeds is not None:
        embeds, pooled = texts.embeds, texts.pooled
    else:
        if any(isinstance(prompt, PromptTravel) for prompt in texts.prompts):
            raise UserError("a prompt that travels takes no `negative_prompt_embeds`; give `negative_prompt`")
        assert texts.negative_embeds is not None
        embeds, pooled = _encoded(
            base, texts.prompts, texts.prompts_2, texts.negative_embeds.shape[1], clip_skip, plain, device
        )
    if not guidance:
        return _in_place(base, embeds, device), _pooled(base, pooled, device)
    if texts.negative_embeds is not None:
        negative, negative_pooled = texts.negative_embeds, texts.negative_pooled
    elif texts.negatives is None and is_sdxl(base) and bool(base.config["force_zeros_for_empty_prompt"]):
        negative, negative_pooled = torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)
    else:
        wanted = texts.negatives or [""] * texts.num_clips
        negative, negative_pooled = _encoded(
            base, wanted, texts.negatives_2, embeds.shape[1], None if is_sdxl(base) else clip_skip, plain, device
        )
    if negative.shape != embeds.shape:
        raise UserError(
            f"prompt embeddings are {tuple(embeds.shape)} and negative ones {tuple(negative.shape)}; they have one "
            "shape"
        )
    both = None
    if pooled is not None and negative_pooled is not None:
        both = torch.cat([negative_pooled.to(device), pooled.to(device)])
    return _in_place(base, torch.cat([negative.to(device), embeds.to(device)]), device), _pooled(base, both, device)


def _in_place(base: Any, embeds: Tensor, device: torch.device) -> Tensor:
    width = base.unet.config["cross_attention_dim"]
    width = max(width) if isinstance(width, list | tuple) else width
    if embeds.shape[-1] != width:
        raise UserError(f"`prompt_embeds` are {embeds.shape[-1]} wide, and this base model takes {width}")
    return embeds.to(device, base.unet.dtype)


def _pooled(base: Any, pooled: Tensor | None, device: torch.device) -> Tensor | None:
    return None if pooled is None else pooled.to(device, base.unet.dtype)


def _encoded(
    base: Any, texts: Any, second: Any, length: int, clip_skip: int | None, plain: bool, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Texts, one a clip, as embeddings of `length` tokens."""
    if base.text_encoder is None or base.tokenizer is None:
        raise UserError(
            "this pipeline has no text encoder; give `prompt_embeds` and, with guidance, `negative_prompt_embeds`"
        )
    pairs = list(zip(texts, second, strict=True)) if second is not None else list(texts)
    chunk = base.tokenizer.model_max_length
    if length % chunk == 0:
        needed = chunks_needed(base, pairs, plain=plain)
        if needed > length // chunk:
            raise UserError(
                f"embeddings of {length} tokens are given, and a text beside them needs {needed * chunk}; shorten it, "
                "or give its embeddings as well"
            )
        found = encode(base, pairs, num_chunks=length // chunk, clip_skip=clip_skip, plain=plain, device=device)
        return found.states, found.pooled
    if is_sdxl(base) or clip_skip or not all(plain or is_plain(base, text) for text in texts):
        raise UserError(
            f"embeddings of {length} tokens are given, no multiple of {chunk}: give both `prompt_embeds` and "
            "`negative_prompt_embeds`"
        )
    ids = base.tokenizer(
        base.maybe_convert_prompt(list(texts), base.tokenizer),
        padding="max_length", max_length=length, truncation=True, return_tensors="pt",
    ).input_ids  # fmt: skip
    return base.text_encoder(ids.to(device))[0], None
