"""Tensors as a pickle describes them: a storage, and the part of it that the tensor is a view of."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from animatediff.weights.storage.dtypes import ITEM_SIZES, OPAQUE_DTYPES, no_tensor_of

MAX_DIMENSIONS = 64
_LIMIT = 2**48  # elements and bytes; that of all weights ever published together is below


@dataclass(frozen=True, kw_only=True)
class Place:
    """Place of the bytes of one tensor: `nbytes` at `offset` of the file, or of its zip `member` if compressed."""

    offset: int
    nbytes: int
    stride: tuple[int, ...] | None = None
    """In elements; None when rows follow each other without gaps."""
    member: str | None = None
    swapped: bool = False
    """The bytes of each number are in the order of a big-endian machine."""


@dataclass(frozen=True)
class PickledStorage:
    dtype: str
    key: str
    numel: int
    first: int = 0
    """Element of the stored numbers that this storage begins with; some before torch 0.4 are parts of others."""


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

    def place(self, start: int, available: int, *, member: str | None = None, swapped: bool = False) -> Place:
        """The tensor's place, given where its storage starts and how many bytes of it exist.

        Raises EOFError if it does not fit.
        """
        size, span = ITEM_SIZES[self.dtype], self.span()
        first = self.offset + self.storage.first
        if span and (first + span) * size > available:
            raise EOFError(f"a tensor needs {(first + span) * size} bytes of a storage of {available}")
        dense, step = [], 1
        for n in reversed(self.shape):
            dense.insert(0, step)
            step *= n
        gapless = not span or all(n <= 1 or s == d for n, s, d in zip(self.shape, self.stride, dense, strict=True))
        return Place(
            offset=start + first * size if span else start,
            nbytes=span * size,
            stride=None if gapless else self.stride,
            member=member,
            swapped=swapped,
        )


@dataclass(frozen=True)
class OpaqueTensor:
    """A tensor that is listed but cannot be loaded, such as a sparse or a quantized one."""

    shape: tuple[int, ...]
    dtype: str
    refusal: str
    """The reason, to follow its name and the word `is`."""


AnyTensor = PickledTensor | OpaqueTensor


def rebuild_tensor(
    storage: object, offset: object, shape: object, stride: object, grad: object = None, hooks: object = None,
    marks: object = None, *rest: object,
) -> AnyTensor:  # fmt: skip
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if getattr(storage, "source", "") == "torch.storage._load_from_bytes":
        return OpaqueTensor(sizes(shape), "unknown", "stored by pickle.dump; save it again with torch.save")
    if not isinstance(storage, PickledStorage) or type(offset) is not int or not 0 <= offset < _LIMIT:
        raise ValueError("a tensor without storage")
    dims, steps = sizes(shape), sizes(stride)
    if len(dims) != len(steps):
        raise ValueError("a tensor whose shape and strides differ in length")
    if storage.dtype in OPAQUE_DTYPES:
        return OpaqueTensor(dims, storage.dtype, no_tensor_of(storage.dtype))
    if isinstance(marks, dict) and (marks.get("conj") or marks.get("neg")):
        what = "a conjugated or negated view of other numbers; save it again with .resolve_conj().resolve_neg()"
        return OpaqueTensor(dims, storage.dtype, what)
    return PickledTensor(storage, offset, dims, steps, storage.dtype)


def rebuild_tensor_v3(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object, dtype: object,
    marks: object = None,
) -> AnyTensor:  # fmt: skip
    """`torch._utils._rebuild_tensor_v3`: the dtype is stated apart from the storage."""
    plain = rebuild_tensor(storage, offset, shape, stride, grad, hooks, marks)
    name = dtype_name(dtype)
    if not isinstance(plain, PickledTensor):
        return OpaqueTensor(plain.shape, name, plain.refusal)
    if name not in ITEM_SIZES:
        return OpaqueTensor(plain.shape, name, no_tensor_of(name))
    return PickledTensor(plain.storage, plain.offset, plain.shape, plain.stride, name)


def rebuild_parameter(data: object, *rest: object) -> object:
    """`torch._utils._rebuild_parameter` and its like: the tensor that it wraps."""
    return data


def rebuild_sparse(layout: object, data: object, *rest: object) -> OpaqueTensor:
    """`torch._utils._rebuild_sparse_tensor`: indices, values, shape, in an order that depends on the layout."""
    parts = list(data) if isinstance(data, tuple | list) and len(data) <= MAX_DIMENSIONS else []
    tensors = [part for part in parts if isinstance(part, AnyTensor)]
    shape = next((part for part in parts if isinstance(part, tuple | list) and not isinstance(part, AnyTensor)), ())
    dtype = tensors[-1].dtype if tensors else "unknown"
    return OpaqueTensor(sizes(shape), dtype, "a sparse tensor; save it again with .to_dense()")


def rebuild_quantized(storage: object, offset: object, shape: object, *rest: object) -> OpaqueTensor:
    """`torch._utils._rebuild_qtensor`."""
    dtype = storage.dtype if isinstance(storage, PickledStorage) else "unknown"
    return OpaqueTensor(sizes(shape), dtype, "a quantized tensor; save it again with .dequantize()")


def rebuild_nested(buffer: object, *rest: object) -> OpaqueTensor:
    """`torch._utils._rebuild_nested_tensor`; its shape is that of all its numbers in a row."""
    known = isinstance(buffer, AnyTensor)
    shape, dtype = (buffer.shape, buffer.dtype) if known else ((), "unknown")
    return OpaqueTensor(shape, dtype, "a nested tensor, which is no weight")


def rebuild_meta(dtype: object, shape: object, *rest: object) -> OpaqueTensor:
    """`torch._utils._rebuild_meta_tensor_no_storage`."""
    what = "a tensor without numbers (of the meta device): the model was saved before its weights were loaded"
    return OpaqueTensor(sizes(shape), dtype_name(dtype), what)


def rebuild_subclass(cls: object, dtype: object, shape: object, *rest: object) -> OpaqueTensor:
    """`torch._utils._rebuild_wrapper_subclass`: DTensor, quantized tensors of torchao."""
    name = getattr(cls, "source", "unknown")
    what = f"a tensor of class {name}, whose numbers are not stored as such; save it again as a plain tensor"
    return OpaqueTensor(sizes(shape), dtype_name(dtype), what)


def rebuild_from_numpy(data: object, dtype: object, *rest: object) -> OpaqueTensor:
    """`torch._utils._rebuild_device_tensor_from_numpy`, of devices such as XLA."""
    state = getattr(data, "state", None)
    shape = state[1] if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], tuple) else ()
    return OpaqueTensor(sizes(shape), dtype_name(dtype), "kept as a NumPy array; save it again from the CPU")


def dtype_name(dtype: object) -> str:
    """Name of a dtype in a pickle, also of one that is not known here."""
    name = dtype if isinstance(dtype, str) else str(getattr(dtype, "source", "unknown"))
    return name.removeprefix("torch.")[:40]


def sizes(values: Any) -> tuple[int, ...]:
    """A shape or strides. Raises ValueError for anything but a short list of whole numbers."""
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise ValueError("a tensor whose shape is no list of numbers")
    if not all(type(value) is int and 0 <= value < _LIMIT for value in values):
        raise ValueError("a tensor whose shape is no list of whole numbers")
    if prod(value for value in values if value) >= _LIMIT**2:
        raise ValueError("a tensor of unlikely size")
    return tuple(values)
