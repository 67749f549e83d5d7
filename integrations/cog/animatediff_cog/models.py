"""Models that a request can name: those of the bundled set, and those put into `models/` before the image was built.

A name is looked up in the list of what is there and nowhere else: no path, no address and no hub id means a file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from animatediff.bundled import CAMERA_MOVES, PREFIX, bundled_set, is_bundled
from animatediff.errors import UserError, did_you_mean
from animatediff.media.upscale import PUBLISHED
from animatediff.server.catalog import BUNDLED, PLACES, Catalog, Entry
from animatediff.weights.storage.files import WEIGHT_SUFFIXES


class Models:
    """The models of a deployment. `folder`: like the original's models/; it need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._catalog = Catalog((folder,))

    def find(self, name: str, setting: str, shown: str = "") -> str:
        """The file, folder or bundled name that `name` means for a setting.

        With or without its folder and suffix. shown: name of the input. Raises UserError for a name that is none here.
        """
        shown = shown or setting
        names = self.names(setting)
        if name in names:
            return names[name]
        entries = self._catalog.entries()
        if name.startswith(PREFIX) and name in entries:
            return name
        if name in entries:
            return str(entries[name].path)
        found: list[Entry] = []
        for spelling in (name, _without_suffix(name)):  # also a model that is here in another format
            found = found or [entry for entry in self._of(setting) if spelling in _spellings(entry)]
        if len(found) == 1:
            return str(found[0].path)
        if found:
            several = ", ".join(sorted(map(_inner, found)))
            raise UserError(f"{shown}: {name!r} is there several times ({several}); write in full which is meant")
        known = list(names)
        listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        raise UserError(
            f"{shown}: no model {name[:200]!r} here; {did_you_mean(name[:200], known)}"
            f"{f'there are {listed}' if known else 'there are none of this kind'}. Models are put into models/ when "
            "the image is built; paths, addresses and hub ids are not taken"
        )

    def names(self, setting: str) -> dict[str, str]:
        """Names that suit a setting, short where that is clear -> file, folder or bundled name."""
        own = {BUNDLED: BUNDLED} if setting in ("model", "motion_module") else {}
        published = {"upscaler": tuple(PUBLISHED), "motion_loras": CAMERA_MOVES}.get(setting, ())
        own |= {name: name for name in published}
        own |= {name: name for name in _bundled_for(setting)}
        entries = self._of(setting)
        stems = [_without_suffix(Path(_inner(entry)).name) for entry in entries]
        for entry, stem in zip(entries, stems, strict=True):
            own[stem if stems.count(stem) == 1 else _inner(entry)] = str(entry.path)
        return own

    def choices(self, setting: str) -> tuple[str, ...]:
        """The names whose files are what a setting takes, by their content; for a form."""
        return tuple(
            name for name, path in self.names(setting).items() if is_bundled(path) or _suits(Path(path), setting)
        )

    def camera_move(self, name: str, *, model: str | None, motion_module: str | None, shown: str) -> str:
        """The MotionLoRA of a camera move such as `ZoomIn`.

        The bundled model's own, or a file in models/MotionLoRA by that name, with or without `v2_lora_`. Raises
        UserError where there is none.
        """
        if is_bundled(model) or (model is None and motion_module in (None, BUNDLED)):
            return name
        wanted = _plain(name)
        for entry in self._of("motion_loras"):
            if _plain(entry.path.stem).removeprefix("v2lora") == wanted:
                return str(entry.path)
        raise UserError(
            f"{shown}: the MotionLoRA {name} is not here; put v2_lora_{name}.ckpt into models/MotionLoRA and build the "
            "image again (it goes with a motion module of v2)"
        )

    def _of(self, setting: str) -> list[Entry]:
        """Models in the folders of a setting."""
        places = PLACES.get(setting, ())
        return [entry for entry in self._catalog.entries().values() if entry.folder in places and "/" in entry.name]


def is_move(name: str) -> str | None:
    """The camera move that a short name such as `zoom-in` means, if any.

    >>> is_move("zoom-in"), is_move("v2_lora_PanLeft"), is_move("paper")
    ('ZoomIn', 'PanLeft', None)
    """
    plain = _plain(name).removeprefix("v2lora")
    return next((move for move in CAMERA_MOVES if _plain(move) == plain), None)


def _inner(entry: Entry) -> str:
    return entry.name.partition("/")[2]


def _spellings(entry: Entry) -> tuple[str, ...]:
    """Names under which a model is found: relative to models/ or to its folder, its file, without its suffix."""
    inner = Path(_inner(entry))
    return (entry.name, inner.as_posix(), inner.name, _without_suffix(inner.name))


def _without_suffix(name: str) -> str:
    return name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in WEIGHT_SUFFIXES else name


@cache
def _bundled_for(setting: str) -> tuple[str, ...]:
    """Parts of the bundled set for a setting; its MotionLoRAs go by their short names."""
    parts = {name: path for name, path in bundled_set().items() if is_move(name) is None}
    return tuple(PREFIX + name for name, path in parts.items() if _suits(path, setting))


def _suits(path: Path, setting: str) -> bool:
    """Whether a file is what a setting takes first of all, as far as its header tells."""
    from animatediff.weights.inspect import describe
    from animatediff.weights.kinds import KINDS

    try:
        kind = KINDS.get(str(describe(path).get("kind")))
    except (UserError, OSError):
        return False
    return kind is not None and setting in kind.settings[:1]


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
