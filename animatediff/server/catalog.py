"""Models that a client can name: those in the folders of models, and the bundled ones. Names are only looked up.

A name is a key of this table and nothing else, so that no absolute path, no `..` and no hub id can mean a file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from animatediff.bundled import CAMERA_MOVES, PREFIX, bundled_path, bundled_set
from animatediff.errors import did_you_mean
from animatediff.media.upscale import PUBLISHED
from animatediff.render.options import PATH_FIELDS
from animatediff.server.errors import refused
from animatediff.weights.storage.files import WEIGHT_SUFFIXES

BUNDLED = "bundled"
PLACES = {name: (folder,) for name, folder in PATH_FIELDS.items() if folder} | {
    "model": ("StableDiffusion", "DreamBooth_LoRA"),
    "ip_adapter_encoder": ("IP-Adapter",),
    "vae": ("StableDiffusion", "vae_approx"),
}
"""Setting -> folders under models/ in which its names may leave the folder out."""
FRESH_S = 5.0
MAX_ENTRIES = 20_000
_PARTS = {"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "motion_adapter"}
"""Folders inside of a model."""


@dataclass(frozen=True)
class Entry:
    """A model by the name that a client gives it."""

    name: str
    """Relative to models/, with slashes; or of the bundled set."""
    path: Path
    changed: float
    """Seconds since 1970."""

    @property
    def folder(self) -> str:
        """The folder under models/."""
        return self.name.partition("/")[0]


class Catalog:
    """The models in these folders, looked for anew every few seconds."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._found: dict[str, Entry] = {}
        self._until = 0.0

    def entries(self) -> dict[str, Entry]:
        """Name -> model."""
        if time.monotonic() >= self._until:
            found = {entry.name: entry for entry in _bundled()}
            for folder in self._folders:
                for entry in _inside(folder.absolute()):
                    if len(found) < MAX_ENTRIES:
                        found.setdefault(entry.name, entry)
            self._found, self._until = found, time.monotonic() + FRESH_S
        return self._found

    def names(self, setting: str) -> list[str]:
        """Names that a setting is likely to take, those without a folder first."""
        known = self.entries()
        own = [BUNDLED] if setting in ("model", "motion_module") else []
        own += {"motion_loras": CAMERA_MOVES, "upscaler": tuple(PUBLISHED)}.get(setting, ())
        own += [PREFIX + name for name, path in bundled_set().items() if _setting_of(name, path) == setting]
        return [*own, *(name for name, entry in known.items() if entry.folder in PLACES.get(setting, ()))]

    def find(self, name: str, setting: str, param: str) -> str:
        """The file or folder, or the bundled name, that a client's name means. Raises ApiError for any other name."""
        known = self.entries()
        if name == BUNDLED and setting in ("model", "motion_module"):
            return name
        for full in (name, *(f"{folder}/{name}" for folder in PLACES.get(setting, ()))):
            if (entry := known.get(full)) is not None:
                return name if full.startswith(PREFIX) else str(entry.path)
        if (setting == "motion_loras" and self._is_move(name)) or (setting == "upscaler" and name in PUBLISHED):
            return name
        names = self.names(setting)
        listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise refused(
            f"{param}: no model {name[:200]!r} here; {did_you_mean(name[:200], names)}"
            f"{f'there are {listed}' if names else 'there are none'}. Models are named relative to the folders of the "
            "server; paths, hub ids and downloads are not taken (GET /v1/models lists them)",
            param,
            "model_not_found",
        )

    def _is_move(self, name: str) -> bool:
        """Whether a name is the short one of a MotionLoRA, `ZoomIn` or `zoom-in`, as the command line takes it."""
        plain = "".join(char for char in name.lower() if char.isalnum())
        if len(name) > 64 or not name.replace("-", "").replace("_", "").isalnum():
            return False
        here = [Path(entry).stem for entry in self.entries() if entry.startswith("MotionLoRA/")]
        known = ("".join(char for char in stem.lower() if char.isalnum()) for stem in (*CAMERA_MOVES, *here))
        return plain in {spelling for stem in known for spelling in (stem, stem.removeprefix("v2lora"))}


def _setting_of(name: str, path: Path) -> str:
    """The setting that takes a part of the bundled set."""
    if path.is_dir():
        return "model"
    if name in CAMERA_MOVES:
        return ""  # by its short name
    if name in ("domain_adapter", "camera_control"):
        return name
    return "sparsectrl" if name.startswith("sparsectrl") else "loras"


def _bundled() -> Iterator[Entry]:
    yield Entry(BUNDLED, bundled_path(), bundled_path().stat().st_mtime)
    for name, path in bundled_set().items():
        yield Entry(PREFIX + name, path, path.stat().st_mtime)


def _inside(root: Path) -> Iterator[Entry]:
    """Weight files and diffusers folders below a folder of models; links in there are followed."""
    seen = set[str]()
    for place, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folder = Path(place)
        if {"model_index.json", "config.json"} & set(files) and folder != root:
            yield _entry(folder, root)
            folders[:] = sorted(name for name in folders if name not in _PARTS and not name.startswith("."))
            if "config.json" in files and "model_index.json" not in files:
                continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in WEIGHT_SUFFIXES and not name.startswith("."):
                yield _entry(folder / name, root)


def _entry(path: Path, root: Path) -> Entry:
    try:
        changed = path.stat().st_mtime
    except OSError:
        changed = 0.0
    return Entry(path.relative_to(root).as_posix(), path, changed)
