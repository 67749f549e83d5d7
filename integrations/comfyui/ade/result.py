"""What a translation gives: the new workflow, and what it does not do as the old one did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """Something that a translated workflow does not do as the old one did."""

    node: str
    """Id of the old node."""
    kind: str
    """Its type."""
    text: str

    def __str__(self) -> str:
        return f"node {self.node}, {self.kind}: {self.text}"


@dataclass(frozen=True)
class Translated:
    """The new workflow, in the format of the old one."""

    workflow: dict[str, Any]
    notes: list[Note]
    replaced: dict[str, str]
    """Id of each old node that is gone or changed -> its type."""
