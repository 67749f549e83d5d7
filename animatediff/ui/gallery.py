"""Results in the output folder, newest first: their images, their settings, and the way back into the form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from animatediff.errors import UserError
from animatediff.files import FRAME_NAME, Roots
from animatediff.media.formats import FORMATS
from animatediff.render.read.result import load_result, sidecar_of
from animatediff.render.request import AnimateRequest
from animatediff.ui.labels import label
from animatediff.ui.library import uploads_folder
from animatediff.ui.uploads import FOLDER as INPUTS

MAX_DEPTH = 3
"""Folders below the output folder that are looked into."""
SHEETS = (".keyframes.png", ".prompts.png", ".camera.png")
FIRST = ("prompt", "negative_prompt", "model", "motion_module", "seed", "width", "height", "num_frames", "steps")
"""Settings that are shown first."""


@dataclass(frozen=True)
class Result:
    """One clip."""

    path: Path
    changed: float


class Gallery:
    """The output folder."""

    def __init__(self, output: Path, roots: Roots) -> None:
        self.output, self._roots = output, roots

    def results(self) -> list[Result]:
        """All clips, the newest first."""
        return sorted(self._found(self.output, 0), key=lambda one: (one.changed, str(one.path)), reverse=True)

    def thumbnail(self, result: Result) -> tuple[str, str]:
        """The file of a small image of a clip, made once, and its caption."""
        return str(_thumbnail(result)), result.path.stem

    def request(self, path: Path) -> AnimateRequest:
        """The request of a clip. Raises UserError where it carries none, and for files that are gone."""
        return load_result(path, roots=self._roots)

    def named(self, name: str) -> Path:
        """The clip of a name relative to the output folder. Raises UserError for any other file."""
        path = next((one.path for one in self.results() if self.name(one) == name), None)
        if path is None:
            raise UserError(f"{name}: is no longer in the output folder")
        return path

    def name(self, result: Result) -> str:
        """The name of a clip in the output folder."""
        return result.path.relative_to(self.output).as_posix()

    def _found(self, folder: Path, depth: int) -> Iterator[Result]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or (depth == 0 and entry.name == INPUTS):
                continue
            if entry.is_symlink() and not path.exists():
                continue
            if entry.is_dir():
                if sidecar_of(path).is_file() and any(FRAME_NAME.fullmatch(name) for name in os.listdir(path)):
                    yield Result(path, entry.stat().st_mtime)
                elif depth < MAX_DEPTH and not entry.is_symlink():
                    yield from self._found(path, depth + 1)
            elif _is_clip(path):
                yield Result(path, entry.stat().st_mtime)


def table(values: dict[str, object]) -> str:
    """The settings of a clip, for reading, by option."""
    names = [*(name for name in FIRST if name in values), *(name for name in values if name not in FIRST)]
    rows = "".join(f"<tr><th>{escape(label(name))}</th><td>{escape(_plain(values[name]))}</td></tr>" for name in names)
    return f'<table class="ad-settings">{rows}</table>'


def _plain(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        return _plain(value[0])
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    if isinstance(value, dict):
        if "path" in value:
            rest = [f"{key} {item}" for key, item in value.items() if key != "path" and item is not None]
            return " ".join([str(value["path"]), *(f"({text})" for text in rest)])
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return "yes" if value is True else str(value)


def _is_clip(path: Path) -> bool:
    """Whether a file is a clip: PNG files have a record beside them, others are told by their suffix."""
    if path.name.endswith(SHEETS):
        return False
    suffix = path.suffix.lower()
    return suffix in FORMATS and (suffix != ".png" or sidecar_of(path).is_file())


def _thumbnail(result: Result) -> Path:
    import hashlib

    from PIL import Image

    from animatediff.media.read import open_clip

    key = hashlib.sha256(f"{result.path}|{result.changed}".encode()).hexdigest()[:24]
    target = Path(uploads_folder()) / "thumbnails" / f"{key}.webp"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_clip(result.path) as clip:
            image = Image.fromarray(next(iter(clip.frames)))
    except (UserError, OSError):
        image = Image.new("RGB", (128, 128), (90, 90, 90))
    image.thumbnail((256, 256))
    image.save(target, "WEBP")
    return target
