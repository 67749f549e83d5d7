"""Textual inversion: words that a file adds to the text encoders.

A word of several vectors becomes several tokens, `name`, `name_1`, `name_2`, as in diffusers, so that its mixin
(`maybe_convert_prompt`) spells them out in prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.storage.files import Header, load_tensors, read_header

if TYPE_CHECKING:
    from torch import Tensor

_A1111 = re.compile(r"string_to_param\.(.+)")
_SDXL = ("clip_l", "clip_g")
_PLAIN = ("emb_params", "emb", "<concept>")
"""Keys that stand for the embedding without naming its word."""


@dataclass(frozen=True, kw_only=True)
class LoadedEmbedding:
    """The word that was added."""

    token: str
    """The word to use in a prompt."""
    num_vectors: int
    """Tokens that the word stands for."""


def load_embedding(
    path: str | Path, *, tokenizers: Sequence[Any], text_encoders: Sequence[Any], token: str | None = None
) -> LoadedEmbedding:
    """Add the word of a textual inversion file: A1111 .pt or .safetensors, SDXL (clip_l, clip_g), diffusers.

    The word is `token`, else the one the file names, else the file's name. Raises UserError, with nothing added, if the
    widths are not those of the text encoders or the word is known already.
    """
    path = Path(path).expanduser()
    header = read_header(path)
    found, named = _vectors(header)
    return add_word(token or named or path.stem, found, path=path, tokenizers=tokenizers, text_encoders=text_encoders)


def add_word(
    word: str, found: Sequence[Tensor], *, path: Path, tokenizers: Sequence[Any], text_encoders: Sequence[Any]
) -> LoadedEmbedding:
    """Add `word` with its (count, width) vectors for each text encoder. Raises UserError as `load_embedding`."""
    if len(found) != len(text_encoders):
        made_for = "SDXL (two text encoders)" if len(found) == 2 else "SD 1.x or 2.x (one text encoder)"
        raise UserError(f"{path}: an embedding for {made_for}, but this model has {len(text_encoders)}")
    if not word.strip() or re.search(r"\s", word):
        raise UserError(f"{path}: the word {word!r} has spaces; give another with token=")
    counts = {vectors.shape[0] for vectors in found}
    if len(counts) != 1:
        raise UserError(
            f"{path}: its text encoders have {' and '.join(map(str, sorted(counts)))} vectors; expected as many in both"
        )
    count = counts.pop()
    words = [word, *(f"{word}_{i}" for i in range(1, count))]
    for vectors, encoder, tokenizer in zip(found, text_encoders, tokenizers, strict=True):
        width = encoder.get_input_embeddings().weight.shape[1]
        if vectors.shape[1] != width:
            raise UserError(
                f"{path}: vectors of width {vectors.shape[1]}, but the text encoder has {width} "
                "(SD 1.x 768, SD 2.x 1024, SDXL 768 and 1280); the embedding is for another base model"
            )
        if known := [name for name in words if name in tokenizer.get_vocab()]:
            raise UserError(f"{path}: the word {known[0]!r} is known already; give another with token=")
    for vectors, encoder, tokenizer in zip(found, text_encoders, tokenizers, strict=True):
        _add(words, vectors, encoder, tokenizer)
    return LoadedEmbedding(token=word, num_vectors=count)


def _add(words: list[str], vectors: Tensor, encoder: Any, tokenizer: Any) -> None:
    import torch

    tokenizer.add_tokens(words)
    ids = tokenizer.convert_tokens_to_ids(words)
    table = encoder.get_input_embeddings()
    if len(tokenizer) > table.weight.shape[0]:
        trainable = table.weight.requires_grad
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = encoder.get_input_embeddings()
        table.weight.requires_grad_(trainable)
    with torch.no_grad():
        table.weight[ids] = vectors.to(table.weight)


def _vectors(header: Header) -> tuple[list[Tensor], str | None]:
    """One (count, width) tensor for each text encoder, and the word that the file names."""
    keys = list(header.tensors)
    named: str | None = header.metadata.get("name")
    if all(key in header.tensors for key in _SDXL):
        return [_rows(load_tensors(header, [key])[key], header) for key in _SDXL], named
    a1111: Mapping[str, str] = {key: found[1] for key in keys if (found := _A1111.fullmatch(key))}
    candidates = list(a1111) or [key for key in keys if key in _PLAIN] or keys
    if len(candidates) != 1 or len(header.tensors[candidates[0]].shape) not in (1, 2):
        raise UserError(
            f"{header.path}: not a textual inversion: expected one tensor of vectors, or clip_l and clip_g; found "
            f"{len(keys)} tensors, first {', '.join(keys[:3]) or 'none'}"
        )
    key = candidates[0]
    if not a1111 and key not in _PLAIN:
        named = key  # diffusers: the key is the word
    return [_rows(load_tensors(header, [key])[key], header)], named


def _rows(tensor: Tensor, header: Header) -> Tensor:
    if tensor.ndim == 1:
        return tensor[None]
    if tensor.ndim != 2:
        raise UserError(f"{header.path}: an embedding of shape {tuple(tensor.shape)}; expected (vectors, width)")
    return tensor
