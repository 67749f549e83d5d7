"""Read what a PyTorch pickle holds, without running anything in it.

Both layouts of `torch.save` are read: the zip archive (torch 1.6 and later) and the stream before it.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from animatediff.errors import UserError, printable
from animatediff.limits import MAX_PICKLE_BYTES
from animatediff.weights.storage.budget import Budget
from animatediff.weights.storage.dtypes import STORAGE_SIZES
from animatediff.weights.storage.formats import UNPACK, what_archive_is
from animatediff.weights.storage.paths import shown
from animatediff.weights.storage.pickled import AnyTensor, PickledStorage, PickledTensor, Place
from animatediff.weights.storage.unpickle import Inert, RunsCodeError, Walker

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
MAX_INDEX_BYTES = 2**23
"""Bytes of a ZIP archive's index: about 100 an entry, of which a checkpoint has one a tensor."""
MAX_TENSOR_NAME = 2000
"""Characters of the name of a tensor inside of dictionaries."""
MAX_COMPRESSION = 1100  # the most that deflate reaches is 1032 to 1


@dataclass(frozen=True)
class PickleContents:
    """The pickled object, its tensors as `PickledTensor`, and `locate` to find their bytes."""

    root: Any
    locate: Callable[[PickledTensor], Place]
    met: Counter[str]
    """Classes whose objects the pickle holds beside tensors, and how many of each."""
    budget: Budget
    """Items that may still be visited."""


def read_pickle(path: Path) -> PickleContents:
    """Walk the pickle of a `torch.save` file. Raises UserError for code in it, damage, and any other kind of file."""
    try:
        with path.open("rb") as file:
            budget = Budget(shown(path))
            zipped = file.read(4) == b"PK\x03\x04"
            return _read_zip(path, file, budget) if zipped else _read_legacy(path, file, budget)
    except RunsCodeError as error:
        raise UserError(
            f"{shown(path)}: refused, this is a pickle that would run code: it asks for {str(error)[:120]!r}, which no "
            "weight file needs. Nothing of it was run. Look for the same weights as .safetensors."
        ) from None
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise UserError(f"{shown(path)}: its pickle is too big for the memory of this machine") from None
    except Exception as error:  # the file decides what the walk does; whatever it raises means that the file is damaged
        reason = printable(str(error)[:160]) or type(error).__name__
        raise UserError(
            f"{shown(path)}: damaged or truncated, or no PyTorch checkpoint ({reason}); download it again"
        ) from error


