"""Prompt schedules of FizzNodes as texts at frames."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from .graph import Link

NEGATIVE = "--neg"
ENTRY = re.compile(r'"\s*(?P<frame>[^"]*?)\s*"\s*:\s*(?P<text>"(?:[^"\\]|\\.)*")', re.DOTALL)


@dataclass
class Written:
    """Inputs of AnimateDiff Prompt Travel, and what they do not say."""

    inputs: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def schedule(text: Any, pre: Any, app: Any, num_frames: Any) -> Written:
    """The positive prompts. Text before and behind is put into every line, joined by blanks as there."""
    if any(isinstance(part, Link) for part in (text, pre, app)):
        inputs = {"text": text, "head": pre, "tail": app}
        joined = [name for name, part in (("pre_text", pre), ("app_text", app)) if part]
        notes = [f"{' and '.join(joined)} are joined by commas here, by blanks there"] if joined else []
        return Written({key: value for key, value in inputs.items() if value != ""}, notes)
    entries = _entries(text)
    if entries is None:
        return Written(
            {"text": text, **{key: part for key, part in (("head", pre), ("tail", app)) if part}},
            [
                "its text is no schedule that is read here (expressions, formulas and single backslashes are not); "
                "write frames and texts"
            ],
        )
    parts = {frame: _positive(pre, line, app) for frame, line in entries.items()}
    return _fitted(parts, num_frames)


def negative_text(text: Any, pre: Any, app: Any, num_frames: Any) -> str | dict[str, Any]:
    """The negative prompts: one text, or the inputs of a travel where they change."""
    entries = None if any(isinstance(part, Link) for part in (text, pre, app)) else _entries(text)
    if entries is None:
        return ""
    parts = {frame: " ".join(_halves(part)[1] for part in (pre, line, app)).strip() for frame, line in entries.items()}
    return next(iter(parts.values())) if len(set(parts.values())) == 1 else _fitted(parts, num_frames).inputs


def _positive(pre: str, line: str, app: str) -> str:
    return " ".join(_halves(part)[0] for part in (pre, line, app)).strip()


def _halves(text: str) -> tuple[str, str]:
    positive, _, negative = str(text).partition(NEGATIVE)
    return positive, negative


def _entries(text: Any) -> dict[int, str] | None:
    """Frames and texts; None for what is no plain schedule."""
    found: dict[int, str] = {}
    for entry in ENTRY.finditer(str(text)):
        if not entry["frame"].isdigit() or "`" in entry["text"]:
            return None
        try:
            found[int(entry["frame"])] = json.loads(entry["text"], strict=False)
        except ValueError:  # a backslash alone, as in \(
            return None
    return dict(sorted(found.items())) or None


def _fitted(parts: dict[int, str], num_frames: Any) -> Written:
    """Texts at frames of the clip, a line each."""
    notes = []
    if isinstance(num_frames, int) and (beyond := [frame for frame in parts if frame >= num_frames]):
        first = {0: next(iter(parts.values()))}
        parts = {frame: part for frame, part in parts.items() if frame < num_frames} or first
        notes.append(
            f"texts at {', '.join(map(str, beyond))} are left out: the clip has {num_frames} frames (there it begins "
            "to blend towards them)"
        )
    lines = [f'"{frame}": {json.dumps(part, ensure_ascii=False)}' for frame, part in parts.items()]
    return Written({"text": ",\n".join(lines)}, notes)
