"""A folder for one run at a time: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import write_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = ".animatediff-batch.lock"
_FAR = 1 << 30
"""Byte that is locked on Windows, behind those that tell who has the lock, so that others can read these."""


class FolderLock:
    """A context in which a folder belongs to this process. Raises UserError where another run has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        with write_errors(self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._descriptor)
        except OSError as error:
            holder = self._holder()
            self._close()
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise UserError(
                    f"{self._path.parent}: another run{holder} writes its results here; wait until it has ended, or "
                    "choose another folder with `out`"
                ) from None
            logger.warning(
                "%s: cannot be locked (%s); see that no other run writes here at the same time",
                self._path.parent,
                error.strerror,
            )
            return self
        text = f"process {os.getpid()} on {socket.gethostname()}"
        with suppress(OSError):  # who has it is told where it can be
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, text.encode(errors="replace"))
        return self

    def __exit__(self, *error: object) -> None:
        self._close()  # the file stays: whoever waits for it may have it open

    def _holder(self) -> str:
        try:
            text = os.read(self._descriptor or 0, 200).decode(errors="replace").strip()
        except OSError:
            text = ""
        return f" ({text})" if text else ""

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    """Lock an open file for this process. Raises OSError."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    msvcrt: Any = import_module("msvcrt")
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
