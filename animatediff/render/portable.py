"""Names of files in records: the same on every machine, without the folders of the one that made them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from animatediff.bundled import PREFIX, bundled_path, bundled_set, motion_module_path
from animatediff.files import HERE, Roots, behind_tiny, is_within
from animatediff.render.fingerprint import fingerprint
from animatediff.render.models import BUNDLED
from animatediff.render.options import PATH_FIELDS, names_file
from animatediff.render.request_inputs import is_note
from animatediff.weights.hub import KNOWN_FILES

_PACKAGE = ("animatediff", "bundled")
"""Last folders of the bundled parts, wherever the package is installed."""
REVISION = "revision"
"""Before the commit of a model of the hub, in place of the method of a hash."""
_SNAPSHOT = "snapshots"
"""In the hub's cache: models--OWNER--NAME/snapshots/REVISION/FILE."""


def with_files(values: Mapping[str, Any], change: Callable[[str, str, str], Any]) -> dict[str, Any]:
    """`values` with each name of a file replaced by `change(name, setting, place)`; notes of images stay.

    place: the setting, with the number of the entry in a list (`loras.0`) or the frame of a mapping (`keyframes.8`).
    """

    def changed(value: Any, setting: str, place: str) -> Any:
        if isinstance(value, bytes):  # of YAML; a request would take them as text
            value = value.decode(errors="replace")
        if isinstance(value, str):
            tiny, name = behind_tiny(value) if setting == "vae" else ("", value)
            new = change(name, setting, place) if name and names_file(setting, name) else name
            return f"{tiny}{new}" if tiny and isinstance(new, str) else new
        if isinstance(value, list | tuple):
            return [changed(item, setting, f"{place}.{number}") for number, item in enumerate(value)]
        if is_note(value) or not isinstance(value, Mapping):
            return value
        if "path" in value:
            return {**value, "path": changed(value["path"], setting, place)}
        return {key: changed(item, setting, f"{place}.{key}") for key, item in value.items()}

    return {name: changed(value, name, name) if name in PATH_FIELDS else value for name, value in values.items()}


def portable(stored: Mapping[str, Any], roots: Roots = HERE) -> tuple[dict[str, Any], dict[str, str]]:
    """A record of settings with portable names, and the short hash of each file, by its place.

    Bundled parts go by their names, models of the hub by their ids, with the revision in place of a hash; other files
    by their names relative to the first folder of `roots` that they are in, files in none by the last part of theirs.
    """
    hashes: dict[str, str] = {}

    def name_of(path: str, setting: str, place: str) -> str:
        name, found = portable_name(path, roots)
        if found is not None:
            hashes[place] = found
        return name

    return with_files(stored, name_of), hashes


def portable_name(path: str, roots: Roots = HERE, *, hashed: bool = True) -> tuple[str, str | None]:
    """The name of one file or folder as `portable` records it, and its short hash where it has one.

    hashed: False reads nothing of it.
    """
    if (name := bundled_name(path)) is not None:
        return name, bundled_hash(name) if hashed else None
    if (name := _hub_name(path)) is not None:
        return name, f"{REVISION}:{revision_of(path)}"
    return _relative(path, roots), fingerprint(path) if hashed else None


def bundled_name(path: str) -> str | None:
    """The name of a bundled part, by a path of it here or in another installation; None for all other paths."""
    if path == BUNDLED or path.startswith(PREFIX):
        return path
    parts = PurePosixPath(path.replace("\\", "/")).parts
    for at in range(len(parts) - 1, 1, -1):
        if parts[at - 2 : at] == _PACKAGE:
            rest = parts[at:]
            if rest in ((bundled_path().name,), (motion_module_path().name,)):
                return BUNDLED
            known = {item.name: name for name, item in bundled_set().items()}
            return PREFIX + known[rest[1]] if len(rest) == 2 and rest[0] == "set" and rest[1] in known else None
    return None


@cache
def bundled_hash(name: str) -> str | None:
    """The short hash of a bundled part as it ships here, of the model with its motion module; None for no part.

    Read once a process: batches ask for it with every clip.
    """
    if name == BUNDLED:
        return fingerprint(bundled_path(), motion_module_path())
    part = bundled_set().get(name.removeprefix(PREFIX))
    return None if part is None else fingerprint(part)


def revision_of(path: str | Path) -> str:
    """The commit that a path in the hub's cache is of."""
    parts = Path(path).parts
    return parts[parts.index(_SNAPSHOT) + 1]


def _hub_name(path: str) -> str | None:
    """The hub id, or the name of the published file, of a path in the hub's cache; None for all other paths."""
    parts = Path(path).parts
    if _SNAPSHOT not in parts or (at := parts.index(_SNAPSHOT)) < 1 or not parts[at - 1].startswith("models--"):
        return None
    rest = parts[at + 2 :]
    repository = parts[at - 1].removeprefix("models--").replace("--", "/")
    if not rest:
        return repository
    known = KNOWN_FILES.get(rest[0]) if len(rest) == 1 else None
    return rest[0] if known is not None and known.repository == repository else None


def _relative(path: str, roots: Roots) -> str:
    """The name of a path in the first folder that holds it, with slashes; else its last part."""
    spellings = [os.path.abspath(os.path.expanduser(path)), os.path.realpath(os.path.expanduser(path))]
    for full in spellings:
        for folder, prefix in _folders(roots):
            for root in dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))):
                if not _holds_home(root) and is_within(full, root):
                    return (prefix / Path(full).relative_to(root)).as_posix()
    return Path(spellings[0]).name


def _folders(roots: Roots) -> Iterator[tuple[Path, Path]]:
    """Folders that names are relative to, and what stands before these names."""
    yield from ((folder, Path("models")) for folder in roots.models)
    yield from ((folder, Path()) for folder in (*roots.files, *roots.named))


def _holds_home(folder: str) -> bool:
    """Whether names relative to a folder would tell the home folder."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return False
    return home != folder and is_within(home, folder)
