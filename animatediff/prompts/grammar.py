r"""Weights in prompts, in the grammar of A1111's web page.

`(word)` counts 1.1 times, `[word]` 1 / 1.1 times, `(word:1.3)` 1.3 times; brackets nest and multiply. `\(`, `\)`, `\[`,
`\]` and `\\` are the characters themselves. The word `BREAK` ends a chunk of the text encoder. A bracket that is never
closed lasts to the end of the prompt; one that was never opened is a character like any other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

STEP = 1.1
"""Factor of a pair of brackets without a number."""

_PIECES = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\])
    | (?P<open>[(\[])
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<close>[)\]])
    | (?P<break>\bBREAK\b)
    | [^\\()\[\]:B]+ | .
    """,
    re.VERBOSE | re.DOTALL,
)


class Part(NamedTuple):
    """A stretch of a prompt."""

    text: str
    weight: float = 1.0
    ends_chunk: bool = False
    """Stands for the word BREAK; `text` is empty."""


def parse(prompt: str) -> list[Part]:
    """The parts of a prompt with their weights, neighbours of one weight joined; at least one.

    >>> parse("a (red:1.3) fox")
    [Part(text='a ', weight=1.0, ends_chunk=False), Part(text='red', weight=1.3, ends_chunk=False), \
Part(text=' fox', weight=1.0, ends_chunk=False)]
    """
    parts: list[Part] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where the brackets that are open began

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        parts[start:] = [part._replace(weight=part.weight * factor) for part in parts[start:]]

    for found in _PIECES.finditer(prompt):
        if found["escaped"]:
            parts.append(Part(found["escaped"]))
        elif found["open"]:
            opened[found["open"]].append(len(parts))
        elif found["weight"] and opened["("]:
            close("(", float(found["weight"]))
        elif found["close"] == ")" and opened["("]:
            close("(", STEP)
        elif found["close"] == "]" and opened["["]:
            close("[", 1 / STEP)
        elif found["break"]:
            parts.append(Part("", ends_chunk=True))
        else:
            parts.append(Part(found[0]))
    for bracket, factor in (("(", STEP), ("[", 1 / STEP)):
        while opened[bracket]:
            close(bracket, factor)
    return _merged(parts) or [Part("")]


def _merged(parts: list[Part]) -> list[Part]:
    merged: list[Part] = []
    for part in parts:
        before = merged[-1] if merged else None
        if before and not before.ends_chunk and not part.ends_chunk and before.weight == part.weight:
            merged[-1] = before._replace(text=before.text + part.text)
        else:
            merged.append(part)
    return merged


def is_unweighted(prompt: str) -> bool:
    """Whether a prompt means its letters and nothing else: no weights, no escapes, no BREAK."""
    return parse(prompt) == [Part(prompt)]
