"""Renders that resume: how their state is saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from animatediff.pipelines.arguments import SAVE_EVERY_S
from animatediff.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Resume:
    """How the state of clips is saved. Raises UserError for a time out of range."""

    save_every: float = SAVE_EVERY_S
    """Seconds between two saves; what is done sooner writes nothing."""
    anew: bool = False
    """Whether a state that is there is removed, and nothing goes on."""
    folder: Path | None = None
    """Folder of the states; None is that of the results."""

    def __post_init__(self) -> None:
        Range(ge=0, unit="seconds").check("save_every", self.save_every)
