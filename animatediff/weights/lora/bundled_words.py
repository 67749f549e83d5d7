"""Textual inversions that came inside a LoRA file (`bundle_emb`), for the words that it was trained with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.weights.addons.embeddings import LoadedEmbedding, load_embedding
from animatediff.weights.lora.methods import sort_keys
from animatediff.weights.lora.source import lora_header
from animatediff.weights.storage.files import Header, load_tensors

logger = logging.getLogger(__name__)

_PARTS = {1: (("string_to_param.*",), ("clip_l",)), 2: (("clip_l", "clip_g"),)}
"""Number of text encoders -> names of the vectors for them, the first that are there."""


def load_bundled_words(
    path: str | Path | Header, *, tokenizers: Sequence[Any], text_encoders: Sequence[Any]
) -> list[LoadedEmbedding]:
    """Add the words that the LoRA file at `path` brings; those that do not fit are left out, and a warning says why.

    The words stay when the LoRA is removed, as other textual inversions do.
    """
    header = lora_header(path)
    path = str(header.path)
    added = []
    for word, parts in sort_keys(header.tensors).embeddings.items():
        names = next((names for names in _PARTS[len(text_encoders)] if all(name in parts for name in names)), None)
        try:
            if names is None:
                raise UserError(f"{path}: is for other text encoders than this model's ({', '.join(parts)})")
            tensors = load_tensors(header, [parts[name] for name in names])
            vectors = {name: tensors[parts[name]] for name in names}
            added.append(load_embedding(vectors, name=word, tokenizers=tokenizers, text_encoders=text_encoders))
        except UserError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"embedding {word}: ")
            logger.warning("%s: brings an embedding, %r, which is left out: %s", path, word, reason)
            continue
        logger.info("%s: brings the word %r, now known in prompts", path, word)
    return added
