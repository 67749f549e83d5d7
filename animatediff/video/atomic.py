"""Files that are there whole or not at all: written beside their place under another name, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from animatediff.errors import UserError
from animatediff.video.formats import FRAME_NAME


def write_error(path: Path, error: BaseException) -> UserError:
    """The message for an OSError met while `path` was written."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{path}: the disk is full; nothing was left behind. Free some space or choose another place with --out"
        )
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"{path}: cannot be written ({reason}); choose another place with --out")


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn any OSError of the body into the UserError of `write_error`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def check_writable(path: str | Path) -> None:
    """Raise UserError unless `path` can be made: its nearest existing folder takes new files. Leaves nothing behind."""
    path = Path(path)
    folder = path.absolute().parent
    with write_errors(path):
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, not a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_folder(path: str | Path) -> None:
    """Raise UserError if a folder of frames cannot be named `path`: a file is, or a folder that holds other files."""
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file, expected the name of a folder for the frames")
    with write_errors(path):
        others = [entry.name for entry in path.iterdir() if not FRAME_NAME.fullmatch(entry.name)]
    if others:
        raise UserError(f"{path}: holds other files ({others[0]}); choose an empty or a new folder for the frames")


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder`; returns the folders that were not there before, deepest first."""
    made = []
    missing = folder
    while not missing.exists():
        made.append(missing)
        missing = missing.parent
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _publish(temporary: Path, path: Path, overwrite: bool) -> Path:
    """Rename `temporary` to `path`, or, unless `overwrite`, to the first free `name-2`, ...; returns it."""
    if overwrite:
        os.replace(temporary, path)
        return path
    number, place = 1, path
    while True:
        try:
            os.link(temporary, place)  # fails if the name is taken, also by a run that finishes at the same moment
        except FileExistsError:
            number += 1
            place = path.with_name(f"{path.stem}-{number}{path.suffix}")
        except OSError:  # file systems without hard links
            if not place.exists():
                os.replace(temporary, place)
                return place
            number += 1
            place = path.with_name(f"{path.stem}-{number}{path.suffix}")
        else:
            temporary.unlink()
            return place


class AtomicFile:
    """A context: write to `.temporary`; when the body ends well, the file appears as `.path`, otherwise nothing stays.

    With `overwrite=False` a taken name is left alone and `.path` becomes `name-2`, `name-3`, ... Raises UserError where
    the place cannot be written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = True) -> None:
        self.path = Path(path)
        self.overwrite = overwrite
        self.temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._made: list[Path] = []

    def __enter__(self) -> AtomicFile:
        self._check()
        with write_errors(self.path):
            try:
                self._made = _make_parents(self.path.absolute().parent)
                self._create()
            except BaseException:
                self._clean()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                with write_errors(self.path):
                    self._publish()
                self._made = []
        finally:
            self._clean()

    def _clean(self) -> None:
        self._remove()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    # What a folder does otherwise.

    def _check(self) -> None:
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder, expected a file name")

    def _create(self) -> None:
        self.temporary.touch(exist_ok=False)

    def _publish(self) -> None:
        self.path = _publish(self.temporary, self.path, self.overwrite)

    def _remove(self) -> None:
        self.temporary.unlink(missing_ok=True)


class AtomicFolder(AtomicFile):
    """The same for a folder of frames; an existing folder is replaced only if it holds nothing but numbered frames."""

    def _check(self) -> None:
        check_folder(self.path)

    def _create(self) -> None:
        self.temporary.mkdir()

    def _publish(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)
        os.replace(self.temporary, self.path)

    def _remove(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a small UTF-8 text file, whole or not at all. Raises UserError where it cannot be written."""
    with AtomicFile(path) as file, write_errors(file.path):
        file.temporary.write_text(text, encoding="utf-8")
