"""Files in models/, each with the words of `inspect`; what a browser names is one of them, or inside these folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animatediff.bundled import bundled_set, is_bundled
from animatediff.errors import UserError, did_you_mean
from animatediff.files import Roots, is_within
from animatediff.ui.labels import worded

MAX_DEPTH = 3
"""Folders below models/ that are looked into."""


@dataclass(frozen=True)
class Entry:
    """One model: a file, or a folder that is one."""

    value: str
    """Its name in a form and in the record of a result."""
    path: Path
    facts: dict[str, Any]
    """As `inspect` tells them; `error` where it cannot be read."""

    @property
    def title(self) -> str:
        """Its name and the words for its kind."""
        return f"{self.value.removeprefix('models/')} ({self.words})"

    @property
    def words(self) -> str:
        """What it is and for which base model."""
        if "error" in self.facts:
            return "cannot be read"
        made_for = self.facts.get("made_for")
        what = str(self.facts.get("what"))
        return f"{what}, {made_for}" if made_for and made_for not in what else what

    @property
    def settings(self) -> tuple[str, ...]:
        """The options that take it."""
        from animatediff.weights.kinds import KINDS

        kind = KINDS.get(str(self.facts.get("kind")))
        return kind.settings if kind is not None else ()


class Choices:
    """The models that are here. Files are looked into again when their date has changed."""

    def __init__(self, roots: Roots, *, output: Path) -> None:
        """`output`: the folder of results, in which no models are looked for."""
        self.roots, self._output = roots, output
        self._facts: dict[tuple[str, int, int], dict[str, Any]] = {}
        self.entries: list[Entry] = []
        self.refresh()

    def refresh(self) -> None:
        """Look at the folders again."""
        found: dict[str, Entry] = {}
        for root, prefix in self._folders():
            for path in _models_in(root):
                value = (prefix / path.relative_to(root)).as_posix()
                found.setdefault(value, Entry(value, path, self._describe(path)))
        bundled = [Entry(f"bundled/{name}", path, self._describe(path)) for name, path in bundled_set().items()]
        self.entries = [*found.values(), *bundled]

    def of(self, option: str) -> list[tuple[str, str]]:
        """(title, value) of the models that an option takes, and of those in its folder whose kind nothing tells."""
        from animatediff.render.options import PATH_FIELDS

        folder = PATH_FIELDS.get(option)
        listed = [
            entry
            for entry in self.entries
            if option in entry.settings
            or (entry.facts.get("kind") in (None, "unknown") and folder and f"/{folder}/" in f"/{entry.value}")
        ]
        if option == "ip_adapter_encoder":
            listed += [entry for entry in self.entries if entry.facts.get("kind") == "image_encoder"]
        return [*((name, name) for name in _published(option)), *_pairs(listed)]

    def about(self, value: str | None) -> str:
        """A line for one model: kind, size, and the settings that `inspect` recommends."""
        entry = next((entry for entry in self.entries if entry.value == value), None)
        if entry is None:
            return ""
        if "error" in entry.facts:
            return worded(entry.facts["error"])
        settings = entry.facts.get("settings") or {}
        told = ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in settings.items())
        size = str(entry.facts.get("size", "")).partition(" (")[0]
        notes = [str(note) for note in entry.facts.get("notes") or ()]
        return worded(". ".join(filter(None, [f"{entry.words}, {size}", told, *notes])))

    def file_of(self, name: str, option: str) -> str:
        """The file that a browser's name means: a model listed here or within its folders, or one of the hub's names.

        Raises UserError, naming the option, for any other.
        """
        from animatediff.weights.hub import KNOWN_FILES, MOTION_LORAS, is_hub_id

        entry = next((entry for entry in self.entries if entry.value == name), None)
        if entry is not None:
            return name if is_bundled(name) else str(entry.path)
        moves = MOTION_LORAS if option == "motion_loras" else ()
        if is_bundled(name) or name in (*KNOWN_FILES, *_published(option), *moves):
            return name
        if is_hub_id(name) and not os.path.lexists(name):
            return name
        for root, prefix in self._folders():
            inner = [Path(name).relative_to(prefix)] if _starts(name, prefix) else []
            for path in (root / part for part in (name, *inner)):
                full = os.path.abspath(path)
                if is_within(full, os.path.abspath(root)) and os.path.exists(full):
                    return str(path)
        hint = did_you_mean(name, [value for _, value in self.of(option)])
        raise UserError(
            f"`{option}`: {name} is none of the models here; {hint}put it into models/ and press “Refresh”, or start "
            "the page with its folder (--folder)"
        )

    def _folders(self) -> Iterator[tuple[Path, Path]]:
        """Folders of models, and what stands before their names in records."""
        yield from ((folder, Path("models")) for folder in self.roots.models)
        yield from ((folder, Path()) for folder in self.roots.named if folder != self._output)

    def _describe(self, path: Path) -> dict[str, Any]:
        from animatediff.weights.inspect import describe

        try:
            stat = path.stat()
            key = (str(path), stat.st_mtime_ns, stat.st_size)
            if key not in self._facts:
                self._facts[key] = describe(path)
            return self._facts[key]
        except UserError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"{path.name}: cannot be read ({error.strerror})"}


def _published(option: str) -> tuple[str, ...]:
    """Names of models that an option takes from an installed package."""
    if option != "upscaler":
        return ()
    from animatediff.media.upscale import PUBLISHED

    return tuple(PUBLISHED)


def _starts(name: str, prefix: Path) -> bool:
    return bool(prefix.parts) and Path(name).parts[:1] == prefix.parts


def _pairs(entries: list[Entry]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((entry.title, entry.value) for entry in entries))


def _models_in(root: Path) -> Iterator[Path]:
    """Weight files, and folders of the diffusers layout, in a folder of models and in those below."""
    from animatediff.weights.storage.files import WEIGHT_SUFFIXES

    for place, folders, names in os.walk(root, followlinks=True):
        here = Path(place)
        if here != root and ("model_index.json" in names or "config.json" in names):
            folders.clear()
            yield here
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(here.relative_to(root).parts) >= MAX_DEPTH:
            folders.clear()
        yield from (here / name for name in sorted(names) if Path(name).suffix.lower() in WEIGHT_SUFFIXES)


def automatic(option: str) -> str:
    """Words for an option that is left open."""
    if option in ("model", "motion_module"):
        return "Automatic"
    return "the model's own" if option in ("vae", "text_encoder", "text_encoder_2") else "none"
