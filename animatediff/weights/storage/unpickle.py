"""A pickle walked without running anything in it: every name that it may import is replaced by an inert stand-in."""

from __future__ import annotations

import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from animatediff.weights.storage.budget import Budget
from animatediff.weights.storage.dtypes import ALIASES, ITEM_SIZES, OPAQUE_DTYPES, STORAGE_DTYPES, STORAGE_SIZES
from animatediff.weights.storage.pickle_names import (
    CONTAINERS,
    is_call,
    is_dangerous,
    is_known,
)
from animatediff.weights.storage.pickled import (
    AnyTensor,
    OpaqueTensor,
    PickledStorage,
    rebuild_from_numpy,
    rebuild_meta,
    rebuild_nested,
    rebuild_parameter,
    rebuild_quantized,
    rebuild_sparse,
    rebuild_subclass,
    rebuild_tensor,
    rebuild_tensor_v3,
)

MAX_NUMBER_BYTES = 400
"""Bytes of a whole number: more than the states of random number generators have, and fewer than Python writes."""
MAX_NAME = 1000
"""Characters of a dotted name."""
MAX_NAMES = 10_000
"""Different names that a pickle may ask for."""
_LIMIT = 2**48
_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": rebuild_parameter,
    "torch._utils._rebuild_sparse_tensor": rebuild_sparse,
    "torch._utils._rebuild_sparse_csr_tensor": rebuild_sparse,
    "torch._utils._rebuild_qtensor": rebuild_quantized,
    "torch._utils._rebuild_nested_tensor": rebuild_nested,
    "torch._utils._rebuild_meta_tensor_no_storage": rebuild_meta,
    "torch._utils._rebuild_wrapper_subclass": rebuild_subclass,
    "torch._utils._rebuild_device_tensor_from_numpy": rebuild_from_numpy,
    "torch._utils._rebuild_xla_tensor": rebuild_from_numpy,
}
_REBUILDS = re.compile(r"torch\.[\w.]*\._rebuild_\w+$")
"""Functions of torch for tensors of kinds that come with a later version."""
_RECONSTRUCTORS = [
    f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__")
]


class RunsCodeError(Exception):
    """The pickle would call something that is no class of data; `args[0]` is its dotted name."""


