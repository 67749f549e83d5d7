"""Rows of a YAML, JSON, JSONL or CSV file, as they are written: the place of each, its values, or its fault."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.batch.cells import Columns
from animatediff.errors import UserError, brief
from animatediff.files import Lines, parse_json, parse_yaml, read_text
from animatediff.limits import MAX_CONFIG_BYTES
from animatediff.render.read.original import is_run
from animatediff.signatures import no_text

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl", ".ndjson", ".csv", ".tsv")
SHARED, ROWS = "shared", "rows"
"""Keys of a YAML or JSON file: settings of all rows, and the rows."""
DELIMITERS = (",", "\t", ";")
"""Of CSV, the likeliest first; spreadsheets of some countries write semicolons."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row as it is written."""

    place: str
    """Such as `line 7`."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """By the keys of the file."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Key -> its place: `column 'steps'`, or `line 9`."""
    fault: str = ""
    """The reason why there are no values."""


def read_rows(path: Path, separator: str = "|") -> tuple[dict[str, Any], Iterator[Row]]:
    """Settings that the file gives for all rows, and its rows.

    separator: between the entries of a list in a cell of CSV. Raises UserError, at once or while rows are taken, for a
    file that cannot be read as rows; what is wrong with one row is its `fault`.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file of rows ({', '.join(SUFFIXES)})")
    if suffix in (".csv", ".tsv"):
        return {}, _csv_rows(path, separator)
    if suffix in (".jsonl", ".ndjson"):
        return {}, _jsonl_rows(path)
    if suffix in (".yaml", ".yml"):
        return _of_tree(path, *parse_yaml(read_text(path), str(path)))
    if suffix == ".json":
        return _of_tree(path, parse_json(read_text(path), str(path)), {})
    raise UserError(f"{path}: is no file of rows by its name; expected one of {', '.join(SUFFIXES)}")


# -- YAML and JSON -----------------------------------------------------------------------------------------------------


def _of_tree(path: Path, data: Any, lines: Lines) -> tuple[dict[str, Any], Iterator[Row]]:
    shared: Any = {}
    at: tuple[Any, ...] = ()
    if isinstance(data, Mapping) and ROWS in data:
        if others := [key for key in data if key not in (SHARED, ROWS)]:
            place = f", line {lines[(others[0],)]}" if (others[0],) in lines else ""
            raise UserError(
                f"{path}{place}: {brief(others[0])} stands beside `{ROWS}`; settings of all rows stand under `{SHARED}`"
            )
        shared, data, at = data.get(SHARED) or {}, data[ROWS], (ROWS,)
        if not isinstance(shared, Mapping):
            raise UserError(f"{path}: {SHARED} holds {brief(shared)}; expected settings as `key: value`")
    if isinstance(data, Mapping) and data and not is_run(data) and all(isinstance(v, Mapping) for v in data.values()):
        number = {str(name): index for index, name in enumerate(data)}  # names and their rows
        below = {place[len(at) :]: line for place, line in lines.items() if place[: len(at)] == at and place != at}
        lines = {(*at, number[place[0]], *place[1:]): line for place, line in below.items() if place[0] in number}
        data = [{"id": str(name), **row} for name, row in data.items()]
    if not isinstance(data, list):
        raise UserError(
            f"{path}: expected rows, as a list or by their ids, or `{SHARED}` and `{ROWS}`, and found "
            f"{brief(data) if data else 'nothing'}; a single run is rendered by `animatediff animate --config`"
        )
    return dict(shared), _tree_rows(data, lines, at)


def _tree_rows(data: list[Any], lines: Lines, at: tuple[Any, ...]) -> Iterator[Row]:
    for index, values in enumerate(data):
        line = lines.get((*at, index))
        place = f"line {line}" if line else f"row {index + 1}"
        if not isinstance(values, Mapping):
            yield Row(place=place, fault=f"expected settings as `key: value`, found {brief(values)}")
            continue
        found = {str(key): lines.get((*at, index, key)) for key in values}
        places = {key: f"line {number}" for key, number in found.items() if number and number != line}
        yield Row(place=place, values={str(key): value for key, value in values.items()}, places=places)


# -- one row a line ----------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text in UTF-8, or in UTF-16 with its mark; each is bounded, their number is not."""
    longest = MAX_CONFIG_BYTES.value
    with path.open("rb") as raw:
        head = raw.read(512)
    if what := no_text(head):
        raise UserError(f"{path}: is {what}; expected rows as text ({', '.join(SUFFIXES)})")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    number = 0
    with path.open(encoding=encoding, newline="") as file:
        try:
            while line := file.readline(longest + 1):
                number += 1
                MAX_CONFIG_BYTES.check(len(line), f"{path}, line {number}: has {len(line):,} characters or more")
                yield line
        except UnicodeError as error:
            name = "UTF-16" if encoding == "utf-16" else "UTF-8"
            raise UserError(
                f"{path}: is not valid {name}, at or after line {number + 1}; save it as UTF-8 (CSV UTF-8)"
            ) from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            values = parse_json(line, "this line")
        except UserError as error:
            yield Row(place=place, fault=str(error).replace("this line: ", "", 1))
            continue
        if isinstance(values, Mapping):
            yield Row(place=place, values=values)
        else:
            yield Row(place=place, fault=f"expected one object with settings a line, found {brief(values)}")


def _csv_rows(path: Path, separator: str) -> Iterator[Row]:
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise UserError(f"{path}: is empty; expected a line of column names, and a row a clip below it")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else next((mark for mark in DELIMITERS if mark in first), ",")
    reader = csv.reader(_chained(first, lines), strict=True, delimiter=delimiter)
    begin = 1
    try:
        columns = Columns(next(reader), separator, f"{path}, line 1: ")
        begin = reader.line_num + 1
        for cells in reader:
            place = f"line {begin}"
            begin = reader.line_num + 1
            if any(cell.strip() for cell in cells):
                yield _csv_row(place, columns, cells)
    except csv.Error as error:
        reason = "a quote that is never closed" if "unexpected end" in str(error) else f"{error}"
        raise UserError(f"{path}, line {begin}: is not valid CSV ({reason})") from error


def _csv_row(place: str, columns: Columns, cells: list[str]) -> Row:
    try:
        return Row(place=place, values=columns.values(cells), places=columns.places)
    except UserError as error:
        return Row(place=place, fault=str(error))


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines
