"""Files that a browser sent: those that a render uses are kept beside the results, so that it can be repeated."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from animatediff.errors import UserError
from animatediff.files import AtomicFile, is_within, write_errors
from animatediff.ui.library import uploads_folder

FOLDER = "inputs"
"""Folder of them in the folder of results."""


class Uploads:
    """Keeps uploads as `inputs/{hash}-{name}`: the same file once, however often it is sent."""

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER

    def keep(self, sent: str) -> str:
        """The kept copy of an upload. Raises UserError for a file that no browser sent, and where none can be kept."""
        source = self._own(sent)
        target = self.folder / _named(_digest([source]), source.name)
        _copy(source, target)
        return str(target)

    def keep_all(self, sent: Sequence[str]) -> str:
        """The kept copy of one upload, or the folder of the kept copies of several, under their own names."""
        if len(sent) == 1:
            return self.keep(sent[0])
        sources = [self._own(path) for path in sent]
        names = [_safe(source.name) for source in sources]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two of the files are called {double}; give each a name of its own")
        folder = self.folder / _named(_digest(sources), "images")
        for source, name in zip(sources, names, strict=True):
            _copy(source, folder / name)
        return str(folder)

    def _own(self, sent: str) -> Path:
        path = Path(os.path.realpath(sent))
        if not path.is_file() or not is_within(str(path), uploads_folder()):
            raise UserError(f"{Path(sent).name}: was not uploaded here, or is no longer there; drop it again")
        return path


def _digest(sources: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        with source.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:10]


def _named(digest: str, name: str) -> str:
    name = _safe(name)
    return name if name.startswith(f"{digest}-") else f"{digest}-{name}"


def _safe(name: str) -> str:
    """A file name with letters, digits, dots and dashes alone, of at most 100 characters."""
    stem, dot, suffix = re.sub(r"[^\w.-]+", "-", name).lstrip(".-").rpartition(".")
    return f"{stem[:80]}{dot}{suffix[:20]}" or "file"


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    with AtomicFile(target) as file, write_errors(target):
        shutil.copyfile(source, file.temporary)
