"""A JSON file of animatediff-cli-prompt-travel or of animatediff-cli as it is read: where it looks, what it is told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.media.numbered import find_numbered
from animatediff.render.read.lookup import Lookup

logger = logging.getLogger(__name__)

CONFIG = "config"
"""Folder in which these tools have their configurations."""
DATA = Path("data")
"""Folder in which these tools look for the files that a configuration names."""
LENGTH = 16
"""Frames of a clip there where the command line names no other number."""
SHOWN = 4
"""Names that a message spells out."""


def data_folders(path: Path, roots: Roots = HERE) -> list[Path]:
    """Folders that a configuration's relative names are tried in: its own, `data/` here, its tool's `data/`.

    That one is beside `config/`, in which these tools have their configurations.
    """
    above = [parent.parent / DATA for parent in path.absolute().parents if parent.name == CONFIG][:1]
    own = [folder / DATA for folder in (path.parent, *roots.files)]
    return [path.parent, *own, *(folder for folder in above if folder.is_dir())]


@dataclass
class TravelFile:
    """What readers of single blocks need of the file, and the notes that they leave."""

    where: str
    """Name of the file in messages."""
    folders: Sequence[Path] = ()
    roots: Roots = HERE
    num_frames: int = LENGTH
    """Frames of the clip: texts and images beyond are left out, as there."""
    _notes: dict[tuple[int, str, str], list[str]] = field(default_factory=dict)
    """(level of the log, key, text) -> parts of the key that it is about."""

    def leave_out(self, key: str, text: str, part: str = "") -> None:
        """Note something that the file asks for and that is not carried out."""
        self._note(logging.WARNING, key, text, part)

    def mention(self, key: str, text: str, part: str = "") -> None:
        """Note something that changes no frame, or is carried out in another way."""
        self._note(logging.INFO, key, text, part)

    def _note(self, level: int, key: str, text: str, part: str) -> None:
        parts = self._notes.setdefault((level, key, text), [])
        if part and part not in parts:
            parts.append(part)

    def tell(self) -> None:
        """Log the notes: a line for each key and text."""
        for (level, key, text), parts in self._notes.items():
            logger.log(level, "%s: %s: %s", self.where, f"{key} ({', '.join(parts)})" if parts else key, text)
        self._notes.clear()

    def found(self, name: str) -> Path:
        """The file or folder that a name means. Raises UserError for one outside of the user's folders."""
        return Path(Lookup(self.where, self.folders, self.roots).find(name) or name)

    def images(self, key: str, folder: Any, part: str = "") -> dict[int, Path]:
        """The images of a folder by frame, without those beyond the clip; none where it is missing or empty.

        That is noted, as a block without images does nothing, here as there.
        """
        if not isinstance(folder, str) or not folder.strip():
            self.leave_out(key, "is switched on, but names no folder of images, so it is off", part)
            return {}
        path = self.found(folder)
        images = find_numbered(path) if path.is_dir() else {}
        inside = {frame: image for frame, image in images.items() if frame < self.num_frames}
        if images and not inside:
            first = f"the first image is for frame {min(images)}, and the clip has {self.num_frames}"
            self.leave_out(key, f"is switched on, but off: {first}", part)
        elif not images:
            place = path.parent if part else path
            lacking = "no such folder" if not place.is_dir() else "no image there is named by its frame, as 0012.png"
            self.leave_out(key, f"is switched on, but off for want of images ({place}: {lacking})", part)
        elif len(inside) < len(images):
            self.mention(key, f"images beyond the clip of {self.num_frames} frames are left out", part)
        return inside

    def check_keys(self, key: str, block: Mapping[Any, Any], known: Iterable[str], part: str = "") -> None:
        """Note the keys of a block that mean nothing, there or here."""
        known = set(known)
        if unknown := [str(name) for name in block if name not in known]:
            self.leave_out(key, f"unknown there and here: {some(unknown)}", part)

    def block(self, key: str, value: Any) -> Mapping[str, Any]:
        """A block of settings. Raises UserError for anything else."""
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: {key}: expected settings as {{...}}, got {value!r}")
        return value

    def is_on(self, key: str, block: Mapping[str, Any]) -> bool:
        """Whether the block's switch `enable` is on; noted where it has settings but no switch."""
        if block and "enable" not in block:
            self.leave_out(key, "has no `enable`, so it is off")
        return bool(block.get("enable"))


def some(names: Sequence[Any]) -> str:
    """The first names of a list, for a message."""
    shown = ", ".join(map(str, names[:SHOWN]))
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
