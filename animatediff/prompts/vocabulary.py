"""Words of prompts that the bundled model was not trained on, with the nearest that it was."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from animatediff.prompts.grammar import parse
from animatediff.prompts.words import without_added
from animatediff.sprites import words

NEAR = 0.7
"""Similarity of spelling (difflib) from which on a word of the same first letter is named: `foxes` and fox."""
LARGEST = 1000
"""Tokens of a vocabulary that is taken for the bundled one; CLIP's own, which has its words as well, has 49,408."""
MOST_NAMED = 8
"""Words of training data that are named."""
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s!-/:-@\[-`{-~]+")
"""Words as CLIP's tokenizer cuts them, numbers, and signs that are no punctuation."""

_SIGNS = re.compile(r"<[^<>]*:[^<>]*>|\bembedding:[\w./-]+|__[\w/-]+__")
"""Signs of other programs in place of words, of which `prompts.unread` warns."""


def is_bundled_vocabulary(tokenizer: Any) -> bool:
    """Whether a tokenizer is that of the bundled model: the words of its captions, and few more."""
    if tokenizer is None or len(tokenizer) > LARGEST:
        return False
    tokens = tokenizer.get_vocab()
    return all(f"{word}</w>" in tokens for word in words.corpus_words())


def unknown_words(texts: Iterable[str], tokenizer: Any, *, plain: bool = False) -> list[str]:
    """Words of these texts that the bundled model was not trained on, each once; none for another vocabulary.

    Words of textual inversions are known. plain: brackets are letters, not weights.
    """
    if not is_bundled_vocabulary(tokenizer):
        return []
    known, found = set(words.corpus_words()), {}
    for text in texts:
        text = _SIGNS.sub(" ", without_added(text, tokenizer))
        text = text if plain else " ".join(part.text for part in parse(text))
        found |= dict.fromkeys(_strange(text, known))
    return list(found)


def _strange(text: str, known: Collection[str]) -> list[str]:
    """Words of a text that are none of these."""
    return [word for word in _WORD.findall(text.lower()) if word not in known]


@dataclass
class StrangeWords:
    """The captions of training data that have words which the bundled model was not trained on, counted."""

    num_texts: int = 0
    """Captions that were looked at."""
    num_strange: int = 0
    words: Counter[str] = field(default_factory=Counter)
    """Such a word -> the number of captions that have it."""

    def __post_init__(self) -> None:
        self._known = frozenset(words.corpus_words())

    def look(self, text: str) -> None:
        """Count one caption; brackets in it are letters."""
        found = set(_strange(text, self._known))
        self.num_texts += 1
        self.num_strange += bool(found)
        self.words.update(found)

    def __str__(self) -> str:
        common = sorted(self.words.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_NAMED]
        more = len(self.words) - len(common)
        return (
            f"{self.num_strange} of {self.num_texts} captions have words that the bundled model was not trained on, "
            f"and reads as letters: {', '.join(f'{word} ({count})' for word, count in common)}"
            f"{f' and {more} more' if more else ''}; `animatediff animate --list-words` lists those it knows"
        )


def say_unknown(texts: Iterable[str], tokenizer: Any, *, plain: bool = False) -> list[str]:
    """One sentence where some words are unknown (`unknown_words`), with the nearest known ones; else nothing."""
    if not (found := unknown_words(texts, tokenizer, plain=plain)):
        return []
    known = [word for word in words.corpus_words() if len(word) > 1]
    named = []
    for word in found:
        near = difflib.get_close_matches(word, [each for each in known if each[0] == word[0]], n=1, cutoff=NEAR)
        named.append(f"{word} (it knows {near[0]})" if near else word)
    these = "this word" if len(named) == 1 else "these words"
    return [
        f"the bundled model was not trained on {these}, and shows something else: {', '.join(named)}; it knows "
        f"{', '.join(words.OBJECTS)}, on backgrounds of {', '.join(words.BACKGROUNDS)}, and lets them move right, "
        "left, up or down, grow, shrink or spin (all words: `animatediff animate --list-words`)"
    ]
