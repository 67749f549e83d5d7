"""Reading configuration files: YAML with line numbers, and finding the files that they name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from animatediff.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
"""The root of a source checkout; the folder of packages where installed."""

OF_TEXTS = ("prompt", "prompt_travel", "prompt_map")
"""Keys that hold texts at frames: a frame given twice there is a mistake as well."""

Lines = dict[tuple[Any, ...], int]


def read_text(path: Path) -> str:
    """The text of a small file. Raises UserError if it is missing, a folder, over 16 MB, or no UTF-8."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file")
    try:
        if path.stat().st_size > 1 << 24:
            raise UserError(f"{path}: is larger than 16 MB, this is no configuration file")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text file (byte {error.start} is no UTF-8)") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def parse_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Plain values of a YAML text, and the line (from 1) of each key down to the second level.

    Raises UserError for anything that is not valid YAML, and for a key given twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: Lines = {}
        _collect_lines(node, (), lines, where)
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: is not valid YAML ({error.problem or error.context})") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError, KeyError) as error:
        # PyYAML lets errors of int(), datetime() and of its own constructors through
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: is not valid YAML ({str(error)[:200]})") from error


def _collect_lines(node: yaml.Node | None, path: tuple[Any, ...], lines: Lines, where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, key.value if isinstance(key, yaml.ScalarNode) else None)
            line = key.start_mark.line + 1
            if place in lines and key.tag != "tag:yaml.org,2002:merge" and place[-1] is not None:
                raise UserError(f"{where}, line {line}: {place[-1]!r} is given twice (first in line {lines[place]})")
            lines[place] = line
            if len(place) < 2 or place[-1] in OF_TEXTS:
                _collect_lines(value, place, lines, where)
    elif isinstance(node, yaml.SequenceNode) and (not path or path[-1] in OF_TEXTS):
        for index, item in enumerate(node.value):
            place = (*path, index)
            lines[place] = item.start_mark.line + 1
            _collect_lines(item, place, lines, where)


def parse_json(text: str, where: str) -> Any:
    """Plain values of a JSON text. Raises UserError for anything else, and for a key given twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{where}: {twice!r} is given twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid JSON ({error})") from error


def find(name: str, folders: Sequence[Path], kind: str = "") -> str:
    """The existing file or folder that `name` means, or `name` itself (a hub id, or missing: whoever opens it says so).

    Relative names are tried in `folders`, in the working directory, and in a source checkout; and, where `kind` is a
    folder of models/, also there under the last part of the name.
    """
    try:
        path = Path(name).expanduser()
        if path.is_absolute():
            return str(path)
        for folder in (*folders, Path(), REPOSITORY):
            if (folder / path).exists():
                return str(folder / path)
        if kind and path.suffix:
            for root in (Path(), REPOSITORY):
                candidate = root / "models" / kind / path.name
                if candidate.is_file():
                    return str(candidate)
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown home: no such file, then
        pass
    return name
