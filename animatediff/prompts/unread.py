"""Signs in prompts that other programs read as settings, and that are read as plain text here."""

from __future__ import annotations

import re
from typing import NamedTuple

from animatediff.prompts.lines import RATIO


class _Sign(NamedTuple):
    pattern: re.Pattern[str]
    advice: str


def _sign(pattern: str, advice: str) -> _Sign:
    return _Sign(re.compile(pattern, re.MULTILINE), advice)


SIGNS = (
    _sign(r"<(?:lora|lyco):[^<>]*>", "loads no LoRA; give its file with `loras`"),
    _sign(r"<hypernet:[^<>]*>", "loads no hypernetwork; none are supported"),
    _sign(r"\bembedding:[\w./-]+", "loads no embedding; give its file with `embeddings`, and write its word"),
    _sign(rf"^\s*(?!{RATIO})[\"']?\d+[\"']?\s*:\s*\S.*", "is no text at a frame; give it with `prompt_travel`"),
    _sign(r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]", "does not change the text; texts at frames are `prompt_travel`"),
    _sign(r"\[[^\[\]|]+(?:\|[^\[\]|]+)+\]", "does not alternate; texts at frames are `prompt_travel`"),
    _sign(r"\{[^{}|]*(?:\|[^{}|]*)+\}", "chooses nothing; give each prompt by itself"),
    _sign(r"__[\w/-]+__", "is no wildcard here; give each prompt by itself"),
    _sign(r"\bAND\b", "joins no two prompts; write one"),
    _sign(r"^\s*Negative prompt:.*", "is no negative prompt; give it with `negative_prompt`"),
    _sign(r"\bSteps: \d+, Sampler: [^,\n]+.*", "sets nothing; give `steps`, `scheduler`, `guidance_scale`, `seed`"),
    _sign(r"(?:^|\s)--[a-z]\w*\b(?:[ =][\d.:]+)?", "is no setting inside a prompt; give settings by themselves"),
)
"""Grammar of A1111's web page and its extensions, ComfyUI, Deforum and Midjourney."""
MAX_SHOWN = 60
"""Characters of a prompt that a message repeats."""


def unread(prompt: str) -> list[str]:
    """One sentence for each kind of sign in a prompt that is read as plain text.

    >>> unread("a fox <lora:paper:0.8>")
    ['<lora:paper:0.8> in a prompt is read as plain text: it loads no LoRA; give its file with `loras`']
    """
    return [
        f"{_shown(found[0].strip())} in a prompt is read as plain text: it {sign.advice}"
        for sign in SIGNS
        if (found := sign.pattern.search(prompt))
    ]


def _shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
