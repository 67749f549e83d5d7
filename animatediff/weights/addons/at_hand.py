"""ControlNets and IP-Adapters that lie in models/: which one follows poses, lines, depth, and which one sees faces.

No tensor tells what a ControlNet was trained to follow, so its name, or its folder's, decides; its header decides
whether it is one, and for which base model. Files that cannot be read are passed over: nobody asked for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.addons.controlnet import check_controlnet
from animatediff.weights.addons.ip_adapter import check_adapter_base, check_ip_adapter
from animatediff.weights.recognise import check_setting, recognise
from animatediff.weights.storage.files import WEIGHT_SUFFIXES

CONTROLNETS = "lllyasviel/ControlNet-v1-1"


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What a ControlNet follows in a video."""

    title: str
    """In a sentence."""
    name: re.Pattern[str]
    """In the name of its file, or of its folder."""
    published: Mapping[str, str]
    """Kind of base model -> a published ControlNet, with its repository on the hub."""
    drawn: str = ""
    """Preprocessor that draws it from any video (`media.preprocess`); empty where none does."""


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])({pattern})", re.IGNORECASE)


def _v11(name: str) -> str:
    return f"{name}.pth ({CONTROLNETS})"


FOLLOWED: Mapping[str, Followed] = {
    "lineart": Followed(
        title="line art", drawn="canny", name=_words(r"line[-_]?art|mistoline"),
        published={"sd1": _v11("control_v11p_sd15_lineart"), "sdxl": "TheMistoAI/MistoLine"},
    ),
    "softedge": Followed(
        title="soft edges", drawn="scribble", name=_words(r"soft[-_]?edge|hed(?![a-z])|pidinet"),
        published={
            "sd1": _v11("control_v11p_sd15_softedge"), "sdxl": "SargeZT/controlnet-sd-xl-1.0-softedge-dexined",
        },
    ),
    "canny": Followed(
        title="edges (canny)", drawn="canny", name=_words("canny"),
        published={"sd1": _v11("control_v11p_sd15_canny"), "sdxl": "diffusers/controlnet-canny-sdxl-1.0"},
    ),
    "scribble": Followed(
        title="scribbles", drawn="scribble", name=_words("scribble"),
        published={"sd1": _v11("control_v11p_sd15_scribble"), "sdxl": "xinsir/controlnet-scribble-sdxl-1.0"},
    ),
    "pose": Followed(
        title="poses", drawn="openpose", name=_words(r"(open|dw)?[-_]?pose"),
        published={"sd1": _v11("control_v11p_sd15_openpose"), "sdxl": "thibaud/controlnet-openpose-sdxl-1.0"},
    ),
    "depth": Followed(
        title="depth maps", name=_words("depth|midas|zoe"),
        published={"sd1": _v11("control_v11f1p_sd15_depth"), "sdxl": "diffusers/controlnet-depth-sdxl-1.0"},
    ),
    "normal": Followed(
        title="normal maps", name=_words("normal"), published={"sd1": _v11("control_v11p_sd15_normalbae")},
    ),
}  # fmt: skip
"""Kind of a driving video -> what its ControlNet follows; those of lines in the order in which they are looked for."""
DRIVE_KINDS = ("auto", *FOLLOWED)
"""Words that `drive_kind` takes."""
LINES = ("lineart", "softedge", "canny", "scribble")
"""Kinds that are white lines on black."""

ADAPTERS = ("plus-face", "full-face", "plus", "")
"""Words in the names of IP-Adapters for a portrait, those that hold a face best first; others come after."""
ADAPTER_FILES = {
    "sd1": "ip-adapter-plus-face_sd15.safetensors", "sdxl": "ip-adapter-plus-face_sdxl_vit-h.safetensors",
}  # fmt: skip
ADAPTER_REPOSITORY = "h94/IP-Adapter"


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """What is known of the base model that weights have to fit."""

    kinds: tuple[str, ...] = ()
    """It is one of these (`kinds.BASE_TITLES`); empty where nothing tells."""
    cross_attentions: Sequence[tuple[int, ...]] = field(default=())
    """Shapes of their key projections; empty where nothing tells."""

    @property
    def kind(self) -> str:
        """The likeliest kind."""
        return self.kinds[0] if self.kinds else "sd1"


def followed_by(path: str | Path) -> str | None:
    """The kind of video that a ControlNet follows, by the name of its file or of its folder; None if it does not say.

    >>> followed_by("models/ControlNet/control_v11p_sd15_openpose.pth"), followed_by("control_v11p_sd15_shuffle.pth")
    ('pose', None)
    """
    path = Path(path)
    for part in (path.name, path.parent.name):
        if found := next((kind for kind, followed in FOLLOWED.items() if followed.name.search(part)), None):
            return found
    return None


def find_controlnet(kind: str, folders: Sequence[Path], base: BaseFacts) -> Path | None:
    """The first ControlNet, by name, in these folders that follows a kind of video and fits the base model."""
    for path in _models(folders):
        if followed_by(path) == kind and _passes(lambda path=path: _check_controlnet(path, base)):
            return path
    return None


def find_ip_adapter(folders: Sequence[Path], base: BaseFacts, encoder: str | None = None) -> Path | None:
    """The IP-Adapter in these folders that fits the base model and holds a face best, by its name.

    One whose image encoder is missing is found too, where there is no other: who opens it says what it lacks.
    """
    places = [place for folder in folders for place in (folder, folder / "models", folder / "sdxl_models")]
    files = [file for file in _files(places) if _passes(lambda file=file: _check_adapter(file, base))]
    files.sort(key=_rank)
    whole = (file for file in files if _passes(lambda file=file: _check_whole_adapter(file, base, encoder)))
    return next(whole, files[0] if files else None)


def _rank(file: Path) -> int:
    return next(number for number, word in enumerate(ADAPTERS) if word in file.name.lower().replace("_", "-"))


def _models(folders: Sequence[Path]) -> Iterator[Path]:
    """Weight files, and folders in the layout of diffusers."""
    yield from _files(folders)
    for folder in folders:
        inner = sorted(folder.iterdir()) if folder.is_dir() else []
        yield from (path for path in inner if (path / "config.json").is_file())


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        yield from (file for file in files if file.suffix.lower() in WEIGHT_SUFFIXES)


def _check_controlnet(path: Path, base: BaseFacts) -> None:
    if path.is_file():
        found = recognise(path)
        if found.kind == "unknown":
            raise UserError(f"{path}: unknown")
        check_setting(found, "controlnet", bases=base.kinds)
    check_controlnet(path, text_width=base.cross_attentions[0][1] if base.cross_attentions else None)


def _check_adapter(path: Path, base: BaseFacts) -> None:
    found = recognise(path)
    if found.kind == "unknown":
        raise UserError(f"{path}: unknown")
    check_setting(found, "ip_adapter", bases=base.kinds)
    check_adapter_base(path, base.cross_attentions)


def _check_whole_adapter(path: Path, base: BaseFacts, encoder: str | None) -> None:
    check_ip_adapter(path, encoder, base=base.cross_attentions)


def _passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except (UserError, OSError):
        return False
    return True
