"""Plain values from YAML and JSON texts, within limits on entries, depth and numbers, whoever wrote them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from animatediff.errors import UserError
from animatediff.limits import MAX_DEPTH, MAX_ENTRIES

OF_TEXTS = ("prompt", "prompt_travel", "prompt_map")
"""Keys that hold texts at frames: a frame given twice there is a mistake as well."""
OF_ROWS = ("rows",)
"""Keys that hold a list of settings, the lines of which are known as well."""
_ROWS = {(key,) for key in OF_ROWS}
MAX_DIGITS = 1000
"""Digits of a number; Python turns no more than 4300 of them into text again."""
MERGE = "tag:yaml.org,2002:merge"

Lines = dict[tuple[Any, ...], int]


class _Bounded(yaml.SafeLoader):
    """YAML of plain values. Entries and depth are counted while the text is read, those of aliases as often as used."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self._where, self._level = where, 0
        self._entries, self._read = MAX_ENTRIES.value, 0
        self._sizes: dict[yaml.Node, int] = {}
        self._depth = MAX_DEPTH.value

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        line = self.peek_event().start_mark.line + 1
        self._level += 1
        if self._level > self._depth:
            MAX_DEPTH.check(self._level, f"{self._where}, line {line}: is nested {self._level} levels deep or more")
        node = super().compose_node(parent, index)
        self._level -= 1
        if alias and node is not None and node not in self._sizes:
            raise UserError(f"{self._where}, line {line}: an alias (*) inside of what it repeats")
        if node is not None and not alias:
            self._sizes[node] = 1 + sum(self._sizes[part] for part in _parts(node))
        self._read += self._sizes[node] if alias and node is not None else 1  # what is repeated, with all parts
        if self._read > self._entries:
            MAX_ENTRIES.check(self._read, f"{self._where}, line {line}: comes to {self._read:,} entries or more")
        return node

    def construct_number(self, node: Any) -> Any:
        """A whole number or a fraction, of a length that numbers have."""
        if len(node.value) > MAX_DIGITS:
            raise UserError(
                f"{self._where}, line {node.start_mark.line + 1}: a number of {len(node.value):,} characters; "
                f"expected at most {MAX_DIGITS:,}"
            )
        return self.construct_yaml_int(node) if node.tag.endswith("int") else self.construct_yaml_float(node)


_Bounded.add_constructor("tag:yaml.org,2002:int", _Bounded.construct_number)
_Bounded.add_constructor("tag:yaml.org,2002:float", _Bounded.construct_number)


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def parse_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Plain values of a YAML text, and the line (from 1) of each key down to the second level, and in rows.

    Raises UserError for anything that is not valid YAML, for a key given twice, and beyond a limit.
    """
    loader = None
    try:
        loader = _Bounded(text, where)
        node = loader.get_single_node()
        lines: Lines = {}
        _collect_lines(node, (), lines, where)
        return (None if node is None else loader.construct_document(node)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: is not valid YAML ({error.problem or error.context})") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError, KeyError) as error:
        # PyYAML lets errors of int(), datetime() and of its own constructors through
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: is not valid YAML ({str(error)[:200]})") from error
    finally:
        if loader is not None:
            loader.dispose()


def _collect_lines(node: yaml.Node | None, path: tuple[Any, ...], lines: Lines, where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, key.value if isinstance(key, yaml.ScalarNode) else None)
            line = key.start_mark.line + 1
            if place in lines and key.tag != MERGE and place[-1] is not None:
                raise UserError(f"{where}, line {line}: {place[-1]!r} is given twice (first in line {lines[place]})")
            lines[place] = line
            if len(place) < 2 or place[-1] in OF_TEXTS:
                _collect_lines(value, place, lines, where)
    elif isinstance(node, yaml.SequenceNode) and (not path or path[-1] in OF_TEXTS or path in _ROWS):
        for index, item in enumerate(node.value):
            place = (*path, index)
            lines[place] = item.start_mark.line + 1
            _collect_lines(item, place, lines, where)


def parse_json(text: str, where: str) -> Any:
    """Plain values of a JSON text; comments (`#`, `//`, `/* */`) and commas before a bracket are passed over.

    Raises UserError for anything else, for a key given twice, and beyond a limit.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen = set[str]()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise UserError(f"{where}: {twice!r} is given twice")
        return found

    try:
        try:
            return load_json(text, where, object_pairs_hook=once)
        except json.JSONDecodeError:
            return load_json(_plain_json(text), where, object_pairs_hook=once)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        hint = "; write / or \\\\ in paths" if "escape" in str(error) else ""
        raise UserError(f"{where}: is not valid JSON ({error}{hint})") from error


def load_json(text: str, where: str = "JSON", **hooks: Any) -> Any:
    """`json.loads`, but for the limits of entries and depth, and for the length of numbers, beyond which is UserError.

    Raises ValueError, of which that is one, for anything that is no JSON.
    """

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise UserError(f"{where}: a number of {len(digits):,} digits; expected at most {MAX_DIGITS:,}")
        return int(digits)

    _check_json(text, where)
    try:
        return json.loads(text, parse_int=whole, **hooks)
    except RecursionError:  # where `max_depth` is raised
        raise ValueError("brackets nested too deeply") from None


_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
"""A string, or what is left of the text where it does not end."""
_COMMENT = r"//[^\n]*|#[^\n]*|/\*[^*]*(?:\*(?!/)[^*]*)*(?:\*/|\Z)"
_TOKENS = re.compile(rf"(?P<string>{_STRING})|(?P<comment>{_COMMENT})|(?P<mark>[\[\]{{}},])", re.DOTALL)
"""What a JSON text is searched for, from left to right; each alternative matches at once or not at all."""


def _check_json(text: str, where: str) -> None:
    """Raise UserError for a text beyond the limits of entries and depth, before anything is made of it."""
    if not text.count(",") + text.count("[") + text.count("{") > min(MAX_ENTRIES.value, MAX_DEPTH.value):
        return
    entries, level = 0, 0
    most, deepest = MAX_ENTRIES.value, MAX_DEPTH.value
    for found in _TOKENS.finditer(text):
        mark = found["mark"]
        if mark is None:
            continue
        if mark in "[{":
            level += 1
        elif mark in "]}":
            level -= 1
        if level > deepest:
            MAX_DEPTH.check(level, f"{where}: is nested {level} levels deep or more")
        entries += mark in ",[{"
        if entries > most:
            MAX_ENTRIES.check(entries, f"{where}: comes to {entries:,} entries or more")


def _plain_json(text: str) -> str:
    """A JSON text without comments and trailing commas, each line where it was."""
    parts: list[str] = []
    place, comma = 0, None
    for found in _TOKENS.finditer(text):
        between = text[place : found.start()]
        parts.append(between)
        if found["mark"] in ("]", "}") and comma is not None and not between.strip():
            parts[comma] = ""
        if between.strip() or found["comment"] is None:
            comma = None
        if found["mark"] == ",":
            comma = len(parts)
        parts.append("\n" * found[0].count("\n") if found["comment"] else found[0])
        place = found.end()
    return "".join([*parts, text[place:]])
