"""Read and write weight files as data: nothing in a file is ever run, and nothing is left half written."""

from __future__ import annotations

import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from animatediff.errors import UserError, did_you_mean, printable
from animatediff.files import WEIGHT_SUFFIXES as WEIGHT_SUFFIXES
from animatediff.limits import MAX_EXPANDED_BYTES, MAX_HEADER_BYTES
from animatediff.unfinished import Unfinished
from animatediff.weights.storage.dtypes import ITEM_SIZES, no_tensor_of
from animatediff.weights.storage.formats import WEIGHT_NAMES, what_it_is
from animatediff.weights.storage.paths import PARTIAL_SUFFIXES, regular_file, shown
from animatediff.weights.storage.pickled import OpaqueTensor, Place
from animatediff.weights.storage.pickles import MAX_TENSOR_NAME, read_pickle
from animatediff.weights.storage.safetensors_header import LIBRARY_HEADER_BYTES, HeaderError, parse_header
from animatediff.weights.storage.unwrap import METADATA_ENTRY, unwrap

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of every key from DistributedDataParallel and torch.compile."""


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: str
    """Number format in torch's name ("float32", "bfloat16"), or the file's own ("F6_E2M3") where torch has none."""
    place: Place = field(repr=False, compare=False, default=Place(offset=0, nbytes=0))
    file: Path | None = field(repr=False, compare=False, default=None)
    """File of its bytes where that is not the header's own: the shard of a model saved in several parts."""
    refusal: str = field(repr=False, compare=False, default="")
    """The reason why it cannot be loaded, to follow its name and the word `is`; empty if it can."""
    stamp: tuple[int, int] | None = field(repr=False, compare=False, default=None)
    """Size of its file in bytes and time of its last change in nanoseconds, by which a later change is noticed."""
    value: torch.Tensor | None = field(repr=False, compare=False, default=None)
    """The tensor itself, of weights that are in memory (`memory.memory_header`)."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Facts about a weight file, without a single tensor read."""

    path: Path
    format: Literal["safetensors", "pickle"]
    size: int
    """Bytes of the whole file."""
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the file holds beside these, or is named like without being it."""
    config: Mapping[str, Any] | None = field(default=None, compare=False)
    """Configuration of weights that are in memory; that of files lies beside them."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape of every tensor."""
        return {key: info.shape for key, info in self.tensors.items()}


def read_header(path: str | Path) -> Header:
    """Names, shapes and dtypes in a .safetensors or pickled file, wrappers unwrapped and `module.` stripped.

    The content decides which of the two it is, not the name. Never runs code from the file, and opens nothing but
    regular files. Raises UserError that says what the file is when it is no weight file.
    """
    path, facts = regular_file(path)
    try:
        header = _header(path, facts)
    except UserError as error:
        if path.suffix.lower() in PARTIAL_SUFFIXES:
            raise UserError(
                f"{error} (the name ends in {shown(path.suffix)}, as of an unfinished download: let it finish, or "
                "start it again)"
            ) from None
        raise
    for note in header.notes:
        logger.info("%s: %s", shown(path), note)
    return header


def _header(path: Path, facts: os.stat_result) -> Header:
    size = facts.st_size
    try:
        with path.open("rb") as file:
            start = file.read(1024)
            file.seek(max(0, size - 1))
            last = file.read(1)
    except PermissionError:
        raise UserError(f"{shown(path)}: permission denied; make the file readable for this user") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)}: cannot be read: {printable(str(error))}") from None
    if not start:
        raise UserError(f"{shown(path)}: empty (0 bytes); download it again")
    stamp = size, facts.st_mtime_ns
    if _is_safetensors(start):
        return _safetensors_header(path, stamp)
    # Pickles of protocols 0 and 1, which torch does not write but attackers do, are text, too.
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04" or (start[:1] in b"(c]}" and last == b"."):
        return _pickle_header(path, stamp)
    if what := what_it_is(start, size):
        raise UserError(f"{shown(path)}: {what}")
    if path.suffix.lower() == ".safetensors":
        raise UserError(
            f"{shown(path)}: named .safetensors but damaged or truncated, or not safetensors: {_first_bytes(start)}; "
            "download it again"
        )
    raise UserError(
        f"{shown(path)}: neither safetensors nor a PyTorch checkpoint, nor any other format that is known here: "
        f"{_first_bytes(start)}; expected weights ({WEIGHT_NAMES})"
    )


def _first_bytes(start: bytes) -> str:
    return f"it begins with the bytes {start[:8].hex(' ')}"


def _is_safetensors(start: bytes) -> bool:
    """Length of a header, and its first brace."""
    if len(start) < 10:
        return False
    length = struct.unpack("<Q", start[:8])[0]
    return start[8:].lstrip(b" \t\r\n")[:1] == b"{" and length <= LIBRARY_HEADER_BYTES


