"""Files: found by name, read as text, and written whole or not at all.

What is written stands under another name beside its place until it is complete, and is then renamed (`unfinished.py`).
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from animatediff.errors import UserError, is_disk_full
from animatediff.limits import MAX_CONFIG_BYTES
from animatediff.parse import Lines as Lines  # they read what `read_text` returns
from animatediff.parse import parse_json as parse_json
from animatediff.parse import parse_yaml as parse_yaml
from animatediff.signatures import no_text
from animatediff.unfinished import Unfinished

REPOSITORY = Path(__file__).resolve().parents[1]
"""The root of a source checkout; the folder of packages where installed."""


SHIPPED = (Path(__file__).resolve().parent, REPOSITORY)
"""Folders in which configs/ may stand: the package where installed, a source checkout."""


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Folders in which models are looked for and results are written; relative ones are those of the command line."""

    models: tuple[Path, ...] = (Path("models"), REPOSITORY / "models")
    """Folders like the original's models/, the first one first."""
    samples: Path = Path("samples")
    files: tuple[Path, ...] = (Path(), REPOSITORY)
    """Folders that relative names of files are tried in."""
    named: tuple[Path, ...] = ()
    """Further folders that the user named, in which the files that a result or a configuration names may be."""


HERE = Roots()
"""Those of the working directory, and of a source checkout."""

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Of files with weights, in lower case."""
TINY = "tiny:"
"""Before the name of a VAE: it is a tiny one (TAESD), and may be in models/vae_approx."""
FRAME_NAME = re.compile(r"\d{5,}\.png")
"""Names of the files in a folder of frames."""


def read_text(path: Path) -> str:
    """The text of a small file. Raises UserError if it is missing, a folder, beyond `max_config_bytes`, or no UTF-8."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES.value + 1)  # devices and pipes do not say how much they hold
        size = max(len(content), path.stat().st_size)
        MAX_CONFIG_BYTES.check(size, f"{path}: has {size:,} bytes or more, as no configuration file")
        if what := no_text(content[:512]):
            raise UserError(f"{path}: is {what}; expected a text file")
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text file (byte {error.start} is no UTF-8)") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def find(name: str, folders: Sequence[Path], kind: str = "", roots: Roots = HERE) -> str:
    """The existing file or folder that `name` means, or `name` itself (a hub id, or missing: whoever opens it says so).

    Relative names are tried in `folders` and in `roots.files`; and, where `kind` is a folder of `roots.models`, also
    there under the last part of the name. Names written on Windows, with backslashes, are the same with slashes.
    """
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        try:
            path = Path(spelling).expanduser()
            if path.is_absolute() and (spelling == name or path.exists()):
                return str(path)
            for candidate in _candidates(path, folders, kind, roots):
                if candidate.exists():
                    return str(candidate)
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown home: no such file, then
            continue
    return name


def find_weights(name: str, roots: Roots = HERE) -> str:
    """The weight file or folder that `name` means: itself, or a file of this name in any folder of `roots.models`.

    Raises UserError where several of these folders have one.
    """
    if (found := find(name, (), roots=roots)) != name or not Path(name).suffix or Path(name).exists():
        return found
    for models in roots.models:
        places = (folder / Path(name).name for folder in sorted(models.glob("*/")))
        there = [str(place) for place in places if place.is_file()]
        if len(there) > 1:
            raise UserError(f"{name}: is there several times ({', '.join(there)}); give the path of one")
        if there:
            return there[0]
    return name


def _candidates(path: Path, folders: Sequence[Path], kind: str, roots: Roots) -> Iterator[Path]:
    """Places of a relative name, in the order in which they are tried."""
    for folder in (*folders, *roots.files):
        yield folder / path
        if ".." in path.parts:  # out of a folder that need not be there
            yield Path(os.path.normpath(folder / path))
    if kind and path.suffix:
        yield from (place for models in roots.models if (place := models / kind / path.name).is_file())


def behind_tiny(name: str) -> tuple[str, str]:
    """The mark of a tiny VAE before a name, or nothing, and the name.

    >>> behind_tiny("tiny:taesd"), behind_tiny("a.ckpt")
    (('tiny:', 'taesd'), ('', 'a.ckpt'))
    """
    return (TINY, name.removeprefix(TINY)) if name.startswith(TINY) else ("", name)


def named_folders(names: Iterable[str | Path]) -> list[Path]:
    """The folders that `folder` names, `~` expanded. Raises UserError for one that is none."""
    found = [Path(name).expanduser() for name in names]
    for folder in found:
        check_is_folder(folder, "`folder`")
    return found


def check_is_folder(folder: Path, named: str) -> None:
    """Raise UserError for what is no folder. named: the setting that names it."""
    if not folder.is_dir():
        raise UserError(f"{named} {folder}: {'is a file, expected a folder' if folder.exists() else 'no such folder'}")


def is_within(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder, or inside of it; links are not followed."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def config_file(path: str | Path) -> Path:
    """A configuration file as it is named; where it is not here, the one that ships under this name, `configs/...`."""
    path = Path(path)
    parts = Path(str(path).replace("\\", "/")).parts
    if path.exists() or parts[:1] != ("configs",) or ".." in parts:
        return path
    return next((place for root in SHIPPED if (place := root.joinpath(*parts)).is_file()), path)


def write_error(path: Path, error: BaseException) -> UserError:
    """The message for an OSError met while `path` was written."""
    if is_disk_full(error):
        return UserError(
            f"{path}: the disk is full; nothing half written stays. Free some space or choose another place with `out`"
        )
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"{path}: cannot be written ({reason}); choose another place with `out`")


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
    _check_takes_files(path.absolute().parent, path)


def check_results_folder(path: str | Path) -> None:
    """Raise UserError unless `path` is a folder that takes new files, or can be made. Leaves nothing behind."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, expected a folder; choose another place with `out`")
    _check_takes_files(path.absolute(), path)


def _check_takes_files(folder: Path, path: Path) -> None:
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
        self._unfinished = Unfinished(self.path)
        self.temporary = self._unfinished.path
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
        self._unfinished.remove()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    # What a folder does otherwise.

    def _check(self) -> None:
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder, expected a file name")

    def _create(self) -> None:
        self._unfinished.create()

    def _publish(self) -> None:
        self.path = _publish(self.temporary, self.path, self.overwrite)


class AtomicFolder(AtomicFile):
    """The same for a folder of frames; an existing folder is replaced only if it holds nothing but numbered frames."""

    def _check(self) -> None:
        check_folder(self.path)

    def _create(self) -> None:
        self._unfinished.create(folder=True)

    def _publish(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)
        os.replace(self.temporary, self.path)


def write_text(path: str | Path, text: str) -> None:
    """Write a small UTF-8 text file, whole or not at all. Raises UserError where it cannot be written."""
    with AtomicFile(path) as file, write_errors(file.path):
        file.temporary.write_text(text, encoding="utf-8")
