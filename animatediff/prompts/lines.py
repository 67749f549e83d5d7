"""Texts at frames as people write them into a text field: `0: spring`, or the JSON of a prompt schedule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from animatediff.errors import UserError
from animatediff.parse import parse_json
from animatediff.prompts.travel import frame_of, texts_at

ENTRY = re.compile(r'^\s*"?(?P<frame>[+-]?\d+)"?\s*[:=]\s*(?P<text>.*?)\s*$')
RATIO = r"(?!0:)\d+:\d+(?!\w)"
"""Begins a line that looks like a frame with its text, and is a ratio or a time: `16:9 photo`, `12:30 at night`."""
_RATIO = re.compile(rf"\s*{RATIO}")
NO_FRAME = re.compile(r'^\s*"?(?P<number>[+-]?\d*\.\d+)"?\s*[:=]')
QUOTED = re.compile(r'^"(?:[^"\\]|\\.)*"')


class TravelText(NamedTuple):
    """What a text field says: texts at frames, and what stands before and behind all of them."""

    texts: dict[int, str]
    head: str
    tail: str


def read_travel(text: str, *, framed: bool = False) -> TravelText:
    """Read texts at frames from lines `FRAME: text` or `"FRAME": "text",`, or from a JSON object.

    Lines above the first one with a frame are the head of every prompt, lines below the last one the tail. A text
    without any frame is the text of frame 0, or an error where it is `framed`. What is a frame and what a ratio,
    `lines_with_frames` tells. Raises UserError for a line between two with frames that has none, a frame that is given
    twice or is no whole number from 0, JSON that is none, and expressions in backquotes.

    >>> read_travel("best quality\\n0: spring\\n8: summer\\noil painting")
    TravelText(texts={0: 'spring', 8: 'summer'}, head='best quality', tail='oil painting')
    >>> read_travel('"0": "spring",\\n"8": "summer"').texts
    {0: 'spring', 8: 'summer'}
    """
    if "`" in text:
        raise UserError("expressions in backquotes are not read; write the weight as a number, as in (fox:1.2)")
    if text.lstrip().startswith("{"):
        found = parse_json(text, "texts at frames")
        if not isinstance(found, Mapping):
            raise UserError('texts at frames: expected {"0": "spring", "8": "summer"}')
        return TravelText(dict(sorted(texts_at(found).items())), "", "")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if wrong := next((found for _, line in lines if (found := NO_FRAME.match(line))), None):
        frame_of(wrong["number"])
    found_in = lines_with_frames([line for _, line in lines], ENTRY)
    entries = [(*lines[place], found) for place, found in found_in.items()]
    if not entries and framed:
        line = lines[0][1] if lines else ""
        raise UserError(f"{line!r} has no frame; write it as in 8: {line or 'summer'}")
    if not entries:
        return TravelText({0: ", ".join(line for _, line in lines)}, "", "")
    first, last = entries[0][0], entries[-1][0]
    with_frames = {number for number, _, _ in entries}
    if between := [(number, line) for number, line in lines if first < number < last and number not in with_frames]:
        number, line = between[0]
        how = f"as in {line.replace(':', ': ', 1)}" if _RATIO.match(line) else f"as in 8: {line}"
        raise UserError(f"line {number}, {line!r}, has no frame; write it {how}, or above or below the others")
    pairs = [pair for number, line, found in entries for pair in _pairs(found, line, number)]
    texts: dict[int, str] = {}
    for frame, value in pairs:
        (key,) = texts_at({frame: value})
        if key in texts:
            raise UserError(f"frame {key} has two texts, {texts[key]!r} and {value!r}; keep one of them")
        texts[key] = value
    return TravelText(
        dict(sorted(texts.items())),
        ", ".join(line for number, line in lines if number < first),
        ", ".join(line for number, line in lines if number > last),
    )


def lines_with_frames(lines: Sequence[str], entry: re.Pattern[str]) -> dict[int, re.Match[str]]:
    """Find the lines that are the text of a frame: {place in `lines`: match of `entry`}.

    A line that begins with a ratio or a time is one only among others that have no space behind their colon either.

    >>> list(lines_with_frames(["16:9 photo", "0: spring", "8: summer"], ENTRY))
    [1, 2]
    >>> list(lines_with_frames(["0:1girl", "8:2 girls"], ENTRY))
    [0, 1]
    """
    found = {place: match for place, line in enumerate(lines) if (match := entry.match(line))}
    ratios = {place for place in found if _RATIO.match(lines[place])}
    clear = [lines[place] for place in found.keys() - ratios]
    if clear and all(re.match(r"[^:=]*:\S", line) for line in clear):
        return found
    return {place: match for place, match in found.items() if place not in ratios}


def _pairs(found: re.Match[str], line: str, number: int) -> list[tuple[str, str]]:
    """Frame and text of a line; several where it holds several in quotes, as one line of a schedule may."""
    if not (quoted := QUOTED.match(found["text"])):
        return [(found["frame"], found["text"])]
    pairs = [(found["frame"], _unquoted(quoted[0], number))]
    rest = found["text"][quoted.end() :].strip().removeprefix(",").strip()
    if rest:
        if not (more := ENTRY.match(rest)):
            raise UserError(
                f'line {number}, {line!r}: expected a frame and a text behind the comma, as in "8": "summer"'
            )
        pairs += _pairs(more, rest, number)
    return pairs


def _unquoted(text: str, number: int) -> str:
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise UserError(f"line {number}: {text} is no text in quotes ({error.msg})") from error
