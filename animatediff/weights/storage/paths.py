"""The file behind a path: it is a regular file, or the reason why nothing can be read there is said."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from animatediff.errors import UserError, did_you_mean, printable

PARTIAL_SUFFIXES = {
    ".aria2", ".crdownload", ".part", ".partial", ".incomplete", ".download", ".opdownload", ".!ut", ".!qb",
    ".filepart", ".tmp",
}  # fmt: skip
"""Name endings that programs give to downloads until they are whole."""
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def shown(path: str | Path) -> str:
    """`path` on one line: control characters and bytes that are no text appear as escapes."""
    return printable(str(path)).replace("\n", "\\n")


def regular_file(path: str | Path) -> tuple[Path, os.stat_result]:
    """`path` with `~` expanded, and its facts. Nothing is opened, so that no pipe can hang.

    Raises UserError that says what is in the place of a file.
    """
    path = expanded(path)
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)}: {_reason(path, error)}") from None
    if stat.S_ISDIR(facts.st_mode):
        raise UserError(f"{shown(path)}: a folder, but a file is expected; give the weight file inside") from None
    kind = next((kind for is_kind, kind in _KINDS if is_kind(facts.st_mode)), None)
    if kind:
        raise UserError(f"{shown(path)}: {kind}, not a file: weights are read from several places; save them first")
    if path.with_name(f"{path.name}.aria2").exists():
        raise UserError(
            f"{shown(path)}: aria2 has not finished it, as {shown(path.name)}.aria2 beside it says; let it finish "
            "(`aria2c -c`), or delete that file if the download is whole"
        )
    return path, facts


def expanded(path: str | Path) -> Path:
    """`path` with `~` expanded. Raises UserError for an empty name and an unknown user."""
    if not str(path).strip():
        raise UserError("an empty name; give the name of a weight file")
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{shown(path)}: there is no user {shown(path.parts[0])} here; write the folder out") from None


def _reason(path: Path, error: OSError | ValueError) -> str:
    """Why `path` cannot be looked at."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ELOOP:
        return "a link that leads back to itself; give the file it was meant for"
    if code == errno.ENAMETOOLONG:
        return "the name is too long for this file system"
    if code in (errno.EACCES, errno.EPERM):
        return "permission denied; make the file and its folders readable for this user"
    if code == errno.ENOTDIR:
        return f"no such file: {shown(_first_file(path))} is a file, not a folder"
    if code == errno.ENOENT and path.is_symlink():
        return f"a link to {shown(os.readlink(path))}, which does not exist; download the file, or mend the link"
    if code == errno.ENOENT:
        return f"no such file{_hint(path)}"
    return f"cannot be read: {printable(str(getattr(error, 'strerror', None) or error))}"


def _first_file(path: Path) -> Path:
    """The part of `path` that should be a folder and is none."""
    return next((part for part in reversed(path.parents) if part.is_file()), path.parent)


def _hint(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", and no folder {shown(folder)}"
    try:
        names = [child.name for child in folder.iterdir() if not child.name.startswith(".")]
    except OSError:
        return ""
    hint = did_you_mean(path.name, names).rstrip()
    return f"; {hint}" if hint else f" in {shown(folder.resolve())}"
