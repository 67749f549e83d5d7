"""Words of textual inversions in prompts: spelled out with all their vectors, in whatever case they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def spell_out(prompt: str | list[str], tokenizer: Any) -> Any:
    """A prompt, or several, with each word of several vectors as `word word_1 word_2`, the tokens of its vectors.

    In place of diffusers' `maybe_convert_prompt`, which finds words in one case alone, though CLIP's tokenizer gives
    them in lower case, and takes words for others that they begin with. ComfyUI's `embedding:word` is the word alone.
    """
    known = _known(tokenizer)
    if not (pattern := _pattern(known)):
        return prompt
    texts = [prompt] if isinstance(prompt, str) else prompt
    spelled = [pattern.sub(lambda found: " ".join(_tokens(found[1].lower(), known)), text) for text in texts]
    return spelled[0] if isinstance(prompt, str) else spelled


def words_in(texts: Iterable[str], tokenizer: Any) -> set[str]:
    """The added words, in lower case, that some of these texts have."""
    pattern = _pattern(_known(tokenizer))
    return {word.lower() for text in texts for word in pattern.findall(text)} if pattern else set()


def without_added(text: str, tokenizer: Any) -> str:
    """A text without the added words."""
    pattern = _pattern(_known(tokenizer))
    return pattern.sub(" ", text) if pattern else text


def _known(tokenizer: Any) -> set[str]:
    """Added words in lower case."""
    return {token.lower() for token in getattr(tokenizer, "added_tokens_encoder", ())}


def _pattern(known: set[str]) -> re.Pattern[str] | None:
    """Any of the words, as group 1; the longest first, as the tokenizer finds them."""
    words = sorted((word for word in known if not word.startswith("<|")), key=lambda word: (-len(word), word))
    return re.compile(rf"(?:\bembedding:)?({'|'.join(map(re.escape, words))})", re.IGNORECASE) if words else None


def _tokens(word: str, known: set[str]) -> list[str]:
    tokens = [word]
    while (token := f"{word}_{len(tokens)}") in known:
        tokens.append(token)
    return tokens
