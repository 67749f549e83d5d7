"""Settings that belong to a subject, and have no effect where it is missing: one rule for calls and requests.

A setting names its subject where it is declared (`needs`); the subjects are named in one table a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Subject(Generic[T]):
    """Circumstances in which the settings that need them have an effect."""

    is_there: Callable[[T], bool]
    lacking: str
    """Reason why such a setting has no effect, with the setting that brings the subject, for a message."""


def without_effect(
    settings: Iterable[tuple[str, str, Any, Any]], subjects: Mapping[str, Subject[T]], given: T
) -> list[str]:
    """One sentence for each setting that is given without its subject.

    settings: (name, subject that it needs or "", value, default); a value equal to the default is not given, nor are
    texts that are empty. given: what the subjects are looked for in.
    """
    there: dict[str, bool] = {}
    sentences = []
    for name, needs, value, default in settings:
        if not needs or _is_unset(value, default):
            continue
        if needs not in there:
            there[needs] = subjects[needs].is_there(given)
        if not there[needs]:
            sentences.append(f"`{name}` has no effect: {subjects[needs].lacking}")
    return sentences


def _is_unset(value: Any, default: Any) -> bool:
    if value is default or value is None:
        return True
    if isinstance(value, (str, int, float, bool)):
        return value == default or value == ""
    if not isinstance(value, (list, tuple)):
        return False
    same = isinstance(default, (list, tuple)) and tuple(value) == tuple(default)
    return same or not any(entry is not None and entry != "" and entry != {} for entry in value)