def _read_zip(path: Path, file: BinaryIO, budget: Budget) -> PickleContents:
    _check_index(file)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise UserError(
            f"{shown(path)}: truncated: the archive's index, which comes last, is missing after "
            f"{path.stat().st_size:,} bytes; download it again"
        ) from None
    names = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    prefix = pickles[0][: -len("data.pkl")] if pickles else ""
    if len(pickles) != 1 or f"{prefix}constants.pkl" in names or any("/code/" in name for name in names):
        several = len(pickles) > 1 and not any("/code/" in name for name in names)
        what = f"a ZIP archive of several checkpoints; {UNPACK}" if several else what_archive_is(names)
        raise UserError(f"{shown(path)}: {what}")
    if any(names[name].flag_bits & 1 for name in pickles):
        raise UserError(f"{shown(path)}: a ZIP archive with a password; {UNPACK}")
    order = b"little"
    if f"{prefix}byteorder" in names:
        with archive.open(f"{prefix}byteorder") as part:
            order = part.read(16).strip()
    if order not in (b"little", b"big"):
        raise ValueError("an unknown order of bytes")
    size = names[pickles[0]].file_size
    MAX_PICKLE_BYTES.check(size, f"{shown(path)}: its pickle has {size:,} bytes, as no weight file")
    walker = Walker(io.BytesIO(archive.read(pickles[0])), budget)
    root = walker.load()
    starts: dict[str, tuple[int, int, str | None]] = {}

    def start_of(key: str) -> tuple[int, int, str | None]:
        info = names.get(f"{prefix}data/{key}")
        if info is None:
            raise EOFError(f"storage {key!r} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            if info.file_size > MAX_COMPRESSION * (info.compress_size + 1):
                raise ValueError(f"storage {key!r} claims to be compressed to less than is possible")
            return 0, info.file_size, info.filename
        with path.open("rb") as again:
            again.seek(info.header_offset)
            local = again.read(30)
            name_length, extra_length = struct.unpack("<HH", local[26:30])
        return info.header_offset + 30 + name_length + extra_length, info.file_size, None

    def locate(tensor: PickledTensor) -> Place:
        key = tensor.storage.key
        if key not in starts:
            starts[key] = start_of(key)
        start, nbytes, member = starts[key]
        return tensor.place(start, nbytes, member=member, swapped=order == b"big")

    return PickleContents(root, locate, walker.met, budget)


def _read_legacy(path: Path, file: BinaryIO, budget: Budget) -> PickleContents:
    """Five pickles (magic, protocol, machine, object, storage keys), then each storage's int64 length and bytes.

    Numbers are little-endian, whatever the machine that they were written on.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = io.BytesIO(file.read(min(size, MAX_PICKLE_BYTES.value)))
    first_walk = Walker(head, budget)
    first_object = first_walk.load()
    if type(first_object) is not int or first_object != LEGACY_MAGIC:
        raise UserError(f"{shown(path)}: {_other_pickle(first_object, first_walk, path.name)}")
    Walker(head, budget).load()
    Walker(head, budget).load()
    walker = Walker(head, budget)
    root = walker.load()
    keys = Walker(head, budget).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the list of storages is damaged")
    first, spans = head.tell(), dict[str, tuple[int, int]]()

    def locate(tensor: PickledTensor) -> Place:
        storage = tensor.storage
        if not spans:
            position = first
            for key in keys:
                known = walker.storages.get(key, PickledStorage("uint8", key, 0))
                nbytes = known.numel * STORAGE_SIZES[known.dtype]
                spans[key] = (position + 8, nbytes)
                position += 8 + nbytes
        start, nbytes = spans[storage.key]
        if start + nbytes > size:
            raise EOFError(f"the file ends inside storage {storage.key!r}")
        return tensor.place(start, nbytes)

    return PickleContents(root, locate, walker.met, budget)


def _other_pickle(root: object, walker: Walker, name: str) -> str:
    """Kind of a pickle that torch.save did not write, and what to do about it."""
    if walker.storages:
        return (
            f"the pickle out of an unpacked checkpoint, without its tensors' numbers; give the checkpoint as it was "
            f"before {printable(name)} was taken out of it"
        )
    what = f"an object of class {root.source}" if isinstance(root, Inert) else f"a {type(root).__name__}"
    if "torch.storage._load_from_bytes" in walker.named:
        what += " with tensors"
    elif any(name.startswith("numpy") for name in walker.named):
        what += " with NumPy arrays"
    return (
        f"a pickle of {what}, but not one that torch.save wrote; load it where it was made, and save its tensors with "
        "torch.save or safetensors"
    )


def _check_index(file: BinaryIO) -> None:
    """Raise ValueError for an archive whose index, which is read as a whole, is longer than any checkpoint's."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2**16 - 22 - 56 - 20))  # the longest comment, and the records of large archives
    end = file.read()
    file.seek(0)
    place = end.rfind(b"PK\5\6")
    if not 0 <= place <= len(end) - 22:
        return  # as zipfile says
    (length,) = struct.unpack_from("<L", end, place + 12)
    if place >= 76 and end[place - 20 :].startswith(b"PK\6\7") and end[place - 76 :].startswith(b"PK\6\6"):
        (length,) = struct.unpack_from("<Q", end, place - 76 + 40)
    if min(length, size) > MAX_INDEX_BYTES:
        raise ValueError(f"the archive's index has {length:,} bytes")


def module_tensors(module: Inert, budget: Budget) -> dict[str, AnyTensor]:
    """Parameters and buffers of a pickled torch.nn.Module, under the names that its state_dict() has."""
    tensors: dict[str, AnyTensor] = {}
    waiting: list[tuple[str, object]] = [("", module)]
    while waiting:
        prefix, item = waiting.pop()
        state = item.state if isinstance(item, Inert) else None
        if not isinstance(state, dict):
            continue
        passing = state.get("_non_persistent_buffers_set")
        for part in ("_parameters", "_buffers"):
            entries = state.get(part)
            budget.take(len(entries) if isinstance(entries, dict) else 0)
            for name, value in entries.items() if isinstance(entries, dict) else ():
                passed = part == "_buffers" and isinstance(passing, set) and name in passing
                if isinstance(value, AnyTensor) and not passed:
                    tensors[f"{prefix}{name}"] = value
        children = state.get("_modules")
        if isinstance(children, dict):
            budget.take(len(children))
            waiting += [(deeper(prefix, f"{name}."), child) for name, child in reversed(list(children.items()))]
    return tensors


def deeper(prefix: str, name: object) -> str:
    """The name of a part of something. Raises ValueError beyond what names of tensors may be long."""
    whole = f"{prefix}{name}"
    if len(whole) > MAX_TENSOR_NAME:
        raise ValueError(f"a tensor's name of {len(whole):,} characters")
    return whole
