"""Files of saved renders: a hidden folder of safetensors files, each written whole or not at all, for one process.

What is read may come from anyone: no pickle, bounded before it is read, and hashed against damage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError, is_disk_full
from animatediff.files import AtomicFile
from animatediff.parse import load_json
from animatediff.sampling.state import BadState, pack, unpack
from animatediff.unfinished import DAY_S, fcntl, locked
from animatediff.weights.storage.files import load_tensors, read_header

logger = logging.getLogger(__name__)

FORMAT = "1"
SUFFIX = ".resume"
"""Of the names of folders of saved states."""
KEEP_S = 7 * DAY_S
"""Seconds after which a state that nobody went on with is removed by the next render into its folder."""
_FILE = ".safetensors"


class StateFolder:
    """A folder of states, locked while this process uses it, as far as the system can."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.foreign = False
        """Whether another process is at work on it, so that nothing is read or written here."""
        self._lock: int | None = None
        self._made: list[Path] = []
        self._said = False

    def __enter__(self) -> StateFolder:
        if self.path.is_dir():
            self._hold()
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self, name: str, *, most_bytes: int, device: torch.device | str) -> Any:
        """What was written as `name`; None where there is nothing. Raises BadState."""
        path = self._file(name)
        if self.foreign or not path.is_file():
            return None
        if (size := path.stat().st_size) > most_bytes:
            raise BadState(f"{size:,} bytes, where it may have {most_bytes:,}")
        try:
            with path.open("rb") as file:
                if file.read(9)[8:] != b"{":  # before anything else is made of it
                    raise BadState("no file of tensors")
            header = read_header(path)
            if header.metadata.get("format") != FORMAT:
                raise BadState("not of this version")
            tensors = load_tensors(header)
            text = header.metadata.get("content", "")
            content = load_json(text, str(path))
        except (UserError, ValueError, OSError) as error:
            raise BadState(str(error).splitlines()[0]) from None
        if header.metadata.get("sha256") != _digest(text, tensors):
            raise BadState("its content is not what was written")
        try:
            return unpack(content, tensors, device)
        except RecursionError:
            raise BadState("nested too deeply") from None

    def write(self, name: str, value: Any) -> bool:
        """Write `value`, brought to the disk, in place of what was there; whether that went well.

        Raises sampling.state.Unsavable. Where the disk is full, or not to be written on, that is said once.
        """
        tensors: dict[str, Tensor] = {}
        text = json.dumps(pack(value, tensors))
        if self.foreign:
            return False
        try:
            if not self.path.is_dir():
                self._make()
            if self._lock is None:
                self._hold()
            if self.foreign:
                return False
            self._write(self._file(name), text, tensors)
        except Exception as error:  # safetensors has errors of its own for what the system says
            self._say(error)
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove what was written as `name`, and as `name.` with more behind."""
        if not self.foreign:
            with suppress(OSError):
                for path in (self._file(name), *self.path.glob(f"{name}.*{_FILE}")):
                    path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder, and those that were made for it if nothing else is in them."""
        if self.foreign:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.__exit__()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()
        self._made = []

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{_FILE}"

    def _hold(self) -> None:
        self._lock = locked(self.path)
        self.foreign = self._lock is None and fcntl is not None and _locks(self.path)
        if self.foreign:
            logger.warning("%s: another process renders the same; this one saves no state", self.path.name)

    def _make(self) -> None:
        missing = self.path.parent
        while not missing.exists():
            self._made.append(missing)
            missing = missing.parent
        self.path.mkdir(parents=True, mode=0o700)

    def _write(self, path: Path, text: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        metadata = {"format": FORMAT, "content": text, "sha256": _digest(text, tensors)}
        with AtomicFile(path) as file:
            save_file(tensors, file.temporary, metadata=metadata)
            with file.temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        if os.name != "nt":  # the name itself
            folder = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _say(self, error: Exception) -> None:
        if self._said:
            return
        self._said = True
        reason = "the disk is full" if is_disk_full(error) else str(error).splitlines()[0][:200]
        logger.warning("the state of this render cannot be saved in %s (%s); the render goes on", self.path, reason)


def others(folder: Path, name: str, own: Path) -> Iterator[Path]:
    """Folders of states that stopped renders left in `folder` under this name, other than `own`; old ones are removed.

    Those that a process is at work on are left out.
    """
    try:
        entries = [Path(entry) for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
    except OSError:
        return
    for path in sorted(entries):
        if path == own or not path.is_dir() or path.is_symlink() or not any(path.glob(f"*{_FILE}")):
            continue
        if fcntl is not None:
            if (lock := locked(path)) is None:
                continue
            os.close(lock)
        with suppress(OSError):
            if time.time() - max(part.stat().st_mtime for part in (path, *path.iterdir())) > KEEP_S:
                shutil.rmtree(path, ignore_errors=True)
                logger.info("%s: removed, the state of a render that was stopped %d days ago", path, KEEP_S // DAY_S)
            elif path.name.startswith(f".{name}."):
                yield path


def _locks(path: Path) -> bool:
    """Whether a folder can be opened, so that no lock on it means that another process has it."""
    return os.access(path, os.R_OK)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.contiguous().flatten()
        if flat.numel():
            found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
