"""Prompts cut into chunks that a text encoder can read, with a weight for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from animatediff.prompts.grammar import parse

MAX_BACK = 20
"""A chunk that is full ends at a comma no further back than this, so that no phrase is torn; as in A1111."""


@dataclass
class Chunk:
    """Tokens that the encoder reads at once, without those at start and end."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    last_comma: int = -1
    """Place behind the last comma, -1 if there is none."""

    def add(self, token: int, weight: float, comma: int | None) -> None:
        """Add a token; `comma` is the one that phrases end at."""
        self.ids.append(token)
        self.weights.append(weight)
        if token == comma:
            self.last_comma = len(self.ids)


def chunk_size(tokenizer: Any) -> int:
    """Tokens of a prompt that one chunk has room for: 75 for CLIP."""
    return tokenizer.model_max_length - 2


def token_ids(image: Any, tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text, without those at start and end. image: the diffusers pipeline, which knows words of several
    vectors."""
    if not text.strip():
        return []
    return tokenizer(image.maybe_convert_prompt(text, tokenizer), add_special_tokens=False, verbose=False).input_ids


def chunks_of(image: Any, tokenizer: Any, prompt: str, *, plain: bool = False) -> list[Chunk]:
    """The chunks of a prompt with weights; one that is empty for a prompt without tokens.

    plain: brackets are letters, and what does not fit into one chunk is cut off.
    """
    size = chunk_size(tokenizer)
    if plain:
        ids = token_ids(image, tokenizer, prompt)[:size]
        return [Chunk(ids, [1.0] * len(ids))]
    back = min(MAX_BACK, size // 4)
    comma = tokenizer.get_vocab().get(",</w>")
    chunks = [Chunk()]
    for part in parse(prompt):
        if part.ends_chunk:
            if chunks[-1].ids:
                chunks.append(Chunk())
            continue
        for token in token_ids(image, tokenizer, part.text):
            if len(chunks[-1].ids) == size:
                chunks.append(_carried_over(chunks[-1], back, token == comma))
            chunks[-1].add(token, part.weight, comma)
    return chunks if chunks[-1].ids or len(chunks) == 1 else chunks[:-1]


def _carried_over(full: Chunk, back: int, comma_follows: bool) -> Chunk:
    """The chunk after a full one, with the tokens behind its last comma moved over."""
    start = full.last_comma
    behind = len(full.ids) - start
    if start < 0 or comma_follows or not 0 < behind <= back:
        return Chunk()
    moved = Chunk(full.ids[start:], full.weights[start:])
    full.ids, full.weights = full.ids[:start], full.weights[:start]
    return moved


def rows_of(chunks: Sequence[Chunk], tokenizer: Any, num_chunks: int) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids and weights of `num_chunks` chunks with start, end and padding, (num_chunks, n); empty ones at the end.

    Start, end and padding weigh 1.
    """
    size, ids, weights = chunk_size(tokenizer), [], []
    for chunk in (*chunks, *(Chunk() for _ in range(num_chunks - len(chunks)))):
        room = size - len(chunk.ids)
        ids.append([tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * room])
        weights.append([1.0, *chunk.weights, 1.0, *[1.0] * room])
    return ids, weights
