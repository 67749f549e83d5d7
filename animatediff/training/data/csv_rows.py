"""Rows of CSV files as people have them: UTF-8 or UTF-16, any separator and quotes, each row accounted for.

A row that is no proper CSV is read where only one reading is possible, or else yielded as a fault; it never takes the
rows behind it along.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, nearest
from animatediff.training.data.captions import FILE_KEYS, TEXT_KEYS, open_text

WEBVID = ("videoid", "name")
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
"""What may stand between columns, the likeliest first; spreadsheets of many countries write semicolons."""
_STATED = re.compile(r'\s*"?sep=([^\s"]|\t)"?\s*')
"""A line with which spreadsheets state what stands between columns."""

Row = tuple[str, Mapping[str, Any] | str]
"""Place of a row ("line 7"), and its values, or its fault."""
_HIDDEN = "\ue000"
"""Stands for an escaped separator while a row is read; no text has it."""
OPEN_QUOTE = "a quote that is never closed"
SWALLOWED = "a quote that is never closed, with other rows inside it"


def csv_rows(path: Path, is_row: Callable[[Mapping[str, Any]], bool]) -> Iterator[Row]:
    """Read the rows of a CSV file by the names of its columns.

    is_row: whether values name a file that is there, by which a row that an open quote has swallowed is told from the
    second line of a caption. Raises UserError without columns for videos and captions.
    """
    with open_text(path, newline="") as file:
        feed = _Lines(file)
        records = _Records(feed, _delimiter(feed, path), is_row)
        _check_columns(path, records.header)
        yield from records.rows()


def _delimiter(feed: _Lines, path: Path) -> str:
    """What separates the columns: what the file states, or that by which the header has the columns needed."""
    if stated := _STATED.fullmatch(feed.peek()):
        next(feed)
        return stated[1]
    columns = {mark: split(feed.peek(), mark) or [] for mark in DELIMITERS}
    if found := next((mark for mark, header in columns.items() if _has_columns(header)), None):
        return found
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark, header in columns.items() if len(header) > 1), ",")


class _Records:
    """The records of a CSV file. `header` holds the names of its columns, those of the first record."""

    def __init__(self, feed: _Lines, delimiter: str, is_row: Callable[[Mapping[str, Any]], bool]) -> None:
        self._feed, self._delimiter, self._is_row = feed, delimiter, is_row
        self._reader = csv.reader(feed, strict=True, delimiter=delimiter)
        self.header: list[str] = []
        first = self._next()
        self.header = [name.strip() for name in first] if isinstance(first, list) else []

    def rows(self) -> Iterator[Row]:
        """The place of each row behind the header, and its values by column or its fault."""
        while True:
            begin = self._feed.number + 1
            values = self._next()
            if values is None:
                return
            if not isinstance(values, list):
                yield f"line {begin}", values
            elif values:
                yield f"line {begin}", self._by_column(values)

    def _next(self) -> list[str] | str | None:
        """Values of the next record, or its fault; None at the end. A faulty one ends with its first line."""
        taken = self._feed.taken
        taken.clear()
        try:
            values = next(self._reader)
            fault = SWALLOWED if len(taken) > 1 and any(self._is_whole(line) for line in taken[1:]) else None
        except StopIteration:
            return None
        except csv.Error as error:
            values, fault = [], OPEN_QUOTE if '"' in taken[0] else f"not valid CSV ({error})"
        other = self._other_reading(taken[0], values if fault is None else None)
        if fault is None and other is None:
            return values
        first, *rest = taken
        self._feed.put_back(rest)
        if other is not None:
            return other
        return fault if fault in (SWALLOWED, None) else split(first, self._delimiter) or fault

    def _other_reading(self, line: str, values: list[str] | None) -> list[str] | None:
        """Values of a line that is no CSV of the usual kind, if that makes a row of it.

        values: of the usual reading, None where it is faulty. Quotes may be escaped by backslashes, or have a space
        before them; separators may be escaped by backslashes where the row is too long otherwise.
        """
        mark, is_short = self._delimiter, values is None or len(values) <= len(self.header)
        fits = values is not None and len(values) == len(self.header)
        if '\\"' in line and not fits:
            return self._parsed(line.replace('\\"', '""'))
        if re.search(rf'{re.escape(mark)}[ \t]+"', line) and mark != "\t":
            return self._parsed(line, skipinitialspace=True)
        if f"\\{mark}" in line and not is_short:
            found = self._parsed(line.replace(f"\\{mark}", _HIDDEN))
            found = found and [value.replace(_HIDDEN, mark) for value in found]
            return found if found and self._is_row(dict(zip(self.header, found, strict=True))) else None
        return None

    def _parsed(self, line: str, **dialect: Any) -> list[str] | None:
        try:
            (values,) = csv.reader([line], strict=True, delimiter=self._delimiter, **dialect)
        except csv.Error:
            return None
        return values if len(values) == len(self.header) else None

    def _is_whole(self, line: str) -> bool:
        """Whether a line is a row by itself, a closing quote at its end aside."""
        values = split(line, self._delimiter) or split(line.replace('"', ""), self._delimiter) or []
        return len(values) >= len(self.header) and self._is_row(dict(zip(self.header, values, strict=False)))

    def _by_column(self, values: list[str]) -> Mapping[str, Any] | str:
        header = self.header
        if len(values) < len(header):
            return f"{len(values)} values for {len(header)} columns"
        while len(values) > len(header) and not values[-1].strip():
            values.pop()
        if surplus := len(values) - len(header):
            # Separators in the last column, when that is the caption, can only be its own.
            if header[-1] not in (*TEXT_KEYS, "name"):
                mark = DELIMITERS.get(self._delimiter, "separator")
                return f"{len(values)} values for {len(header)} columns (a {mark} in a caption without quotes?)"
            values = [*values[: -surplus - 1], self._delimiter.join(values[-surplus - 1 :])]
        return dict(zip(header, values, strict=True))


class _Lines:
    """Lines of a file that can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: deque[str] = deque()
        self.taken: list[str] = []
        """Lines given out since this was last cleared."""
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        self.number += 1
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)

    def peek(self) -> str:
        """The next line, "" at the end."""
        if not self._back and (line := next(self._lines, None)) is not None:
            self._back.append(line)
        return self._back[0] if self._back else ""


