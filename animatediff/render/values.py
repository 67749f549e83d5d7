"""Short forms of settings, as people write them in files, in Python and on the command line. No imports of weight.

`FILE:SCALE`, `FILE:TOKEN`, `FRAME=FILE`, `FRAME=TEXT`, lists that may be one entry: each is read here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from animatediff.errors import UserError
from animatediff.files import WEIGHT_SUFFIXES
from animatediff.frames import at_frame, parse_curve
from animatediff.memory.sizes import parse_size
from animatediff.prompts.travel import frame_of

curve = parse_curve


def size(value: Any) -> Any:
    """An amount of memory, or a number of bytes, as the text that a request holds. Raises UserError."""
    if value is None:
        return None
    parse_size(value)
    return str(value).strip()


def listed(value: Any) -> Sequence[Any]:
    """A list as it is; any other value as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def level(value: Any) -> Any:
    """A level as it is; `off` is false where YAML has read it. Raises UserError for true, which says no level."""
    if value is True:
        raise UserError("expected a level, such as balanced")
    return "off" if value is False else value


def weight(value: Any) -> Any:
    """The name of a file as an entry with a path."""
    return {"path": value} if isinstance(value, str) else value


def weights(value: Any) -> Any:
    """The same for one or more files."""
    return [weight(item) for item in listed(value)]


def scaled_file(text: str) -> dict[str, Any]:
    """`FILE:0.8` as a file and its scale. Raises UserError for a scale that is no number.

    A file that is there by the whole text is meant by it, and what has the form of a path stands behind a drive letter.

    >>> scaled_file("a.safetensors:0.5"), scaled_file("C:/a.safetensors")
    ({'path': 'a.safetensors', 'scale': 0.5}, {'path': 'C:/a.safetensors'})
    """
    path, colon, scale = text.rpartition(":")
    is_file = "/" in scale or "\\" in scale or os.path.splitext(scale)[1].lower() in WEIGHT_SUFFIXES
    if not (colon and path.strip()) or is_file or os.path.exists(text):
        return {"path": text}
    try:
        return {"path": path, "scale": float(scale)}
    except ValueError:
        found = f"{scale.strip()!r} is no number" if scale.strip() else "is missing"
        raise UserError(f"{text}: the strength behind the colon {found}; expected one such as {path}:0.8") from None


def scaled_files(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The same for a list."""
    return [scaled_file(text) for text in texts]


def named_files(texts: Sequence[str]) -> list[dict[str, Any]]:
    """`FILE:TOKEN` as a file and the word that it stands for.

    >>> named_files(["bad.pt:ugly", "C:/bad.pt"])
    [{'path': 'bad.pt', 'token': 'ugly'}, {'path': 'C:/bad.pt'}]
    """
    found = []
    for text in texts:
        path, colon, token = text.rpartition(":")
        named = colon and path and not set(token) & set("/\\.")
        found.append({"path": path, "token": token} if named else {"path": text})
    return found


def texts_at_frames(items: Sequence[str]) -> dict[str, str]:
    """`12=summer` as a frame and its text; the text may have quotes of its own around it.

    >>> texts_at_frames(["12=summer", '24="autumn, rain"'])
    {'12': 'summer', '24': 'autumn, rain'}
    """
    found: dict[str, str] = {}
    for item in items:
        if "=" not in item:
            raise UserError(f'expected a frame and a text, as in 12="summer", got {item!r}')
        frame, text = at_frame(item)
        if (key := str(frame_of(str(frame)))) in found:
            raise UserError(f"frame {key} has two texts, {found[key]!r} and {text!r}; keep one of them")
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        found[key] = text[1:-1] if quoted else text
    return found


def keyframes(value: Any) -> Any:
    """`{0: image}`, or a list of `0=a.png`, as entries of frame and image."""
    if isinstance(value, Mapping) and not {"frame", "path"} & set(value):
        return [{"frame": frame, "path": image} for frame, image in value.items()]
    return [keyframe(item) if isinstance(item, str) else item for item in listed(value)]


def keyframe(text: str) -> dict[str, Any]:
    """`8=c.png` as a frame and its image. Raises UserError for anything else.

    >>> keyframe("-1=end.png")
    {'frame': -1, 'path': 'end.png'}
    """
    try:
        frame, path = at_frame(text)
    except UserError:
        frame, path = 0, ""
    if not path.strip():
        raise UserError(f"expected FRAME=FILE, such as 8=c.png, got {text!r}")
    return {"frame": frame, "path": path.strip()}


def videos(value: Any) -> Any:
    """One video, or a list of them; frames in a list of their own are one video."""
    entries = listed(value)
    frames = bool(entries) and all(_is_frame(entry) for entry in entries)
    return [value] if frames and isinstance(value, list | tuple) else entries


def _is_frame(value: Any) -> bool:
    """Whether a value is one image in memory, rather than a file or a video."""
    if isinstance(value, str | list | tuple | Mapping):
        return False
    return len(getattr(value, "shape", ())) in (0, 2, 3)


def spreads(value: Any) -> Any:
    """One spread for all ControlNets, or a list of them; each a list of numbers, or a text such as "0.5,0.3"."""
    if not isinstance(value, list | tuple) or all(isinstance(item, int | float) for item in value):
        value = [value]
    return [_spread(item) for item in value]


def _spread(value: Any) -> Any:
    if isinstance(value, str):
        return None if value.strip() in ("", "none") else [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value
