"""Short hashes of files and folders, by which a file found elsewhere is known again.

Cheap for files of any size: up to 64 MiB are hashed whole (`sha256:`, as by sha256sum), of larger ones the size and 16
pieces of 1 MiB, evenly from the first byte to the last (`pieces:`). Of a folder (`folder:`) names, sizes and 4 pieces
of 64 KiB of each file, hidden ones and those beyond the first 1000 left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

DIGITS = 16
WHOLE = 64 << 20
"""Bytes up to which files are hashed whole."""
MAX_FILES = 1000


def fingerprint(path: str | Path, *more: str | Path) -> str | None:
    """The short hash of a file or folder; None where there is none, or nothing that can be read.

    Of several, one hash of all their hashes (`parts:`).
    """
    if more:
        found = [fingerprint(one) for one in (path, *more)]
        return f"parts:{hashlib.sha256(' '.join(map(str, found)).encode()).hexdigest()[:DIGITS]}"
    path = Path(path)
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            return _of_folder(path)
        if not stat.S_ISREG(facts.st_mode):  # of a pipe, reading would not end
            return None
        return _of_file(path.absolute(), facts.st_mtime_ns, facts.st_size)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=256)
def _of_file(path: Path, changed_ns: int, size: int) -> str:
    """The hash of a file as it was at that time, so that many clips of one model read it once."""
    if size <= WHOLE:
        found = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        return f"sha256:{found.hexdigest()[:DIGITS]}"
    return f"pieces:{_pieces(path, size, count=16, length=1 << 20).hexdigest()[:DIGITS]}"


def _pieces(path: Path, size: int, *, count: int, length: int) -> hashlib._Hash:
    """Hash of a size and of `count` pieces of `length` bytes, evenly from the first byte to the last."""
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for number in range(count if size > count * length else 1):
            file.seek((size - length) * number // (count - 1) if number else 0)
            found.update(file.read(length if size > count * length else size))
    return found


def _of_folder(folder: Path) -> str:
    found = hashlib.sha256()
    for number, file in enumerate(_files(folder)):
        if number == MAX_FILES:
            break
        size = file.stat().st_size
        found.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode(errors="surrogateescape"))
        found.update(_pieces(file, size, count=4, length=1 << 16).digest())
    return f"folder:{found.hexdigest()[:DIGITS]}"


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, in the order of their names; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (file := Path(place, name)).is_file():
                yield file
