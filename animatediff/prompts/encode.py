"""Encode texts of any length, with weights, as prompt embeddings for the UNet; each distinct text once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.prompts.grammar import is_unweighted
from animatediff.prompts.tokens import Chunk, chunk_size, chunks_of, rows_of, token_ids

ROWS_AT_ONCE = 8
"""Chunks that go through the text encoder together, so that a long travel takes no more memory than a short one."""


@dataclass(frozen=True)
class Encoded:
    """Prompt embeddings of texts."""

    states: Tensor
    """(m, n, d), one a text."""
    pooled: Tensor | None = None
    """(m, d), SDXL's pooled prompt embeddings: from its second encoder, for the first chunk."""


def _parts(image: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder), one of Stable Diffusion, two of SDXL."""
    pairs = [(getattr(image, f"tokenizer{n}", None), getattr(image, f"text_encoder{n}", None)) for n in ("", "_2")]
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None and encoder is not None]


def is_plain(image: Any, text: str) -> bool:
    """Whether a text has no weights and fits the text encoder at once, so that diffusers encodes it as it is."""
    return is_unweighted(text) and fits(image, text)


def fits(image: Any, text: str) -> bool:
    """Whether the tokens of a text fit the text encoders at once, brackets taken as letters."""
    return all(len(token_ids(image, tokenizer, text)) <= chunk_size(tokenizer) for tokenizer, _ in _parts(image))


Text = str | tuple[str, str]
"""A text, or two: for the first text encoder and the second."""


def chunks_needed(image: Any, texts: Sequence[Text], *, plain: bool = False) -> int:
    """Count the chunks of the longest of these texts."""
    return max(
        len(chunks_of(image, tokenizer, text, plain=plain))
        for place, (tokenizer, _) in enumerate(_parts(image))
        for text in _for(place, texts)
    )


def _for(place: int, texts: Sequence[Text]) -> list[str]:
    """The texts for an encoder, 0 the first."""
    return [text if isinstance(text, str) else text[place] for text in texts]


def encode(
    image: Any,
    texts: Sequence[Text],
    *,
    num_chunks: int,
    clip_skip: int | None,
    plain: bool = False,
    device: torch.device,
) -> Encoded:
    """Encode texts, all padded to `num_chunks` chunks, so that they go in one batch.

    image: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`. plain: as for `tokens.chunks_of`.
    """
    parts = _parts(image)
    sdxl = getattr(image, "text_encoder_2", None) is not None
    states: list[Tensor] = []
    pooled: Tensor | None = None
    for place, (tokenizer, encoder) in enumerate(parts):
        chunks = [chunks_of(image, tokenizer, text, plain=plain) for text in _for(place, texts)]
        found, first = _through(encoder, tokenizer, chunks, num_chunks, clip_skip, sdxl, device)
        states.append(found)
        pooled = first if first is not None else pooled
    dtype = parts[-1][1].dtype
    return Encoded(torch.cat(states, dim=-1).to(device, dtype), None if pooled is None else pooled.to(device, dtype))


def _through(
    encoder: Any,
    tokenizer: Any,
    texts: Sequence[Sequence[Chunk]],
    num_chunks: int,
    clip_skip: int | None,
    sdxl: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states (m, num_chunks * n, d) of an encoder and, where it has them, pooled ones (m, d) of first chunks."""
    laid_out = [rows_of(chunks, tokenizer, num_chunks) for chunks in texts]
    ids = torch.tensor([row for rows, _ in laid_out for row in rows])
    weights = torch.tensor([row for _, rows in laid_out for row in rows])
    states, pooled = [], []
    for some, weight in zip(ids.split(ROWS_AT_ONCE), weights.split(ROWS_AT_ONCE), strict=True):
        if sdxl:
            out = encoder(some.to(device), output_hidden_states=True)
            # SDXL was trained on the last layer but one
            read = out.hidden_states[-((clip_skip or 0) + 2)]
            if out[0].ndim == 2:
                pooled.append(out[0])
        else:
            read = layer_states(encoder, some.to(device), clip_skip or 0)
        states.append(weighted(read, weight.to(read.device), keep_mean=not sdxl))
    joined = torch.cat(states)
    summary = torch.cat(pooled)[::num_chunks] if pooled else None
    return joined.reshape(len(texts), -1, joined.shape[-1]), summary


def layer_states(encoder: Any, ids: Tensor, clip_skip: int) -> Tensor:
    """Prompt embeddings (b, n, d) of Stable Diffusion 1.x and 2.x without the last `clip_skip` layers, normalised.

    Where layers are left out, diffusers reads a submodule that newer versions of transformers do not have.
    """
    if not clip_skip:
        return encoder(ids)[0]
    states = encoder(ids, output_hidden_states=True).hidden_states[-(clip_skip + 1)]
    return getattr(encoder, "text_model", encoder).final_layer_norm(states)


def weighted(states: Tensor, weights: Tensor, *, keep_mean: bool) -> Tensor:
    """Multiply prompt embeddings (b, n, d) by the weights (b, n) of their tokens.

    keep_mean: bring the mean of each row back to where it was, as A1111 does, which advises against that for SDXL. Rows
    without weights are returned to the bit.
    """
    if bool((weights == 1).all()):
        return states
    full = states.float()
    scaled = full * weights[..., None].to(full)
    if keep_mean:
        back = full.mean((1, 2), keepdim=True) / scaled.mean((1, 2), keepdim=True)
        scaled = scaled * torch.where(back.isfinite(), back, 1.0)
    untouched = (weights == 1).all(1)[:, None, None]
    return torch.where(untouched, full, scaled).to(states.dtype)
