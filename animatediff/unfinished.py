"""Files and folders that are being written, under hidden names of their place and process; `clear` removes them if that
process was killed."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\.(?P<of>.+)\.(?P<pid>\d+)-[0-9a-f]{8}(\.\w+)?\.part")
_FORMER = re.compile(r"\.(?P<of>.+)\.([0-9a-f]{8}\.part|\d+\.tmp)")
"""Names that earlier versions gave."""
DAY_S = 24 * 3600
"""Seconds after which a file counts as left behind where nothing else tells."""
NAME_BYTES = 200
"""Of the name of the place, so that the whole name stays below the 255 bytes that file systems take."""

_own: set[str] = set()
"""Names of this process."""
_looked_through: set[Path] = set()


class Unfinished:
    """A hidden path beside `path` for what is written, until it is renamed.

    It is locked while this process lives, as far as the system can, and named after it; `clear` judges by both.
    """

    def __init__(self, path: Path) -> None:
        name = path.name
        if len(encoded := os.fsencode(name)) > NAME_BYTES:
            name = encoded[:NAME_BYTES].decode(sys.getfilesystemencoding(), "ignore")
        self.path = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self._lock: int | None = None

    def create(self, *, folder: bool = False) -> None:
        """Make an empty file or folder, after those were cleared that killed processes left beside it."""
        clear(self.path.parent)
        _own.add(self.path.name)
        if folder:
            self.path.mkdir()
        else:
            self.path.touch(exist_ok=False)
        self._lock = locked(self.path)

    def remove(self) -> None:
        """Remove what was not renamed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        _remove(self.path)
        _own.discard(self.path.name)


def clear(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; once for each folder and process."""
    folder = folder.absolute()
    if folder in _looked_through:
        return
    _looked_through.add(folder)
    try:
        entries = [(entry.name, found) for entry in os.scandir(folder) if (found := _found(entry.name))]
    except OSError:  # whatever is wrong with the folder, writing into it will say
        return
    for name, found in entries:
        path = folder / name
        if not _is_left_behind(path, found):
            continue
        with suppress(OSError):
            _remove(path)
            logger.info("%s: removed %s, left half-written by a run that was killed", folder / found["of"], name)


def _found(name: str) -> re.Match[str] | None:
    return _NAME.fullmatch(name) or _FORMER.fullmatch(name)


def _is_left_behind(path: Path, found: re.Match[str]) -> bool:
    """Whether its process is gone: no process of that number runs here, and none, here or elsewhere, holds its lock."""
    pid = found.groupdict().get("pid")
    if pid is None or fcntl is None:
        try:
            if time.time() - path.stat().st_mtime < DAY_S:
                return False
        except OSError:
            return False
    elif path.name in _own or (int(pid) != os.getpid() and _runs(int(pid))):
        return False
    if fcntl is None:
        return True
    lock = locked(path)
    if lock is None:
        return False
    os.close(lock)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of somebody else
        return True
    return True


def locked(path: Path) -> int | None:
    """Lock a file or folder for this process; None where that is not possible, or another process has it."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
