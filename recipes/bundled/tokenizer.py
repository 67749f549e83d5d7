"""The bundled model's own small vocabulary, as a CLIP tokenizer: every word of its world is one token."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from animatediff.sprites.words import corpus_words

MAX_LENGTH = 32
"""Tokens of a prompt, start and end included."""
START, END = "<|startoftext|>", "<|endoftext|>"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:;()\"/&+"


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word one token: pairs by falling frequency, until none is left to merge."""
    split = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for parts in split.values():
            for pair in pairwise(parts):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return merges
        best = max(sorted(counts), key=counts.__getitem__)
        merges.append(best)
        for word, parts in split.items():
            joined, i = [], 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    joined.append("".join(best))
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            split[word] = joined


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> id, and the merges. Unknown words fall apart into known pieces or characters."""
    merges = merges_for([word for word in corpus_words() if len(word) > 1])
    tokens = [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS), *("".join(pair) for pair in merges), START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def save_tokenizer(folder: Path) -> None:
    """Write the files that `CLIPTokenizer.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    settings = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "do_lower_case": True,
        "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
    }  # fmt: skip
    (folder / "vocab.json").write_text(json.dumps(tokens, indent=0) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    special = {key: value for key, value in settings.items() if key.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, written first if it is not there."""
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").exists():
        save_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)
