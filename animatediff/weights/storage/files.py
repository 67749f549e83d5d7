"""Read and write weight files as data: nothing in a file is ever run, and nothing is left half written."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from animatediff.errors import UserError, did_you_mean
from animatediff.weights.storage.pickles import ITEM_SIZES, PickledTensor, Place, read_pickle

if TYPE_CHECKING:
    import torch

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "controlnet", "module", "model")
"""Entries of a checkpoint that hold the weights; they may be nested."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of every key from DistributedDataParallel and torch.compile."""
METADATA_ENTRY = "animatediff_metadata"
"""Entry of a .ckpt of ours for the metadata that safetensors has a place for."""
SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "C64": "complex64", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
NOT_WEIGHTS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the weights: run `git lfs pull` there, or download the file itself",
    ),
    (b"GGUF", "a GGUF file, which is not supported; give the .safetensors or .ckpt file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF document"),
)


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: str
    """Number format in torch's name: "float32", "bfloat16"."""
    place: Place = field(repr=False, compare=False, default=Place(offset=0, nbytes=0))
    file: Path | None = field(repr=False, compare=False, default=None)
    """File of its bytes where that is not the header's own: the shard of a model saved in several parts."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Facts about a weight file, without a single tensor read."""

    path: Path
    format: Literal["safetensors", "pickle"]
    size: int
    """Bytes of the whole file."""
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape of every tensor."""
        return {key: info.shape for key, info in self.tensors.items()}


def read_header(path: str | Path) -> Header:
    """Names, shapes and dtypes in a .safetensors or pickled file, wrappers unwrapped and `module.` stripped.

    Never runs code from the file. Raises UserError that says what the file is when it is no weight file.
    """
    path = Path(path)
    start, size = _look(path)
    if _is_safetensors(start, size):
        return _safetensors_header(path, size)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        raise UserError(
            f"{path}: an HTML page, not weights: the download met a login or error page; download the file itself"
        )
    for magic, what in NOT_WEIGHTS:
        if text.startswith(magic):
            raise UserError(f"{path}: {what}")
    if not start.strip(b"\0"):
        raise UserError(f"{path}: begins with nothing but zero bytes: the download was never filled; download it again")
    if path.suffix == ".safetensors":
        kind = (
            "a pickled checkpoint; rename it to .ckpt"
            if start[:2] in (b"PK", b"\x80\x02")
            else "damaged or truncated, or not safetensors; download it again"
        )
        raise UserError(f"{path}: named .safetensors but {kind}")
    if text[:1] in b"{[" and text[1:2] in b'"\r\n {':
        raise UserError(f"{path}: JSON text, not weights: an error message of a server, or a configuration file")
    return _pickle_header(path, size)


def _look(path: Path) -> tuple[bytes, int]:
    """The first kilobyte and the size, or the reason why there are none."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: a folder, but a file is expected; give the .safetensors or .ckpt file inside")
        with path.open("rb") as file:
            start, size = file.read(1024), file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_hint(path)}") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied; make the file readable for this user") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not size:
        raise UserError(f"{path}: empty (0 bytes); download it again")
    return start, size


