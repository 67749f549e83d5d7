"""Former names, which go on working and say so once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


def warn_once(old: str, new: str) -> None:
    """Warn that a name has changed; Python's own filter shows the same words once a place."""
    warnings.warn(f"{old} is now {new}", FutureWarning, stacklevel=3)


def former(old: str, new: str) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module that stands in the former place of another: its names, with a warning."""

    def find(name: str) -> Any:
        if name.startswith("__"):  # questions of the import system
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value = getattr(import_module(new), name)
        warn_once(old, new)
        return value

    return find
