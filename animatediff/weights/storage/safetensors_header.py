"""The header of a safetensors file: refused where the safetensors library refuses it, unknown dtypes excepted."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from animatediff.weights.storage.dtypes import ITEM_SIZES, PACKED_BITS, SAFETENSORS_DTYPES

LIBRARY_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""
MAX_DEPTH = 127  # of nested brackets, as in the library's JSON reader
_LIMIT = 2**64  # numbers are unsigned and of 64 bits
_FIELDS = ("dtype", "shape", "data_offsets")
_NAME = re.compile(r"[A-Za-z]\w{0,31}", re.ASCII)


class HeaderError(ValueError):
    """The header is none that the safetensors library reads; `args[0]` says why."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the header."""

    dtype: str
    """In torch's name, or in the header's own where torch has none."""
    shape: tuple[int, ...]
    begin: int
    """Offset of its first byte after the header."""
    end: int


class _Object(list[tuple[str, Any]]):
    """A JSON object as the pairs it is written with: a name may be there twice."""


def parse_header(text: bytes) -> tuple[dict[str, Entry], dict[str, str], int]:
    """Tensors, metadata, and bytes of all tensors, from the JSON text of a header. Raises HeaderError.

    A dtype that the library does not know is passed, as it may be of a later version; its size is taken from its
    offsets.
    """
    try:
        pairs = json.loads(
            text.decode("utf-8"), object_pairs_hook=_Object, parse_constant=_no_constant, parse_float=_float,
            parse_int=_int,
        )  # fmt: skip
    except RecursionError:
        raise HeaderError("brackets nested too deeply") from None
    except ValueError as error:
        raise HeaderError(f"no JSON text: {error}") from None
    if not isinstance(pairs, _Object):
        raise HeaderError("no JSON object")
    metadata: dict[str, str] | None = None
    entries: dict[str, Entry] = {}
    for name, value in pairs:
        _check_text(name)
        if name == "__metadata__":
            if metadata is not None:
                raise HeaderError("two entries of metadata")
            metadata = _metadata(value)
        else:
            entries[name] = _entry(name, value)
    return entries, metadata or {}, _end(entries)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number out of range")
    return number


def _int(digits: str) -> int | float:
    if digits == "-0" or len(digits) > 20 or not -(2**63) <= int(digits) < _LIMIT:
        return _float(digits)
    return int(digits)


def _check_text(text: str) -> None:
    """Escapes of half a surrogate pair pass Python's JSON reader, but are no text."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise HeaderError("an escape of half a character") from None


def _check_rest(value: Any, depth: int) -> None:
    """A value that nobody reads must be JSON all the same."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list):
        if depth > MAX_DEPTH:
            raise HeaderError("brackets nested too deeply")
        for item in value:
            for part in item if isinstance(value, _Object) else (item,):
                _check_rest(part, depth + 1)


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, _Object) or not all(isinstance(text, str) for _, text in value):
        raise HeaderError("metadata that is not text")
    for pair in value:
        for text in pair:
            _check_text(text)
    return dict(value)


def _entry(name: str, value: Any) -> Entry:
    if isinstance(value, _Object):
        for field, content in value:
            if field not in _FIELDS:
                _check_text(field)
                _check_rest(content, 3)
        fields = [content for wanted in _FIELDS for field, content in value if field == wanted]
        if sorted(field for field, _ in value if field in _FIELDS) != sorted(_FIELDS):
            raise HeaderError(f"{name[:80]!r} has not each of dtype, shape and data_offsets once")
    elif isinstance(value, list) and len(value) == 3:  # the library takes the three by their order as well
        fields = value
    else:
        raise HeaderError(f"{name[:80]!r} is no description of a tensor")
    dtype, shape, offsets = fields
    if isinstance(dtype, _Object) and len(dtype) == 1 and dtype[0][1] is None:
        dtype = dtype[0][0]
    if not isinstance(dtype, str) or not _NAME.fullmatch(dtype):
        raise HeaderError(f"{name[:80]!r} has no name for its dtype")
    for numbers in (shape, offsets):
        if isinstance(numbers, _Object) or not isinstance(numbers, list):
            raise HeaderError(f"{name[:80]!r} has no list where numbers belong")
        if not all(type(number) is int and 0 <= number < _LIMIT for number in numbers):
            raise HeaderError(f"{name[:80]!r} has numbers that are no sizes")
    if len(offsets) != 2:
        raise HeaderError(f"{name[:80]!r} has {len(offsets)} offsets in place of two")
    return Entry(SAFETENSORS_DTYPES.get(dtype, dtype), tuple(shape), *offsets)


def _end(entries: dict[str, Entry]) -> int:
    """The end of the last tensor. Raises HeaderError unless they follow each other without gap or overlap."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end or entry.end < entry.begin:
            what = "overlaps" if entry.begin < end else "does not follow" if entry.begin > end else "ends before"
            raise HeaderError(f"{name[:80]!r} {what} the tensor before it")
        end = entry.end
        count = 1
        for side in entry.shape:
            count *= side
            if count >= _LIMIT:
                raise HeaderError(f"{name[:80]!r} has more elements than can be counted")
        bits = PACKED_BITS.get(entry.dtype) or 8 * ITEM_SIZES.get(entry.dtype, 0)
        if not bits:  # of a later version
            continue
        if count * bits >= _LIMIT or count * bits != 8 * (entry.end - entry.begin):
            raise HeaderError(
                f"{name[:80]!r} has {entry.end - entry.begin} bytes for shape {list(entry.shape)[:16]} of {entry.dtype}"
            )
    return end