def _hint(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", and no folder {folder}"
    try:
        names = [child.name for child in folder.iterdir() if not child.name.startswith(".")]
    except OSError:
        return ""
    hint = did_you_mean(path.name, names).rstrip()
    return f"; {hint}" if hint else f" in {folder.resolve()}"


def _is_safetensors(start: bytes, size: int) -> bool:
    if len(start) < 9:
        return False
    length = struct.unpack("<Q", start[:8])[0]
    return start[8:9] == b"{" and length <= MAX_HEADER_BYTES


def _safetensors_header(path: Path, size: int) -> Header:
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if 8 + length > size:
            raise UserError(f"{path}: truncated inside its header ({size:,} bytes); download it again")
        text = file.read(length)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        infos, end = {}, 0
        for name, entry in entries.items():
            shape, (begin, stop) = tuple(entry["shape"]), entry["data_offsets"]
            dtype = SAFETENSORS_DTYPES[entry["dtype"]]
            if (
                not all(type(n) is int and n >= 0 for n in (*shape, begin, stop))
                or stop - begin != prod(shape) * ITEM_SIZES[dtype]
            ):
                raise ValueError(f"{name!r} has {stop - begin} bytes for shape {shape}")
            infos[name] = TensorInfo(shape, dtype, Place(offset=8 + length + begin, nbytes=stop - begin))
            end = max(end, stop)
        if not all(isinstance(part, str) for pair in metadata.items() for part in pair):
            raise ValueError("metadata that is not text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path}: its safetensors header is damaged ({str(error)[:160]}); download it again") from error
    if 8 + length + end > size:
        raise UserError(f"{path}: truncated: {size:,} bytes of {8 + length + end:,}; download it again")
    return Header(path=path, format="safetensors", size=size, tensors=_strip(infos, path), metadata=metadata)


def _pickle_header(path: Path, size: int) -> Header:
    contents = read_pickle(path)
    entries, metadata = _unwrap(contents.root, path)
    try:
        infos = {key: TensorInfo(t.shape, t.dtype, contents.locate(t)) for key, t in entries.items()}
    except (EOFError, ValueError, KeyError, zipfile.BadZipFile, struct.error) as error:
        raise UserError(f"{path}: damaged or truncated ({str(error)[:160]}); download it again") from error
    if any(info.place.member is None and info.place.offset + info.place.nbytes > size for info in infos.values()):
        raise UserError(f"{path}: truncated: {size:,} bytes are fewer than its tensors need; download it again")
    return Header(path=path, format="pickle", size=size, tensors=_strip(infos, path), metadata=metadata)


def _unwrap(root: object, path: Path) -> tuple[dict[str, PickledTensor], dict[str, str]]:
    """The tensors below any wrappers, and the plain words beside them."""
    metadata: dict[str, str] = {}
    if isinstance(root, PickledTensor):
        return {"tensor": root}, metadata
    seen: set[int] = set()
    while isinstance(root, dict) and id(root) not in seen:
        seen.add(id(root))
        metadata |= {
            key: str(value)[:1000]
            for key, value in root.items()
            if isinstance(key, str) and isinstance(value, str | int | float)
        }
        ours = root.get(METADATA_ENTRY)
        metadata |= (
            {k: v for k, v in ours.items() if isinstance(k, str) and isinstance(v, str)}
            if isinstance(ours, dict)
            else {}
        )
        inner = next((root[name] for name in WRAPPERS if isinstance(root.get(name), dict)), None)
        if inner is None:
            break
        root = inner
    if not isinstance(root, dict):
        raise UserError(f"{path}: a pickle of {type(root).__name__}, not of named tensors; give a checkpoint file")
    tensors: dict[str, PickledTensor] = {}
    for key, value in root.items():
        if isinstance(value, PickledTensor):
            tensors[str(key)] = value
            continue
        state = getattr(value, "state", None)  # a ParameterDict keeps its tensors there (textual inversion of 2022)
        for source in (value, state, state.get("_parameters") if isinstance(state, dict) else None):
            if isinstance(source, dict):
                tensors |= {f"{key}.{name}": item for name, item in source.items() if isinstance(item, PickledTensor)}
    return tensors, metadata


def _strip(infos: Mapping[str, TensorInfo], path: Path) -> dict[str, TensorInfo]:
    stripped: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        short = name
        while prefix := next((p for p in PREFIXES if short.startswith(p)), ""):
            short = short[len(prefix) :]
        if short in stripped:
            raise UserError(
                f"{path}: {short!r} is there twice, with and without a prefix; which one is meant cannot be told"
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

    `dtype` converts floating-point tensors, one at a time. Raises UserError for a key that the file does not have.
    """
    header = source if isinstance(source, Header) else read_header(source)
    wanted = list(header.tensors if keys is None else keys)
    if missing := [key for key in wanted if key not in header.tensors]:
        hint = did_you_mean(missing[0], header.tensors)
        raise UserError(f"{header.path}: has no tensor {missing[0]!r}; {hint}`animatediff inspect` tells what it has")
    by_file: dict[Path, list[str]] = {}
    for key in wanted:
        by_file.setdefault(header.tensors[key].file or header.path, []).append(key)
    tensors: dict[str, torch.Tensor] = {}
    for path, keys in by_file.items():
        try:
            with path.open("rb") as file:
                for key in keys:
                    tensor = _read(file, header.tensors[key])
                    tensors[key] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read to the end: {error}") from error
    return {key: tensors[key] for key in wanted}


def _read(file: BinaryIO, info: TensorInfo) -> torch.Tensor:
    import torch

    dtype, place = getattr(torch, info.dtype), info.place
    flat = torch.empty(place.nbytes // ITEM_SIZES[info.dtype], dtype=dtype)
    if flat.numel():
        # As bytes, because numpy has no bfloat16. That arrays are buffers, its stubs say only from Python 3.12 on.
        target = memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
        if place.member is None:
            file.seek(place.offset)
            filled = file.readinto(target)  # type: ignore[attr-defined]
        else:
            with zipfile.ZipFile(file) as archive:
                part = archive.read(place.member)[place.offset : place.offset + place.nbytes]
            filled = len(part)
            target[:filled] = part
        if filled != place.nbytes:
            raise EOFError("the file ends before its last tensor")
    if place.stride is None:
        return flat.view(info.shape)
    return flat.as_strided(info.shape, place.stride).contiguous()


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    wrapper: str = "state_dict",
) -> None:
    """Write .safetensors, or a pickle for .ckpt, .pt, .pth and .bin. The file appears whole or not at all.

    `wrapper`: the entry of a pickle that holds the tensors where there is metadata to stand beside it. Raises
    UserError if the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    if path.suffix not in WEIGHT_SUFFIXES:
        raise UserError(f"{path}: the name must end in .safetensors (recommended) or .ckpt")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise UserError(f"{path}: a folder has this name; choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, path.suffix, _separate(tensors), dict(metadata or {}), wrapper)
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
        temporary.unlink(missing_ok=True)


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


def _write(path: Path, suffix: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str], wrapper: str) -> None:
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
    torch.save({wrapper: tensors, METADATA_ENTRY: metadata} if metadata else tensors, path)