def split(line: str, delimiter: str) -> list[str] | None:
    """Values of one line on which a quote ends at the next one, wherever it stands; None where one stays open.

    Quotes that are not round a whole value belong to it.

    >>> split('a,"x, y","b" c', ",")
    ['a', 'x, y', '"b" c']
    """
    values, begin, inside = [], 0, False
    line = line.rstrip("\r\n")
    for at, letter in enumerate(line + delimiter):
        if letter == '"':
            inside = not inside
        elif letter == delimiter and not inside and at >= begin:
            values.append(_value(line[begin:at]))
            begin = at + 1
    return None if inside else values


def _value(text: str) -> str:
    stripped = text.strip()
    whole = len(stripped) > 1 and stripped[0] == stripped[-1] == '"'
    if whole and '"' not in stripped[1:-1].replace('""', ""):
        return stripped[1:-1].replace('""', '"')
    return text


def _has_columns(header: Sequence[str]) -> bool:
    names = {name.strip() for name in header}
    return set(WEBVID) <= names or bool(set(FILE_KEYS) & names and set(TEXT_KEYS) & names)


def _known(name: str) -> str | None:
    """The column that a name in other letters means."""
    plain = name.lower().replace(" ", "_")
    return plain if plain in {*FILE_KEYS, *TEXT_KEYS} else None


def _check_columns(path: Path, header: Sequence[str]) -> None:
    if twice := [name for number, name in enumerate(header) if name and name in header[:number]]:
        raise UserError(f"{path}: has two columns {twice[0][:40]}; rename or remove one")
    if _has_columns(header):
        return
    expected = f"videoid, name and, where videos lie in folders, page_dir; or one of {', '.join(FILE_KEYS[:6])}" + (
        f" with one of {', '.join(TEXT_KEYS[:3])}"
    )
    if not header:
        raise UserError(f"{path}: is empty; expected a first line with the columns {expected}")
    shown = ", ".join(name[:30] for name in header[:8])
    missing = [name for name in WEBVID if name not in header]
    hint = ""
    if close := [f"{h} -> {n}" for h in header if (n := nearest(h, missing) or _known(h)) and h != n]:
        hint = f". Did you mean {', '.join(close)}?"
    elif any(name[:1].isdigit() or " " in name for name in header):
        hint = ". This looks like a row: is the line with the names of the columns missing?"
    raise UserError(
        f"{path}: columns missing: {', '.join(missing)}; found {len(header)}: {shown}; expected {expected}{hint}"
    )
