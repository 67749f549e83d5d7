"""Rows of JSON files: one object a line, an array of objects, or an object of captions by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.training.data.captions import FILE_KEYS, HEAD, TEXT_KEYS, RepeatedKeyError, encoding_of, unique_keys
from animatediff.training.data.csv_rows import Row

MAX_BYTES = 1 << 30
"""Size of a JSON file that is read as one value; JSON lines may be of any size."""


def json_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a JSON or JSONL file, whatever its suffix. Raises UserError for a file that holds no rows."""
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(HEAD))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        with open(path, encoding=encoding, errors=errors) as text:
            first = next((line for line in text if line.strip()), "").strip()
            if _is_lines(first, path.suffix):
                text.seek(0)
                yield from _lines(text)
                return
        yield from _whole(path, encoding, errors)
    except UnicodeError as error:
        raise UserError(f"{path}: is not valid {encoding.upper()}; save it as UTF-8") from error


def _is_lines(first: str, suffix: str = ".jsonl") -> bool:
    """Whether a file with this first line holds one value a line; an array or object of them is told by its brackets.

    >>> _is_lines('{"video": "a.mp4"}'), _is_lines('[{"video": "a.mp4"},'), _is_lines('{"a.mp4": "a fox"}')
    (True, False, False)
    """
    if first.startswith("["):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return first != "{" and suffix.lower() != ".json"  # a whole file, over several lines
    return not isinstance(value, dict) or _named(value) is None


def _lines(lines: Any) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", _parsed(line)


def _parsed(text: str) -> Mapping[str, Any] | str:
    try:
        values = json.loads(text, object_pairs_hook=unique_keys)
    except RepeatedKeyError as error:
        return f"{error}"
    except (ValueError, RecursionError):
        return "not JSON"
    return values if isinstance(values, dict) else "not a JSON object"


def _whole(path: Path, encoding: str, errors: str) -> Iterator[Row]:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: has more than {MAX_BYTES >> 30} GB; write one JSON object a line (.jsonl)")
    try:
        value = json.loads(path.read_text(encoding, errors), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); expected an array of objects, or one object a line"
        ) from error
    if isinstance(value, dict):
        lists = [
            key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)
        ]
        if (named := _named(value)) is not None:
            value = named
        elif len(lists) == 1 and not value.keys() & {*FILE_KEYS}:
            value = value[lists[0]]
        elif lists:
            raise UserError(f"{path}: holds several lists ({', '.join(lists[:6])}); write one list of the clips")
        else:
            value = [value]
    if not isinstance(value, list):
        raise UserError(f"{path}: holds no list; expected an array of objects, or one object a line")
    for number, inner in enumerate(value, 1):
        yield f"entry {number}", inner if isinstance(inner, dict) else "not a JSON object"


def _named(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of an object of captions by name, {"a.mp4": "a fox"} or {"a.mp4": {"caption": "a fox"}}, if it is one."""
    if not value or value.keys() & {*FILE_KEYS, *TEXT_KEYS, "videoid"}:
        return None
    if all(isinstance(inner, str) and "." in name for name, inner in value.items()):
        return [{"file": name, "text": text} for name, text in value.items()]
    if all(isinstance(inner, dict) and inner.keys() & {*TEXT_KEYS} for inner in value.values()):
        return [{"file": name, **inner} for name, inner in value.items()]
    return None