class Inert(dict[Any, Any]):
    """Stand-in for an object that is no tensor. A dict, so that SETITEM works; `state` holds what BUILD gives."""

    source: ClassVar[str] = ""
    calls: ClassVar[bool] = False
    """The name is that of a function that is not known to be harmless: it may be named, but not called."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = None
        self.parts: list[Any] = []

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def append(self, item: object) -> None:
        """A stand-in for a list is filled by APPEND."""
        self.parts.append(item)

    def extend(self, items: list[Any]) -> None:
        """As `append`."""
        self.parts.extend(items)

    add = append


def _is_inert_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Inert)


def _size(key: object, depth: int = 3) -> int | None:
    """Items of a key that is hashed; None for one that is none: tuples in tuples are hashed again and again."""
    if isinstance(key, tuple):
        sizes = [_size(part, depth - 1) for part in key] if depth and len(key) < 100 else [None]
        return None if None in sizes else sum(size for size in sizes if size is not None) + 1
    return 1 if isinstance(key, str | bytes | int | float | complex | Inert | type | None) else None


def _counted(run: Callable[..., None], take: Callable[[], None]) -> Callable[..., None]:
    def counted(walker: Any) -> None:
        take()
        run(walker)

    return counted


def _number(digits: bytes) -> int:
    """A whole number written as text."""
    if len(digits) > 2 * MAX_NUMBER_BYTES:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits, 0)


if TYPE_CHECKING:

    class _Unpickler(pickle.Unpickler):
        """The parts of the unpickler in Python that stubs leave out."""

        dispatch: ClassVar[dict[int, Callable[..., None]]]
        stack: list[Any]
        append: Callable[[Any], None]
        read: Callable[[int], bytes]
        readline: Callable[[], bytes]
        pop_mark: Callable[[], list[Any]]

else:
    _Unpickler = pickle._Unpickler


class Walker(_Unpickler):
    """The unpickler written in Python, as the one in C allocates whatever a memo index or a length in the file claims.

    `storages` has every storage met, by its key; `met` counts the classes whose objects are passed over.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_Unpickler.dispatch)

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        super().__init__(file, encoding="latin1")
        self._budget = budget
        self.storages: dict[str, PickledStorage] = {}
        self.met: Counter[str] = Counter()
        self._classes: dict[str, type[Inert]] = {}
        self._special: dict[str, Callable[..., Any]] = {
            "torch._tensor._rebuild_from_type": self._from_type,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "torch.tensor._rebuild_from_type": self._from_type,
            "torch.Size": self._tuple,
            "builtins.getattr": self._attribute,
            "__builtin__.getattr": self._attribute,
            "collections.OrderedDict": self._ordered,
            **dict.fromkeys(_RECONSTRUCTORS, self._reconstructed),
        }
        self._functions = {
            *_REBUILD.values(), *self._special.values(), self._list, self._tuple, self._set, self._dict, self._scalar,
        }  # fmt: skip

    @property
    def named(self) -> list[str]:
        """Every name of the pickle that has a stand-in."""
        return list(self._classes)

    def load(self) -> Any:
        """Walk the pickle, every opcode counted. Raises whatever a damaged one leads to."""
        take = self._budget.take
        counted = {code: _counted(run, take) for code, run in self.dispatch.items()}
        vars(self)["dispatch"] = counted  # the base class asks its instance for it
        return super().load()

    # Names

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name. Raises RunsCodeError for one that only an attack has use for."""
        if len(module) + len(name) > MAX_NAME:
            raise ValueError("a name of unlikely length")
        full = f"{module}.{name}"
        if full in _REBUILD or full in self._special:
            return _REBUILD.get(full) or self._special[full]
        if module.split(".")[0] == "torch":
            if name in STORAGE_DTYPES:
                return STORAGE_DTYPES[name]
            if module == "torch" and (name in ITEM_SIZES or name in OPAQUE_DTYPES or name in ALIASES):
                return ALIASES.get(name, name)
        if module in ("builtins", "__builtin__") and name in CONTAINERS:
            return getattr(self, f"_{CONTAINERS[name]}")
        if is_dangerous(module, name):
            raise RunsCodeError(full)
        return self._inert(full, calls=is_call(name) and not is_known(module, name))

    def _inert(self, full: str, *, calls: bool) -> type[Inert]:
        if full not in self._classes:
            if len(full) > MAX_NAME or len(self._classes) >= MAX_NAMES:
                raise ValueError("names of unlikely length or number")
            self._classes[full] = type("Inert", (Inert,), {"source": full[:200], "calls": calls})
        return self._classes[full]

    def persistent_load(self, pid: object) -> Any:
        """A storage; the module of a pickled model, which torch wrote before 1.6, stands for its class."""
        if not isinstance(pid, tuple) or not pid or pid[0] not in ("storage", "module"):
            raise ValueError("an unknown persistent object")
        if pid[0] == "module" and len(pid) > 1:
            return pid[1]
        if len(pid) < 5:
            raise ValueError("an unknown persistent object")
        dtype, key, numel, part = pid[1], pid[2], pid[4], pid[5] if len(pid) > 5 else None
        if not isinstance(dtype, str) or dtype not in STORAGE_SIZES or type(key) is not str:
            raise ValueError("a damaged storage")
        first = 0
        if part is not None:  # (key, first, length) of a storage that is a part of this one
            if not isinstance(part, tuple) or len(part) < 3:
                raise ValueError("a damaged storage")
            first = part[1]
        if not all(type(number) is int and 0 <= number < _LIMIT for number in (numel, first)):
            raise ValueError("a damaged storage")
        storage = PickledStorage(dtype, key, numel, first)
        self.storages.setdefault(key, storage)
        return storage

    # Calls

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise ValueError("a call without a list of arguments")
        self._budget.take(len(args))
        if _is_inert_class(function):
            if _REBUILDS.match(function.source):
                return OpaqueTensor((), "unknown", f"a tensor of a kind not known here ({function.source})")
            if function.calls:
                raise RunsCodeError(function.source)
            return self._made(function, args)
        if callable(function) and not isinstance(function, type) and function in self._functions:
            return function(*args)
        if isinstance(function, Inert):
            raise RunsCodeError(f"the result of {function.source}")
        raise ValueError("a call of something that is no function")

    def _from_type(self, function: Any, cls: Any, args: Any, *state: object) -> Any:
        """A tensor with attributes, or of a subclass: the tensor alone."""
        return self._call(function, args)

    def _attribute(self, owner: Any, name: Any, *default: Any) -> Any:
        """`getattr`, by which members of enumerations and classes inside of classes are pickled."""
        if not (_is_inert_class(owner) or isinstance(owner, Inert)) or not isinstance(name, str):
            raise RunsCodeError("builtins.getattr")
        module = owner.source.rsplit(".", 1)[0]
        if is_dangerous(module, name):
            raise RunsCodeError(f"{owner.source}.{name}")
        return self._inert(f"{owner.source}.{name}", calls=is_call(name) and not is_known(module, name))

    def _count(self, items: Any) -> Any:
        if not isinstance(items, list | tuple | set | frozenset | dict | str | bytes) or isinstance(items, AnyTensor):
            return ()
        self._budget.take(len(items))
        return items

    def _is_key(self, key: object) -> bool:
        size = _size(key)
        self._budget.take((size or 1) - 1)
        return size is not None

    def _list(self, items: Any = (), *rest: Any) -> list[Any]:
        return list(self._count(items))

    def _tuple(self, items: Any = (), *rest: Any) -> tuple[Any, ...]:
        return tuple(self._count(items))

    def _set(self, items: Any = (), *rest: Any) -> set[Any]:
        return {item for item in self._count(items) if self._is_key(item)}

    def _dict(self, items: Any = (), *rest: Any) -> dict[Any, Any]:
        pairs = self._count(items)
        if isinstance(pairs, dict):
            return dict(pairs)
        return {p[0]: p[1] for p in pairs if isinstance(p, tuple | list) and len(p) == 2 and self._is_key(p[0])}

    def _ordered(self, *args: Any) -> OrderedDict[Any, Any]:
        return OrderedDict(self._dict(*args))

    def _scalar(self, value: Any = None, *rest: Any) -> Any:
        """int, float, complex, bool and str, pickled by subclasses of theirs: the value as it is."""
        return value if isinstance(value, int | float | complex | str | bytes) else None

    # Opcodes that call or fill: each as the base class has it, with the functions above in place of the real ones

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def _new(self, cls: Any, args: Any) -> Any:
        if _is_inert_class(cls):  # surely a class, whatever its spelling, as nothing else has __new__
            return self._made(cls, args)
        return self._call(cls, args)

    def _made(self, cls: type[Inert], args: Any) -> Inert:
        made = cls()
        args = args if isinstance(args, tuple) else ()
        self._budget.take(len(args))
        made.parts.extend(args)
        if not is_call(cls.source):  # functions and helpers of NumPy are no data
            self.met[cls.source] += 1
        return made

    def _reconstructed(self, cls: Any, *args: Any) -> Any:
        """`copyreg`'s functions for objects in the oldest protocols."""
        return self._new(cls, args)

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        made: dict[Any, Any] = {}
        self._fill(made, items)
        self.append(made)

    def _fill(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise ValueError("items of something that has none")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if self._is_key(key):
                target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, set | Inert):
            raise ValueError("items of something that has none")
        for item in items:
            if isinstance(target, Inert) or self._is_key(item):
                target.add(item)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(item for item in items if self._is_key(item)))

    def load_append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list | Inert):
            raise ValueError("items of something that has none")
        self.stack[-1].extend(items)

    def load_long(self) -> None:
        self.append(_number(self.readline().rstrip(b"L\n")))

    def load_int(self) -> None:
        line = self.readline().rstrip(b"\n")
        self.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _number(line))

    def load_long1(self) -> None:
        self.append(int.from_bytes(self.read(self.read(1)[0]), "little", signed=True))

    def load_long4(self) -> None:
        length = int.from_bytes(self.read(4), "little", signed=True)
        if not 0 <= length <= MAX_NUMBER_BYTES:
            raise ValueError(f"a whole number of {length:,} bytes")
        self.append(int.from_bytes(self.read(length), "little", signed=True))

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(min(length, 2**31))))

    def load_unsafe(self) -> None:
        """Extension codes and buffers outside of the file: nothing that torch.save writes."""
        raise ValueError("an opcode that no checkpoint has")

    for _code, _run in (
        (pickle.REDUCE, load_reduce), (pickle.NEWOBJ, load_newobj), (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build), (pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict), (pickle.ADDITEMS, load_additems), (pickle.FROZENSET, load_frozenset),
        (pickle.APPEND, load_append), (pickle.APPENDS, load_appends), (pickle.BYTEARRAY8, load_bytearray8),
        (pickle.NEXT_BUFFER, load_unsafe), (pickle.READONLY_BUFFER, load_unsafe), (pickle.EXT1, load_unsafe),
        (pickle.EXT2, load_unsafe), (pickle.EXT4, load_unsafe),
        (pickle.LONG, load_long), (pickle.INT, load_int), (pickle.LONG1, load_long1), (pickle.LONG4, load_long4),
    ):  # fmt: skip
        dispatch[_code[0]] = _run
    del _code, _run
