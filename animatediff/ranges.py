"""Ranges of settings, declared where the setting is used and read by every front end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from animatediff.errors import UserError, brief, unknown


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values that a setting takes."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    multiple_of: int | None = None
    unit: str = ""
    why: str = ""
    """Reason for the bounds, for the message."""
    vocabulary: str | None = None
    """Full name of the collection of words that the setting takes, imported when it is first asked for."""

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The words that the setting takes; None where it takes numbers."""
        if self.vocabulary is None:
            return None
        module, _, name = self.vocabulary.rpartition(".")
        words: Iterable[str] = getattr(import_module(module), name)
        return tuple(words)

    def check(self, name: str, value: Any) -> None:
        """Raise UserError unless `value` is in range. name: of the setting."""
        if (words := self.choices) is not None:
            if value not in words:
                raise unknown(name, value, words)
            return
        try:
            finite = math.isfinite(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{name} is a number, got {brief(value)}") from None
        above = finite and (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        if not (above and (self.le is None or value <= self.le)):
            if self.le is None:
                raise UserError(f"{name} must be {self}, got {value}")
            raise UserError(f"{name}={value:g}: {self.why + '; ' if self.why else ''}expected {self}")
        if self.multiple_of and value % self.multiple_of:
            near = max(self.multiple_of, round(value / self.multiple_of) * self.multiple_of)
            raise UserError(f"{name} must be {self}, got {value}; {near} is near")

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.multiple_of:
            return f"a positive multiple of {self.multiple_of}{unit}"
        if self.ge is not None and self.le is not None:
            return f"{self.ge:g} to {self.le:g}{unit}"
        bounds = [("at least", self.ge), ("more than", self.gt), ("at most", self.le)]
        named = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
        return f"{named or 'a finite number'}{unit}"


def ranged(default: Any, *, choices: str | None = None, needs: str = "", **bounds: Any) -> Any:
    """A field of a dataclass with a range.

    choices: full name of the collection of words that it takes; `needs`: the subject without which it has no effect.
    """
    return field(default=default, metadata={"range": Range(vocabulary=choices, **bounds), "needs": needs})


def needing(default: Any, subject: str) -> Any:
    """A field of a dataclass that has no effect without its subject."""
    return field(default=default, metadata={"needs": subject})
