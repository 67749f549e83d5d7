"""The tensors of a pickled checkpoint below any wrappers, and word of everything that stands beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, printable
from animatediff.weights.storage.budget import Budget
from animatediff.weights.storage.paths import shown
from animatediff.weights.storage.pickled import AnyTensor, PickledStorage
from animatediff.weights.storage.pickles import PickleContents, deeper, module_tensors
from animatediff.weights.storage.unpickle import Inert

BARE = "tensor"
"""Name of the tensor of a pickle that is nothing but one."""
WRAPPERS = ("state_dict", "lora_state_dict", "controlnet", "module", "model")
"""Entries of a checkpoint that hold the weights; they may be nested."""
METADATA_ENTRY = "animatediff_metadata"
"""Entry of a .ckpt of ours for the metadata that safetensors has a place for."""
_LARGEST = 2**63  # of the numbers that metadata has room for


@dataclass
class Unwrapped:
    """Named tensors, plain words beside them, and notes on what is passed over."""

    tensors: dict[str, AnyTensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def unwrap(contents: PickleContents, path: Path) -> Unwrapped:
    """The tensors in a pickle. Raises UserError if it is of another kind than named tensors."""
    root, found, budget = contents.root, Unwrapped(), contents.budget
    if isinstance(root, AnyTensor):
        found.tensors[BARE] = root
        return found
    if isinstance(root, list) and root and all(isinstance(item, AnyTensor) for item in root):
        found.tensors |= {str(index): item for index, item in enumerate(root)}  # LoRAs of 2022 have no names
        return found
    seen: set[int] = set()
    while isinstance(root, dict) and id(root) not in seen:
        seen.add(id(root))
        found.metadata |= _words(root)
        name = next((name for name in WRAPPERS if _wraps(root.get(name))), None)
        if name is None:
            break
        budget.take(len(root))
        beside = {str(key): count for key, value in root.items() if key != name and (count := _count(value, budget))}
        if beside:
            found.notes.append(_passed_over(sum(beside.values()), f"beside {name!r}", beside))
        root = root[name]
    if isinstance(root, Inert) and isinstance(root.state, dict):
        found.tensors |= module_tensors(root, budget)
        if found.tensors:
            found.notes.append(f"a whole pickled model of class {printable(root.source)}: only its tensors are read")
    if not isinstance(root, dict) or (isinstance(root, Inert) and not root and not found.tensors):
        what = "storage" if isinstance(root, PickledStorage) else type(root).__name__
        what = root.source if isinstance(root, Inert) else what
        raise UserError(
            f"{shown(path)}: a pickle of {printable(what)}, not of named tensors; give a checkpoint file, or save the "
            "state_dict() of what it holds"
        )
    beside = {}
    for key, value in root.items():
        taken = dict(_named(value, str(key), budget))
        found.tensors |= taken
        if (count := _count(value, budget) - len(taken)) > 0:
            beside[str(key)] = count
    if not found.tensors:  # networks by their number, states of optimizers: names of more parts
        found.tensors |= dict(_nested(root, budget))
    elif beside:
        found.notes.append(_passed_over(sum(beside.values()), "without a name of their own", beside))
    others = Counter({name: count for name, count in contents.met.items() if not name.startswith("torch.")})
    if isinstance(root, Inert):
        del others[root.source]
    if others:
        found.notes.append(_classes(others))
    return found


def _nested(root: object, budget: Budget) -> Iterator[tuple[str, AnyTensor]]:
    """The tensors in dictionaries and lists within each other, by the names and numbers on the way to them."""
    seen, waiting = set[int](), [("", root)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, AnyTensor):
            yield name, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            budget.take(len(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += reversed([(deeper(f"{name}." if name else "", key), item) for key, item in items])


def _wraps(value: object) -> bool:
    """Whether an entry named as a wrapper is one; a configuration of that name is none."""
    if isinstance(value, Inert):
        return bool(value) or isinstance(value.state, dict)
    return isinstance(value, dict)


def _words(entries: dict[Any, Any]) -> dict[str, str]:
    """Plain words and numbers of a checkpoint."""
    words = {
        key: str(value)[:1000]
        for key, value in entries.items()
        if isinstance(key, str) and isinstance(value, str | int | float)
        if not isinstance(value, int) or abs(value) < _LARGEST
    }
    ours = entries.get(METADATA_ENTRY)
    if isinstance(ours, dict):
        words |= {key: value for key, value in ours.items() if isinstance(key, str) and isinstance(value, str)}
    return words


def _named(value: object, key: str, budget: Budget) -> Iterator[tuple[str, AnyTensor]]:
    """A tensor under its key; those of a dictionary or of a pickled module (ParameterDict) under `key.name`."""
    if isinstance(value, AnyTensor):
        yield key, value
        return
    state = value.state if isinstance(value, Inert) else None
    for source in (value, state):
        if isinstance(source, dict):
            budget.take(len(source))
            yield from ((f"{key}.{name}", item) for name, item in source.items() if isinstance(item, AnyTensor))
    if isinstance(value, Inert):
        yield from ((f"{key}.{name}", item) for name, item in module_tensors(value, budget).items())


def _count(value: object, budget: Budget) -> int:
    """Tensors that can be reached from `value`."""
    count, seen, waiting = 0, set[int](), [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, AnyTensor):
            count += 1
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            budget.take(len(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
            if isinstance(item, Inert):
                waiting.extend((item.state, item.parts))
    return count


def _passed_over(count: int, where: str, beside: dict[str, int]) -> str:
    names = ", ".join(printable(name[:60]) for name in list(beside)[:4])
    more = f" and {len(beside) - 4} more entries" if len(beside) > 4 else ""
    tensors = "1 tensor" if count == 1 else f"{count} tensors"
    return f"passed over: {tensors} {where} (in {names}{more})"


def _classes(met: Counter[str]) -> str:
    names = ", ".join(f"{printable(name[:80])} ({count})" for name, count in met.most_common(5))
    more = f" and {len(met) - 5} more classes" if len(met) > 5 else ""
    return f"passed over: data of class {names}{more}"
