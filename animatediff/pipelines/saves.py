"""Saved state as the parts of a call see it: what is there to go on with, and where to put theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animatediff.pipelines.state_files import StateFolder


@dataclass
class Saves:
    """Saved state of a call, or of a part of it."""

    found: Mapping[str, Any] | None
    """The state to go on with; None begins anew."""
    due: Callable[[], bool]
    save: Callable[[Mapping[str, Any]], None]
    say: Callable[[str], None]
    """Told where the render goes on."""
    damaged: Callable[[str], None]
    """Told why a state that was tried is no good."""
    folder: StateFolder
    name: str
    """Of the files of the state in the folder."""
    most_bytes: int
    """Of a file with decoded frames."""
    as_bytes: bool
    """Whether decoded frames become bytes anyway."""

    def inside(self, phase: str, **more: Any) -> Saves:
        """The saves of a phase: its state stands inside of this one, with `more` beside it."""
        state = self.at(phase)
        found = None if state is None else state.get("inner")
        return replace(
            self,
            found=found if isinstance(found, Mapping) else None,
            save=lambda inner: self.save({"phase": phase, **more, "inner": inner}),
        )

    def at(self, *phases: str) -> Mapping[str, Any] | None:
        """The state to go on with, if it is of one of these phases."""
        return self.found if self.found is not None and self.found.get("phase") in phases else None
