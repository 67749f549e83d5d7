"""Rows of JSON files: one object a line, an array of objects, or an object of captions by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from animatediff.errors import UserError
from animatediff.limits import MAX_JSON_BYTES
from animatediff.training.data.captions import FILE_KEYS, TEXT_KEYS, RepeatedKeyError, open_text, unique_keys
from animatediff.training.data.csv_rows import Row

CHUNK = 1 << 20
"""Characters that are read of an array at once, and that a row has at most: no record of a clip is so long."""
_CUT = 16
"""Characters before the end of a chunk at which an error may come from its end."""
_SPACE = " \t\r\n"


def json_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a JSON or JSONL file, whatever its suffix; lines and arrays may be of any length.

    Raises UserError for a file that holds no rows, and for an object of captions beyond `max_json_bytes`.
    """
    with open_text(path) as text:
        first = next((line for line in iter(lambda: text.readline(CHUNK + 1), "") if line.strip()), "").strip()
        text.seek(0)
        if first.startswith("["):
            yield from _array(path, text)
        elif len(first) <= CHUNK and _is_lines(first, path.suffix):
            yield from _lines(path, text)
        else:
            yield from _whole(path, text)


def _is_lines(first: str, suffix: str = ".jsonl") -> bool:
    """Whether a file with this first line, which begins no array, holds one value a line.

    >>> _is_lines('{"video": "a.mp4"}'), _is_lines('{"a.mp4": "a fox"}')
    (True, False)
    """
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return first != "{" and suffix.lower() != ".json"  # a whole file, over several lines
    return not isinstance(value, dict) or _named(value, bare=suffix.lower() == ".json") is None


def _lines(path: Path, text: TextIO) -> Iterator[Row]:
    for number, line in enumerate(iter(lambda: text.readline(CHUNK + 1), ""), 1):
        _check_length(path, f"line {number}", len(line))
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


def _array(path: Path, text: TextIO) -> Iterator[Row]:
    """Entries of an array, read one by one, as a listing may be larger than the memory."""
    decode, buffer, at, ended = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode, "", 0, False

    def more() -> None:
        nonlocal buffer, at, ended
        new = text.read(CHUNK)
        buffer, at, ended = buffer[at:] + new, 0, not new

    def sign() -> str:
        """The next character that is no space, passed over; "" at the end."""
        nonlocal at
        while True:
            while at < len(buffer) and buffer[at] in _SPACE:
                at += 1
            if at < len(buffer) or ended:
                break
            more()
        at += 1
        return buffer[at - 1 : at]

    sign()  # the bracket
    number, found = 0, sign()
    while found != "]":
        number, at = number + 1, at - 1
        while True:
            try:
                value, end = decode(buffer, at)
                if end < len(buffer) or ended:  # else a number may go on
                    break
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(buffer) - _CUT
                if ended or not is_cut:
                    raise _no_json(path, f"entry {number}: {error.msg}") from error
            except (ValueError, RecursionError) as error:
                raise _no_json(path, f"entry {number}: {error}") from error
            _check_length(path, f"entry {number}", len(buffer) - at)
            more()
        _check_length(path, f"entry {number}", end - at)
        at = end
        yield f"entry {number}", value if isinstance(value, dict) else "not a JSON object"
        if (found := sign()) == ",":
            found = sign()
            if found == "]":
                raise _no_json(path, f"a comma behind entry {number}, the last one")
        elif found != "]":
            raise _no_json(path, f"{'it ends' if not found else 'no comma'} behind entry {number}")
    if sign():
        raise _no_json(path, f"something stands behind the array of {number} entries")


def _check_length(path: Path, row: str, length: int) -> None:
    if length > CHUNK:
        raise UserError(f"{path}: {row} has more than {CHUNK:,} characters, as no record of a clip has")


def _no_json(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: cannot be read as JSON ({reason}); expected an array of objects, or one object a line")


def _whole(path: Path, text: TextIO) -> Iterator[Row]:
    MAX_JSON_BYTES.check(path.stat().st_size, f"{path}: is one JSON value of {path.stat().st_size:,} bytes")
    try:
        value = json.loads(text.read(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise _no_json(path, error) from error
    if isinstance(value, dict):
        lists = [
            key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)
        ]
        if (named := _named(value, bare=path.suffix.lower() == ".json")) is not None:
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


def _named(value: Mapping[str, Any], *, bare: bool) -> list[dict[str, Any]] | None:
    """Rows of an object of captions by name, {"a.mp4": "a fox"} or {"a.mp4": {"caption": "a fox"}}, if it is one.

    bare: whether names may be without their suffix, {"a": "a fox"}.
    """
    if not value or value.keys() & {*FILE_KEYS, *TEXT_KEYS, "videoid"}:
        return None
    if all(isinstance(inner, str) and (bare or "." in name) for name, inner in value.items()):
        return [{"file": name, "text": text} for name, text in value.items()]
    if all(isinstance(inner, dict) and inner.keys() & {*TEXT_KEYS} for inner in value.values()):
        return [{"file": name, **inner} for name, inner in value.items()]
    return None
