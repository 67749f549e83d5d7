"""Textual inversion: words that a file adds to the text encoders.

A word of several vectors becomes several tokens, `name`, `name_1`, `name_2`, as in diffusers; `prompts.words` spells
them out in prompts. CLIP's tokenizer reads everything in lower case, and so are the tokens.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.addons.embedding_files import EmbeddingFile, Word, embedding_file, read_embedding

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoadedEmbedding", "check_embedding", "embedding_file", "load_embedding"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedEmbedding:
    """A word that was added."""

    token: str
    """The word to use in a prompt, in any case."""
    num_vectors: int
    """Tokens that the word stands for."""
    aliases: tuple[str, ...] = ()
    """Other words for the same: the name of its file."""
    others: tuple[LoadedEmbedding, ...] = ()
    """The other words of a file with several."""
    label: str = "embedding"
    """Its file, for messages."""

    @property
    def all(self) -> tuple[LoadedEmbedding, ...]:
        """Every word of the file."""
        return self, *self.others

    @property
    def words(self) -> tuple[str, ...]:
        """Words of which a prompt needs one."""
        return self.token, *self.aliases


def check_embedding(path: str | Path, *, num_text_encoders: int | None = None) -> None:
    """Raise UserError for anything but a textual inversion, by its header alone.

    num_text_encoders: of the base model (SDXL has two), where it is known.
    """
    found = read_embedding(path)
    if num_text_encoders is not None:
        _check_encoders(found, num_text_encoders)


def load_embedding(
    source: str | Path | Mapping[str, Tensor],
    *,
    tokenizers: Sequence[Any],
    text_encoders: Sequence[Any],
    token: str | None = None,
    name: str | None = None,
) -> LoadedEmbedding:
    """Add the word, or the words, of a textual inversion: a file, a folder of the hub, or tensors with their `name`.

    The word is `token`, else the one the file names, else the file's name, which is accepted beside a stored one too.
    Layouts: `read_embedding`. Raises UserError, with nothing added, if the widths are not those of the text encoders or
    the word is known already.
    """
    found = read_embedding(source, name=name)
    _check_encoders(found, len(text_encoders))
    several = len(found.words) > 1
    if several and token is not None:
        named = ", ".join(str(word.name) for word in found.words)
        raise UserError(f"{found.label}: holds several words ({named}), which `token` cannot name; leave it out")
    chosen: list[tuple[str, tuple[str, ...], list[Tensor]]] = []
    for word in found.words:
        vectors = _vectors(found, word, text_encoders)
        names = [token] if token else [word.name, None if several else found.title]
        taken = {spelled for words in chosen for main in (words[0], *words[1]) for spelled in _tokens(main, words[2])}
        main, aliases = _choose([name for name in names if name], vectors, tokenizers, taken, found, several=several)
        chosen.append((main, aliases, vectors))
    added = []
    for main, aliases, vectors in chosen:
        for word in (main, *aliases):
            for rows, encoder, tokenizer in zip(vectors, text_encoders, tokenizers, strict=True):
                _add(_tokens(word, vectors), rows, encoder, tokenizer)
        count = vectors[0].shape[0]
        added.append(LoadedEmbedding(token=main, num_vectors=count, aliases=aliases, label=found.label))
        logger.info(
            "%s: to use it, write %s in a prompt (%d vector%s)",
            found.label,
            " or ".join(added[-1].words),
            count,
            "" if count == 1 else "s",
        )
    first, *others = added
    return LoadedEmbedding(
        token=first.token, num_vectors=first.num_vectors, aliases=first.aliases, others=tuple(others), label=found.label
    )


def _check_encoders(found: EmbeddingFile, num_text_encoders: int) -> None:
    count = len(found.words[0].keys)
    if count != num_text_encoders:
        made_for = "SDXL (two text encoders)" if count == 2 else "SD 1.x or 2.x (one text encoder)"
        raise UserError(f"{found.label}: an embedding for {made_for}, but this model has {num_text_encoders}")


def _vectors(found: EmbeddingFile, word: Word, text_encoders: Sequence[Any]) -> list[Tensor]:
    """Vectors (n, d) of a word, for each text encoder. Raises UserError where they do not fit."""
    vectors = [found.vectors(key) for key in word.keys]
    counts = sorted({rows.shape[0] for rows in vectors})
    if len(counts) != 1:
        raise UserError(
            f"{found.label}: its text encoders have {' and '.join(map(str, counts))} vectors; expected as many in both"
        )
    for rows, encoder in zip(vectors, text_encoders, strict=True):
        width = encoder.get_input_embeddings().weight.shape[1]
        if rows.shape[1] != width:
            raise UserError(
                f"{found.label}: vectors of width {rows.shape[1]}, but the text encoder has {width} "
                "(SD 1.x 768, SD 2.x 1024, SDXL 768 and 1280); the embedding is for another base model"
            )
    return vectors


def _choose(
    names: Sequence[str],
    vectors: Sequence[Tensor],
    tokenizers: Sequence[Any],
    taken: set[str],
    found: EmbeddingFile,
    *,
    several: bool,
) -> tuple[str, tuple[str, ...]]:
    """The first of these names that can be a word, and the others as aliases. Raises UserError where none can."""
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]

    def hindrance(name: str) -> str | None:
        if not name.strip() or re.search(r"\s", name):
            return f"the word {name!r} has spaces"
        if known := [one for one in _tokens(name, vectors) if one in taken or any(one in v for v in vocabularies)]:
            return f"the word {known[0]!r} is known already"
        return None

    usable = [name for name in names if hindrance(name) is None]
    if several and not usable and not any(name.startswith("<") for name in names):
        some = ", ".join(str(word.name) for word in found.words[:3])
        raise UserError(
            f"{found.label}: not a textual inversion: expected vectors for one word or several, or clip_l and clip_g; "
            f"found {len(found.words)} tensors, first {some}, which are words already"
        )
    if not usable:
        reason = hindrance(names[0]) if names else "the file names no word"
        raise UserError(f"{found.label}: {reason}; give another with token=")
    main, *others = usable
    if any(f"{main.lower()}</w>" in vocabulary for vocabulary in vocabularies):
        logger.warning("%s: %r is a word of the text encoder, and stands for this embedding now", found.label, main)
    aliases = [
        name for name in others
        if name.lower() != main.lower() and re.search(r"[^\W\d]{2}", name)
        and not any(f"{name.lower()}</w>" in vocabulary for vocabulary in vocabularies)
    ]  # fmt: skip
    return main, tuple(aliases)


def _tokens(word: str, vectors: Sequence[Tensor]) -> list[str]:
    """The tokens of a word: one for each vector."""
    return [word.lower(), *(f"{word.lower()}_{number}" for number in range(1, vectors[0].shape[0]))]


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
