"""Rows of figures in files that a later run goes on with, and the Markdown table that is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def file_of(name: str, folder: Path) -> Path:
    """The file of a column of the table, one JSON object a line."""
    return folder / f"{name.replace(', ', '_').replace(' ', '_')}.jsonl"


def rows_of(path: Path) -> list[Row]:
    """The rows that were written, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def columns_of(names: Iterable[str], folder: Path) -> dict[str, list[Row]]:
    """The rows of each column that there are any of."""
    return {name: rows for name in names if (rows := rows_of(file_of(name, folder)))}


def counted(name: str, which: Callable[[Row], bool]) -> Callable[[Sequence[Row]], str]:
    """A cell that says of how many such rows `name` holds; rows in which it is None do not count."""

    def cell(rows: Sequence[Row]) -> str:
        found = [row[name] for row in rows if which(row) and row[name] is not None]
        return f"{sum(found)} of {len(found)}" if found else ""

    return cell


def markdown(columns: Mapping[str, list[Row]], lines: Mapping[str, Callable[[list[Row]], str]]) -> str:
    """The table: a line a figure, each cell made of the rows of its column."""
    head = f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    return head + "\n".join(
        f"| {title} | {' | '.join(cell(rows) for rows in columns.values())} |" for title, cell in lines.items()
    )
