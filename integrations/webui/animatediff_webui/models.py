"""Where motion modules and MotionLoRAs lie in a host, and which file a name means."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from animatediff.errors import UserError, did_you_mean
from animatediff.weights.kinds import SHORT_TITLES
from animatediff.weights.motion import other_base
from animatediff.weights.recognise import Recognised, recognise
from animatediff_webui.settings import DEFAULT_MODEL, said

SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
EXAMPLES = "v3_sd15_mm.ckpt or mm_sd_v15_v2.ckpt for SD 1.5, mm_sdxl_v10_beta.ckpt for SDXL"


@dataclass(frozen=True)
class Folders:
    """Folders of a host, those that are not there included."""

    modules: tuple[Path, ...]
    """Of motion modules; new ones go into the first."""
    loras: tuple[Path, ...]

    def files(self) -> list[Path]:
        """All motion modules, by name."""
        return [path for path in _weights(self.modules) if _kind(path) == "motion_module"]

    def names(self) -> list[str]:
        """Their names, for the page; with the folder below where two have the same."""
        return list(self._by_name())

    def find(self, name: str) -> Path:
        """The file of a motion module by its name, with suffix or without.

        Raises UserError, with the folders that were read, if there is none, or a file of another kind.
        """
        known = self._by_name()
        for wanted, path in known.items():
            if name in (wanted, path.name, path.stem, str(path)):
                return path
        for path in _weights(self.modules):
            if name in (path.name, path.stem):
                found = recognised(path)
                raise UserError(f"{said('model')}: {path} is a {found.title} ({found.evidence[0]}), no motion module")
        if not known:
            raise UserError(self.nothing())
        read = ", ".join(map(str, self.modules))
        hint = did_you_mean(Path(name).stem, [path.stem for path in known.values()])
        raise UserError(f"{said('model')}: no motion module {name!r}; {hint}found are {', '.join(known)} (in {read})")

    def nothing(self) -> str:
        """The message for a host without motion modules."""
        others = [f"{path.name} {_is_what(path)}" for path in _weights(self.modules)]
        seen = f"; what lies there is none: {', '.join(others[:5])}" if others else ""
        return (
            f"no motion module found. Read were {', '.join(map(str, self.modules))}{seen}. Put one into "
            f"{self.modules[0]}, such as {EXAMPLES}, and press the button beside Motion module"
        )

    def stands_for_another(self, name: str) -> bool:
        """Whether `name` is the usual one, which is not here while others are."""
        names = self.names()
        return name == DEFAULT_MODEL and bool(names) and name not in names

    def fitting(self, base: str) -> str:
        """The first motion module, by name, for this kind of base model: "sd1", "sd2" or "sdxl".

        Raises UserError as `check_kind`, and if there is no such module.
        """
        check_kind(base)
        known = self._by_name()
        for name, path in known.items():
            if fits(recognised(path), base):
                return name
        raise UserError(
            f"{said('model')}: there is no {DEFAULT_MODEL}, and none of {', '.join(known)} is for "
            f"{SHORT_TITLES[base]}; put one for it into {self.modules[0]}, such as {EXAMPLES}"
        )

    def default(self) -> str:
        """The name that the page starts with: the usual one if it is there, else the first."""
        names = self.names()
        return DEFAULT_MODEL if DEFAULT_MODEL in names or not names else names[0]

    def motion_lora(self, name: str) -> Path | None:
        """The file that `<lora:name:...>` means, if it is a MotionLoRA by what is in it."""
        for path in _weights(self.loras):
            if name in (path.stem, path.name) and _kind(path) == "motion_lora":
                return path
        return None

    def _by_name(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in self.files():
            name = path.name if path.name not in found else f"{path.parent.name}/{path.name}"
            found.setdefault(name, path)
        return found


def check_base(found: Recognised, base: str) -> None:
    """Raise UserError for motion modules of another kind of base model than `base`."""
    check_kind(base)
    if not fits(found, base):
        assert found.base is not None
        raise other_base(found.header.path, SHORT_TITLES[found.base], SHORT_TITLES[base])


def check_kind(base: str) -> None:
    """Raise UserError for a base model of a kind that no motion module runs on."""
    if base not in SHORT_TITLES:
        raise UserError(f"the loaded checkpoint is of the kind {base}; motion modules run on SD 1.x, 2.x and SDXL")


def fits(found: Recognised, base: str) -> bool:
    """Whether motion modules are for this kind of base model; SD 2.x has the UNet of SD 1.x."""
    return found.base is None or (found.base == "sdxl") == (base == "sdxl")


def short_hash(path: Path) -> str:
    """The first 8 digits of the SHA-256 of a file."""
    return _hash(path, path.stat().st_mtime_ns)


def recognised(path: Path) -> Recognised:
    """What is in a file; read again when it changes."""
    return _recognised(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _hash(path: Path, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:8]


@lru_cache(maxsize=512)
def _recognised(path: Path, changed: int) -> Recognised:
    return recognise(path)


def _kind(path: Path) -> str:
    try:
        return recognised(path).kind
    except UserError:
        return "unreadable"


def _is_what(path: Path) -> str:
    try:
        return f"is a {recognised(path).title}"
    except UserError:
        return "cannot be read"


def _weights(folders: Iterable[Path]) -> list[Path]:
    """Weight files in these folders and below, each once."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES and path.is_file():
                found.setdefault(path.resolve(), path)
    return list(found.values())