def _safetensors_header(path: Path, stamp: tuple[int, int]) -> Header:
    size = stamp[0]
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if 8 + length > size:
            raise UserError(f"{shown(path)}: truncated inside its header ({size:,} bytes); download it again")
        MAX_HEADER_BYTES.check(length, f"{shown(path)}: its header has {length:,} bytes")
        text = file.read(length)
    try:
        entries, metadata, end = parse_header(text)
    except HeaderError as error:
        reason = printable(str(error)[:200])
        raise UserError(f"{shown(path)}: its safetensors header is damaged ({reason}); download it again") from None
    whole = 8 + length + end
    if whole > size:
        raise UserError(f"{shown(path)}: truncated: {size:,} bytes of {whole:,}; download it again")
    if whole < size:
        raise UserError(
            f"{shown(path)}: damaged: {size - whole:,} bytes follow its last tensor, which no safetensors file has; "
            "download it again"
        )
    infos = {
        name: TensorInfo(
            entry.shape,
            entry.dtype,
            Place(offset=8 + length + entry.begin, nbytes=entry.end - entry.begin),
            refusal="" if entry.dtype in ITEM_SIZES else no_tensor_of(entry.dtype),
            stamp=stamp,
        )
        for name, entry in entries.items()
    }
    notes = () if _is_named(path, ".safetensors") else (f"named {path.suffix}, but its content is safetensors",)
    return Header(
        path=path, format="safetensors", size=size, tensors=_strip(infos, path), metadata=metadata, notes=notes,
    )  # fmt: skip


def _is_named(path: Path, *suffixes: str) -> bool:
    """Whether the name is one of `suffixes`, or of no format at all."""
    return path.suffix.lower() in suffixes or path.suffix.lower() not in WEIGHT_SUFFIXES


def _pickle_header(path: Path, stamp: tuple[int, int]) -> Header:
    contents = read_pickle(path)
    infos: dict[str, TensorInfo] = {}
    try:
        found = unwrap(contents, path)
        for key, tensor in found.tensors.items():
            if isinstance(tensor, OpaqueTensor):
                infos[key] = TensorInfo(tensor.shape, tensor.dtype, refusal=tensor.refusal)
            else:
                infos[key] = TensorInfo(tensor.shape, tensor.dtype, contents.locate(tensor), stamp=stamp)
    except UserError:
        raise
    except (EOFError, ValueError, KeyError, zipfile.BadZipFile, struct.error) as error:
        reason = printable(str(error)[:160])
        raise UserError(f"{shown(path)}: damaged or truncated ({reason}); download it again") from error
    if any(info.place.member is None and info.place.offset + info.place.nbytes > stamp[0] for info in infos.values()):
        raise UserError(
            f"{shown(path)}: truncated: {stamp[0]:,} bytes are fewer than its tensors need; download it again"
        )
    if path.suffix.lower() == ".safetensors":
        found.notes.append("named .safetensors, but its content is a pickled checkpoint, which is read all the same")
    return Header(
        path=path, format="pickle", size=stamp[0], tensors=_strip(infos, path), metadata=found.metadata,
        notes=tuple(found.notes),
    )  # fmt: skip


def _strip(infos: Mapping[str, TensorInfo], path: Path) -> dict[str, TensorInfo]:
    stripped: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        short = name
        while prefix := next((p for p in PREFIXES if short.startswith(p)), ""):
            short = short[len(prefix) :]
        if len(name) > MAX_TENSOR_NAME:
            raise UserError(f"{shown(path)}: a tensor's name of {len(name):,} characters, as no weight file has")
        if short in stripped:
            raise UserError(
                f"{shown(path)}: {short!r} is there twice, with and without a prefix; which one is meant cannot be told"
            )
        stripped[short] = info
    return stripped


