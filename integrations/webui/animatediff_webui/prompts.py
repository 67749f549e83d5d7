"""Prompts as users of the WebUIs write them: lines `0: text` between head and tail, MotionLoRAs as `<lora:...>`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from animatediff.errors import UserError
from animatediff.prompts import PromptTravel
from animatediff.prompts.lines import lines_with_frames

_KEY = re.compile(r"^\s*(\d{1,9})\s*:\s*(.*)$")
_NETWORK = re.compile(r"<\w+:[^>]+>")
_LORA = re.compile(r"<lora:([^>]+)>", re.IGNORECASE)


def read_prompt(prompt: str, *, loop: bool = False) -> str | PromptTravel:
    """A prompt with lines `FRAME: text` as one that travels; any other as it is.

    Lines before the first of them stand before every text, lines after the last behind it. Networks such as
    `<lora:name:1>` that a text names act on the whole clip, as the host has no other: they go to the head. Between
    two frames the prompt blends all the way. Raises UserError for a line in between, and for a frame given twice.

    >>> travel = read_prompt("a hill\\n0: spring\\n8: winter\\noil painting")
    >>> travel.whole(travel.texts[8])
    'a hill, winter, oil painting'
    """
    lines = [line for line in prompt.splitlines() if line.strip()]
    keys = lines_with_frames(lines, _KEY)
    if not keys:
        return prompt
    first, last = min(keys), max(keys)
    if stray := [place for place in range(first, last) if place not in keys]:
        raise UserError(
            f"the prompt's line {lines[stray[0]]!r} stands between lines of frames; put it before the first of them, "
            "or behind the last, so that it counts for all frames"
        )
    texts: dict[int, str] = {}
    networks: list[str] = []
    for found in keys.values():
        frame = int(found[1])
        if frame in texts:
            raise UserError(f"the prompt has two lines for frame {frame}; keep one of them")
        networks += _NETWORK.findall(found[2])
        texts[frame] = re.sub(r"\s{2,}", " ", _NETWORK.sub("", found[2])).strip()
    head = " ".join([", ".join(line.strip().strip(",") for line in lines[:first]), *dict.fromkeys(networks)]).strip()
    tail = ", ".join(line.strip().strip(",") for line in lines[last + 1 :])
    return PromptTravel(texts, head=head, tail=tail, hold=0.0, loop=loop)


def first_texts(travel: PromptTravel, num_frames: int) -> tuple[list[str], list[str], list[float]]:
    """Of each frame: its text, the text that it blends to, and how much of that."""
    blends = travel.blends(num_frames)
    return [blend.first for blend in blends], [blend.second for blend in blends], [blend.share for blend in blends]


def take_motion_loras(prompt: str, find: Callable[[str], Path | None]) -> tuple[str, dict[Path, float]]:
    """A prompt without its MotionLoRAs, and the files of these with their strengths; other LoRAs stay for the host.

    find: the file of a name if it is a MotionLoRA, else None. Of a LoRA that is named twice strengths add up, as the
    host has it. Raises UserError for a strength that is no number.
    """
    found: dict[Path, float] = {}

    def take(match: re.Match[str]) -> str:
        name, *arguments = match[1].split(":")
        path = find(name.strip())
        if path is None:
            return match[0]
        found[path] = found.get(path, 0.0) + _strength(match[0], arguments)
        return ""

    rest = _LORA.sub(take, prompt)
    if not found:
        return prompt, {}
    return re.sub(r"[^\S\n]{2,}", " ", re.sub(r"(,\s*)(?=,)", "", rest)).strip().strip(",").strip(), found


def _strength(tag: str, arguments: list[str]) -> float:
    """The strength on the UNet: `<lora:name:te:unet>`, `<lora:name:unet=0.5>`, `<lora:name:0.8>`, or 1."""
    named = dict(part.split("=", 1) for part in arguments if "=" in part)
    plain = [part for part in arguments if "=" not in part]
    unread = [name for name in named if name not in ("unet", "te", "dyn")]
    text = named.get("unet", plain[1] if len(plain) > 1 else plain[0] if plain else named.get("te", "1"))
    try:
        if unread:
            raise ValueError(unread[0])
        if not math.isfinite(strength := float(text)):
            raise ValueError(text)
        return strength
    except ValueError as error:
        raise UserError(f"{tag}: a MotionLoRA is written <lora:name:strength>, such as <lora:name:0.8>") from error
