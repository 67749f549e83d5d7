"""Cells of CSV as values of settings, read as the command line reads its flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from animatediff.errors import UserError
from animatediff.render.options import BY_NAME, OPTIONS
from animatediff.render.read.original import ALIASES, KNOWN, RENAMED
from animatediff.render.request import unknown_key

ID = "id"
TEXTS = ("prompt", "negative_prompt")
"""Lists whose entries are texts: a cell is one entry, whatever stands in it."""
FLAG_NAMES = {item.flag.lstrip("-").replace("-", "_"): item.name for item in OPTIONS if item.flag.startswith("--")}
"""Flag without its dashes, as `lora` and `prompt_at` -> option."""


class Columns:
    """The columns of a CSV file: options under their names, those of their flags, and their usual other names."""

    def __init__(self, header: Sequence[str], separator: str, where: str) -> None:
        """separator: between the entries of a list. Raises UserError for an unknown column, or one that comes twice."""
        self._separator = separator
        self._keys = [self._key(name.strip(), number, where) for number, name in enumerate(header, start=1)]
        self.places: Mapping[str, str] = {}
        """Key -> `column 'name'`, the name as it is written."""
        self.places = {
            key: f"column {name.strip()!r}" for key, name in zip(self._keys, header, strict=True) if key is not None
        }
        named = [key for key in self._keys if key is not None]
        if not named:
            raise UserError(f"{where}no column has a name; expected names of settings, such as id,prompt,seed")
        if twice := next((key for key in named if named.count(key) > 1), None):
            raise UserError(f"{where}two columns give {twice!r}; keep one of them")

    def _key(self, name: str, number: int, where: str) -> str | None:
        if not name:
            return None
        if name == ID or name in KNOWN:
            return name
        plain = name.lstrip("-").replace("-", "_").replace(" ", "_")
        for spelling in dict.fromkeys((plain, plain.lower())):
            if spelling == ID or spelling in KNOWN:
                return spelling
            if spelling in FLAG_NAMES:
                return FLAG_NAMES[spelling]
        raise unknown_key(name, (ID, *KNOWN, *FLAG_NAMES), f"{where}column {number}: ")

    def values(self, cells: Sequence[str]) -> dict[str, Any]:
        """The settings of a row; empty cells give none. Raises UserError that names the column."""
        if len(cells) > len(self._keys) and any(cell.strip() for cell in cells[len(self._keys) :]):
            raise UserError(
                f"{len(cells)} values for {len(self._keys)} columns; a text with a comma in it stands in double quotes"
            )
        values = {}
        for number, (key, cell) in enumerate(zip(self._keys, cells, strict=False), start=1):
            if not cell.strip():
                continue
            if key is None:
                raise UserError(f"{cell[:40]!r} stands in column {number}, which has no name")
            try:
                values[key] = value_of(key, cell, self._separator)
            except UserError as error:
                raise UserError(f"{self.places[key]}: {error}") from error
        return values


def value_of(key: str, cell: str, separator: str) -> Any:
    """The value of a setting from its text.

    >>> value_of("seed", "1|2", "|"), value_of("lora", "a.safetensors:0.5", "|")
    (['1', '2'], 'a.safetensors:0.5')
    >>> value_of("loras", "a.safetensors:0.5", "|")
    [{'path': 'a.safetensors', 'scale': 0.5}]
    """
    option = BY_NAME.get(RENAMED.get(key) or ALIASES.get(key) or key)
    if option is None or key == ID:
        return cell.strip()
    if option.name in TEXTS:
        return [cell.strip()]
    given: Any = [part.strip() for part in cell.split(separator)] if option.many else cell.strip()
    return given if option.parse is None else option.parse(given)