def load_tensors(
    source: str | Path | Header,
    keys: Iterable[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, torch.Tensor]:
    """The tensors named in the header (all, or `keys`), each read straight into the one copy that is returned.

    `dtype` converts floating-point tensors, one at a time. Raises UserError for a key that the file does not have, for
    a tensor that is none of plain numbers, and for a file that has changed since its header was read.
    """
    header = source if isinstance(source, Header) else read_header(source)
    wanted = list(header.tensors if keys is None else keys)
    if missing := [key for key in wanted if key not in header.tensors]:
        hint = did_you_mean(missing[0], header.tensors)
        raise UserError(f"{header.path}: has no tensor {missing[0]!r}; {hint}`animatediff inspect` tells what it has")
    check_loadable(header, wanted)
    by_file: dict[Path, list[str]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for key in wanted:
        if (value := header.tensors[key].value) is not None:
            tensors[key] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        else:
            by_file.setdefault(header.tensors[key].file or header.path, []).append(key)
    for path, keys in by_file.items():
        try:
            with path.open("rb") as file:
                _check_unchanged(path, file, header.tensors[keys[0]])
                compressed = any(header.tensors[key].place.member for key in keys)
                archive = zipfile.ZipFile(file) if compressed else None
                for key in keys:
                    tensor = _read(file, archive, header.tensors[key])
                    tensors[key] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{shown(path)}: cannot be read to the end: {error}") from error
    return {key: tensors[key] for key in wanted}


def check_loadable(header: Header, keys: Iterable[str]) -> None:
    """Raise UserError for a tensor among `keys` that `load_tensors` would refuse."""
    import torch

    sizes: dict[Path, int] = {}
    total = 0
    for key in keys:
        info = header.tensors[key]
        reason = info.refusal
        if not reason and not isinstance(getattr(torch, info.dtype, None), torch.dtype):
            reason = f"of number format {info.dtype}, which torch {torch.__version__} has no tensors of"
        nbytes = prod(info.shape) * ITEM_SIZES.get(info.dtype, 0)
        if (
            not reason
            and info.place.stride is not None
            and nbytes > max(MAX_EXPANDED_BYTES.value, 4 * info.place.nbytes)
        ):
            reason = f"a view of {info.place.nbytes:,} bytes that claims to be {nbytes:,}"
        if not reason and prod(side for side in info.shape if side) >= 2**60:  # more than strides can count
            reason = f"of a shape that no tensor has, {list(info.shape)[:8]}"
        if reason:
            raise UserError(f"{shown(header.path)}: its tensor {key!r} is {reason}")
        if info.stamp is not None:
            sizes[info.file or header.path] = info.stamp[0]
            total += nbytes
    beyond = total - 4 * sum(sizes.values())
    MAX_EXPANDED_BYTES.check(
        beyond,
        f"{shown(header.path)}: its tensors come to {total:,} bytes, from files of {sum(sizes.values()):,}: they are "
        "compressed as no weights are, or share their numbers",
    )


def _check_unchanged(path: Path, file: BinaryIO, info: TensorInfo) -> None:
    facts = os.fstat(file.fileno())
    if info.stamp is not None and info.stamp != (facts.st_size, facts.st_mtime_ns):
        raise UserError(f"{shown(path)}: has changed since it was looked at; run this again when it is whole")


def _read(file: BinaryIO, archive: zipfile.ZipFile | None, info: TensorInfo) -> torch.Tensor:
    import torch

    dtype, place = getattr(torch, info.dtype), info.place
    flat = torch.empty(place.nbytes // ITEM_SIZES[info.dtype], dtype=dtype)
    if flat.numel():
        # As bytes, because numpy has no bfloat16. That arrays are buffers, its stubs say only from Python 3.12 on.
        target = memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
        if place.member is None or archive is None:
            file.seek(place.offset)
            filled = file.readinto(target)  # type: ignore[attr-defined]
        else:
            with archive.open(place.member) as part:
                part.seek(place.offset)
                filled = part.readinto(target)  # type: ignore[attr-defined]
        if filled != place.nbytes:
            raise EOFError("the file ends before its last tensor")
        if place.swapped:
            number = ITEM_SIZES[info.dtype] // (2 if dtype.is_complex else 1)
            flat.view(torch.uint8).copy_(flat.view(torch.uint8).view(-1, number).flip(1).flatten())
    if place.stride is None:
        return flat.view(info.shape)
    return flat.as_strided(info.shape, place.stride).contiguous()


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    wrapper: str = "state_dict",
    groups: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Write .safetensors, or a pickle for .ckpt, .pt, .pth and .bin. The file appears whole or not at all.

    `wrapper`: the entry of a pickle that holds the tensors where there is metadata to stand beside it; `groups`:
    several entries of a pickle, each with the names of its tensors. Raises UserError if the folder is missing or not
    writable, or the disk is full.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WEIGHT_SUFFIXES:
        raise UserError(f"{path}: the name must end in .safetensors (recommended), .ckpt, .pt, .pth or .bin")
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder has this name; choose another name")
    unfinished = Unfinished(path)
    temporary = unfinished.path
    try:
        unfinished.create()
        _write(temporary, suffix, _separate(tensors), dict(metadata or {}), wrapper, groups)
        os.replace(temporary, path)
    except Exception as error:
        if (
            isinstance(error, OSError)
            or "os error" in str(error).lower()
            or "PytorchStreamWriter" in str(error)
            or "I/O" in str(error)
        ):
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
            raise UserError(
                f"{path}: could not be written ({reason}); check free space and permissions, nothing is left of it"
            ) from error
        raise
    finally:
        unfinished.remove()


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors that share no memory: views and tied weights are written once each."""
    separate: dict[str, Any] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        if tensor.numel() and (tensor.untyped_storage().data_ptr() in seen or not whole):
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[key] = tensor
    return separate


def _write(
    path: Path,
    suffix: str,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    wrapper: str,
    groups: Mapping[str, Collection[str]] | None = None,
) -> None:
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        path.touch()
        as_usual = path.stat().st_mode
        save_file(tensors, path, metadata=metadata or None)
        with suppress(OSError):  # some file systems have no permissions
            path.chmod(as_usual)  # safetensors makes files that nobody else may read, whatever the umask says
        return
    import torch

    # The original's readers unwrap "state_dict" ("controlnet" of SparseCtrl) and ignore the entry beside it.
    with path.open("wb") as stream:  # given a path, torch would put its name inside
        beside = {METADATA_ENTRY: metadata} if metadata else {}
        if groups is not None:
            torch.save({name: {key: tensors[key] for key in keys} for name, keys in groups.items()} | beside, stream)
        else:
            torch.save({wrapper: tensors, **beside} if beside else tensors, stream)
