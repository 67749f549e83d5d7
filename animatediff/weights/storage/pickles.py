"""Read what a PyTorch pickle holds, without running anything in it.

Both layouts of `torch.save` are read: the zip archive (torch 1.6 and later) and the stream before it. The pickle is
walked by Python's own unpickler with every name it may import replaced by an inert stand-in; a name outside the short
list below is refused.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from animatediff.errors import UserError

ITEM_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "complex64": 8, "complex128": 16, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4,
    "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
MAX_PICKLE_BYTES = 64 * 2**20  # that of a 12 GB SDXL checkpoint is below 1 MB

# Modules whose objects published checkpoints carry beside their tensors. They become `Inert`: nothing of theirs is
# imported or called.
INERT_MODULES = (
    "omegaconf",
    "typing",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "numpy",
    "pathlib",
    "argparse",
    "transformers",
    "diffusers",
)
INERT_NAMES = {
    ("_codecs", "encode"), ("collections", "defaultdict"), ("collections", "Counter"), ("torch", "device"),
    ("torch", "Tensor"), ("torch.nn.modules.container", "ParameterDict"), ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"), ("builtins", "object"), ("__builtin__", "object"),
    ("torch.torch_version", "TorchVersion"),
}  # fmt: skip
CONTAINERS: dict[str, type] = {
    "dict": dict,
    "list": list,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "complex": complex,
}
UNSAFE_OPCODES = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4)


class RunsCodeError(Exception):
    """The pickle names something outside the list of harmless names; `args[0]` is its dotted name."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Place of the bytes of one tensor: `nbytes` at `offset` of the file, or of its zip `member` if compressed."""

    offset: int
    nbytes: int
    stride: tuple[int, ...] | None = None
    """In elements; None when rows follow each other without gaps."""
    member: str | None = None


@dataclass(frozen=True)
class PickledStorage:
    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class PickledTensor:
    storage: PickledStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    def span(self) -> int:
        """Elements from the first to the last one used, both included."""
        return 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    def place(self, start: int, available: int, member: str | None) -> Place:
        """The tensor's place, given where its storage starts and how many bytes of it exist.

        Raises EOFError if it does not fit, ValueError if it repeats elements.
        """
        size, span = ITEM_SIZES[self.dtype], self.span()
        if (self.offset + span) * size > available:
            raise EOFError(f"a tensor needs {(self.offset + span) * size} bytes of a storage of {available}")
        if prod(self.shape) > span:
            raise ValueError("an expanded tensor (stride 0); save the file again with .contiguous() tensors")
        dense, step = [], 1
        for n in reversed(self.shape):
            dense.insert(0, step)
            step *= n
        gapless = all(n <= 1 or s == d for n, s, d in zip(self.shape, self.stride, dense, strict=True))
        return Place(
            offset=start + self.offset * size,
            nbytes=span * size,
            stride=None if gapless else self.stride,
            member=member,
        )


def _inert(name: str) -> type:
    """A class, new for every unpickling, whose instances keep what the pickle gives them and do nothing."""

    class Inert(dict):
        """Stand-in for an object that is no tensor. A dict, so that SETITEM works; `state` holds what BUILD gave."""

        source = name

        def __new__(cls, *args: object, **kwargs: object) -> Inert:
            return super().__new__(cls)

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__()

        def __setstate__(self, state: object) -> None:
            self.__dict__["state"] = state

        def __hash__(self) -> int:  # type: ignore[override]
            return id(self)

        def __eq__(self, other: object) -> bool:
            return self is other

        def append(self, item: object) -> None:
            """Lists of omegaconf are filled by APPEND; nothing in them is needed."""

        def extend(self, items: object) -> None:
            """As `append`."""

    return Inert


def _shape(values: object) -> tuple[int, ...]:
    if (
        not isinstance(values, tuple | list)
        or not all(type(v) is int and 0 <= v < 2**48 for v in values)
        or len(values) > 16
    ):
        raise ValueError("a tensor whose shape is no list of whole numbers")
    return tuple(values)


def _rebuild_tensor(storage: object, offset: object, shape: object, stride: object, *rest: object) -> PickledTensor:
    if not isinstance(storage, PickledStorage) or type(offset) is not int or offset < 0:
        raise ValueError("a tensor without storage")
    dims, steps = _shape(shape), _shape(stride)
    if len(dims) != len(steps):
        raise ValueError("a tensor whose shape and strides differ in length")
    return PickledTensor(storage, offset, dims, steps, storage.dtype)


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    grad: object,
    hooks: object,
    dtype: object,
    *rest: object,
) -> PickledTensor:
    if dtype not in ITEM_SIZES:
        raise ValueError("a tensor of unknown dtype")
    plain = _rebuild_tensor(storage, offset, shape, stride)
    return PickledTensor(plain.storage, plain.offset, plain.shape, plain.stride, str(dtype))


def _rebuild_parameter(data: object, *rest: object) -> object:
    return data


_TORCH: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch", "Size"): lambda *args: tuple(args[0]) if args else (),
}


# The unpickler written in Python, as the one in C allocates whatever a memo index or a length in the file claims.
class _Walker(pickle._Unpickler):  # type: ignore[name-defined]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: run
        for code, run in pickle._Unpickler.dispatch.items()  # type: ignore[attr-defined]
        if bytes([code]) not in UNSAFE_OPCODES
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self._inert_classes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TORCH:
            return _TORCH[module, name]
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch" and name in ITEM_SIZES:
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("builtins", "__builtin__") and name in CONTAINERS:
            return CONTAINERS[name]
        if (module, name) in INERT_NAMES or module.split(".")[0] in INERT_MODULES:
            return self._inert_classes.setdefault(f"{module}.{name}", _inert(f"{module}.{name}"))
        raise RunsCodeError(f"{module}.{name}")

    def persistent_load(self, pid: object) -> PickledStorage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ValueError("an unknown persistent object")
        dtype, key, numel = pid[1], pid[2], pid[4]
        if dtype not in ITEM_SIZES or type(key) is not str or type(numel) is not int or not 0 <= numel < 2**48:
            raise ValueError("a damaged storage")
        return PickledStorage(dtype, key, numel)


def _walk(file: BinaryIO) -> Any:
    return _Walker(file).load()


@dataclass(frozen=True)
class PickleContents:
    """The pickled object, its tensors as `PickledTensor`, and `locate` to find their bytes."""

    root: Any
    locate: Callable[[PickledTensor], Place]


def read_pickle(path: Path) -> PickleContents:
    """Walk the pickle of a `torch.save` file. Raises UserError for code in it, damage, and any other kind of file."""
    try:
        with path.open("rb") as file:
            return _read_zip(path, file) if file.read(4) == b"PK\x03\x04" else _read_legacy(file)
    except RunsCodeError as error:
        raise UserError(
            f"{path}: refused, this is a pickle that would run code: it asks for {str(error)[:120]!r}, which no "
            "weight file needs. Nothing of it was run. Look for the same weights as .safetensors."
        ) from None
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the file decides what the walk does; whatever it raises means that the file is damaged
        reason = str(error)[:160] or type(error).__name__
        raise UserError(
            f"{path}: damaged or truncated, or no PyTorch checkpoint ({reason}); download it again"
        ) from error


def _read_zip(path: Path, file: BinaryIO) -> PickleContents:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise UserError(
            f"{path}: truncated: the archive's index, which comes last, is missing after "
            f"{path.stat().st_size:,} bytes; download it again"
        ) from None
    names = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        what = "a TorchScript archive" if any("/code/" in name for name in names) else "a zip archive without weights"
        raise UserError(f"{path}: {what}, not a checkpoint; unpack it, or give the .ckpt or .safetensors file inside")
    prefix = pickles[0][: -len("data.pkl")]
    if any("/code/" in name for name in names):
        raise UserError(
            f"{path}: a TorchScript archive holds code, not only weights; look for the .ckpt or .safetensors file"
        )
    if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
        raise UserError(
            f"{path}: written on a big-endian machine, which is not supported; convert it to .safetensors there"
        )
    if names[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise ValueError("a pickle of unlikely size")
    root = _walk(io.BytesIO(archive.read(pickles[0])))
    starts: dict[str, tuple[int, int, str | None]] = {}

    def start_of(key: str) -> tuple[int, int, str | None]:
        info = names.get(f"{prefix}data/{key}")
        if info is None:
            raise EOFError(f"storage {key!r} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
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
        return tensor.place(*starts[key])

    return PickleContents(root, locate)


def _read_legacy(file: BinaryIO) -> PickleContents:
    """Five pickles (magic, protocol, machine, object, storage keys), then each storage's int64 length and bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = io.BytesIO(file.read(min(size, MAX_PICKLE_BYTES)))
    if _walk(head) != LEGACY_MAGIC:
        raise UserError(
            f"{getattr(file, 'name', 'file')}: a pickle, but not one that torch.save wrote; "
            "give a .ckpt or .safetensors file"
        )
    _walk(head)
    machine = _walk(head)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ValueError("written on a big-endian machine")
    root = _walk(head)
    keys = _walk(head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the list of storages is damaged")
    first, spans = head.tell(), dict[str, tuple[int, int]]()

    def locate(tensor: PickledTensor) -> Place:
        storage = tensor.storage
        if not spans:
            sizes = _storage_sizes(root)
            position = first
            for key in keys:
                nbytes = sizes.get(key, 0)
                spans[key] = (position + 8, nbytes)
                position += 8 + nbytes
        start, nbytes = spans[storage.key]
        if start + nbytes > size:
            raise EOFError(f"the file ends inside storage {storage.key!r}")
        return tensor.place(start, nbytes, None)

    return PickleContents(root, locate)


def _storage_sizes(root: object) -> dict[str, int]:
    """Bytes of every storage that the object reaches."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if isinstance(item, PickledTensor):
            sizes[item.storage.key] = item.storage.numel * ITEM_SIZES[item.storage.dtype]
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
            state = getattr(item, "state", None)
            waiting.extend([state] if state is not None else [])
    return sizes
