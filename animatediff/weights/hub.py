"""The hub: files that the original's users know by name, ids of repositories, and how both are fetched when asked."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from animatediff.errors import Cancelled, UserError, did_you_mean
from animatediff.files import HERE, Roots
from animatediff.weights.fit import some
from animatediff.weights.storage.files import WEIGHT_SUFFIXES
from animatediff.weights.storage.paths import expanded

MOTION_LORAS = (
    "ZoomIn",
    "ZoomOut",
    "PanLeft",
    "PanRight",
    "TiltUp",
    "TiltDown",
    "RollingClockwise",
    "RollingAnticlockwise",
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ALIASES = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
"""Hub ids that are gone -> where the model is now."""
CONNECT_SECONDS = 5
LONGEST_REASON = 160
"""Characters of an error of the hub that a message has."""
_reported: set[str] = set()
_allowed: ContextVar[bool] = ContextVar("network", default=True)

logger = logging.getLogger(__name__)


def is_hub_id(name: str) -> bool:
    """Whether a name that is no file or folder here can be a hub id: `owner/name`, without the suffix of a file."""
    return HUB_ID.fullmatch(name) is not None and Path(name).suffix.lower() not in WEIGHT_SUFFIXES


def current_id(name: str) -> str:
    """`name`, or the id that took its place on the hub; logged once."""
    if name not in ALIASES:
        return name
    if name not in _reported:
        _reported.add(name)
        logger.warning("%s is no longer on the hub; using %s", name, ALIASES[name])
    return ALIASES[name]


@contextmanager
def network(allowed: bool) -> Iterator[None]:
    """While this context lasts, hub ids are fetched (`allowed`), or looked for in the hub's local cache alone.

    In Python, to give a hub id is to ask for it; a command asks only where its line says `download`.
    """
    before = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(before)


def to_be_fetched(name: str) -> bool:
    """Whether a name is a hub id that is neither a folder here nor in the hub's cache, and may be fetched."""
    return _allowed.get() and is_hub_id(name) and not Path(name).exists() and cached_folder(name) is None


def cached_folder(name: str, **of_cache: Any) -> Path | None:
    """The local folder of a repository that was fetched before, under its former id too; None if there is none.

    Never asks the network. of_cache: `revision`, `cache_dir`.
    """
    from huggingface_hub import snapshot_download

    for repository in dict.fromkeys((ALIASES.get(name, name), name)):
        try:
            return Path(snapshot_download(repository, local_files_only=True, **of_cache))
        except (OSError, ValueError):  # the hub's own errors are of these kinds; ids that cannot be are the second
            continue
    return None


def fetch_folder(name: str, wanted: Callable[[Sequence[str]], Sequence[str]], **settings: Any) -> Path:
    """Fetch the files of the repository `name` that `wanted` chooses of all its files; returns its local folder.

    What was fetched before is taken from the cache when the hub cannot be reached. `settings` are the hub's own:
    `revision`, `token`, `cache_dir`, `force_download`, `local_files_only` (the cache alone is looked at). Raises
    UserError where that fails.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{name}: no such file or folder here, and the hub has no such names (OWNER/NAME of letters, digits, - _ . "
            "without -- and .., at most 96)"
        ) from error
    of_list = {key: value for key, value in settings.items() if key in ("revision", "token")}
    of_cache = {key: value for key, value in settings.items() if key in ("revision", "cache_dir")}
    if settings.get("local_files_only") or not _allowed.get():
        if (cached := cached_folder(name, **of_cache)) is not None:
            return cached
        remedy = "leave out `local_files_only`" if settings.get("local_files_only") else "add `download` to fetch it"
        raise UserError(
            f"{name}: no such file or folder here, and it is not in the hub's local cache; {remedy}, or give a local "
            "file or folder"
        )
    repository = current_id(name)
    logger.info("%s: looked for on the hub", name)
    try:
        with _quiet_hub():
            _reach()
            files = HfApi().list_repo_files(repository, **of_list)
            return Path(snapshot_download(repository, allow_patterns=[*wanted(files)], **settings))
    except (UserError, Cancelled):
        raise
    except Exception as error:  # errors of the network are of another library with each generation of the hub's
        is_gone = isinstance(error, RepositoryNotFoundError)
        failure = "no such model on the hub (or it is private)"
        failure = failure if is_gone else f"the hub cannot be reached ({first_line(error)})"
        if (cached := cached_folder(name, **of_cache)) is not None:
            logger.warning("%s: %s; taken as it was fetched before", name, failure)
            return cached
        if is_gone:
            raise UserError(f"{name}: no such file or folder here, and {failure}") from error
        raise UserError(
            f"{name}: no such file or folder here, {failure}, and it is not in the hub's local cache; give a local "
            "single file or folder"
        ) from error


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Leave out the hub library's lines about each attempt: the error says what came of them."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _reach() -> None:
    """Ask the hub for an answer of any kind; without a network its library would go on trying for half a minute.

    Raises the errors of that library's network layer where there is no connection within `CONNECT_SECONDS`.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, timeout=CONNECT_SECONDS)
    except Exception as error:
        if type(error).__name__ != "ReadTimeout":  # by name, as the layer is another with each generation
            raise


def first_line(error: Exception) -> str:
    """An error of the hub in one line."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON].rpartition(' ')[0]} ..."


def located_file(
    source: str | Path, *, weight_name: str | None = None, subfolder: str | None = None, **settings: Any
) -> str | Path:
    """The file of an addition such as a LoRA: `source` itself, the one so named in a folder, or (network) in a hub id.

    A folder without `weight_name` is returned as it is. `settings`: as of `fetch_folder`. Raises UserError for a file
    that is not in the folder, and for a hub repository in which several may be meant.
    """
    path = expanded(source)
    if not path.exists() and is_hub_id(str(source)):
        path = fetch_folder(str(source), partial(_one_of, str(source), weight_name, subfolder or ""), **settings)
    if not path.is_dir():
        return source
    place = path / (subfolder or "")
    if weight_name is None:
        return place if subfolder or place != expanded(source) else source
    if not (place / weight_name).is_file():
        there = sorted(file.name for file in place.glob("*") if file.suffix.lower() in WEIGHT_SUFFIXES)
        hint = did_you_mean(weight_name, there)
        raise UserError(f"{place}: has no file {weight_name!r}; {hint}its weights are {', '.join(there) or 'none'}")
    return place / weight_name


def _one_of(name: str, weight_name: str | None, subfolder: str, files: Sequence[str]) -> list[str]:
    """Of a repository's files, those of the one addition that is meant."""
    inside = [file for file in files if str(Path(file).parent) == (subfolder or ".")]
    if weight_name is not None:
        return [file for file in files if file == f"{subfolder}/{weight_name}".lstrip("/")]
    weights = [file for file in inside if Path(file).suffix.lower() in WEIGHT_SUFFIXES]
    by_stem = {str(Path(file).with_suffix("")): file for file in sorted(weights, key=lambda f: f.endswith("tensors"))}
    if len(by_stem) > 1:
        raise UserError(f"{name}: {len(by_stem)} weight files; name one by `weight_name`: {some(by_stem.values())}")
    return [*by_stem.values(), *(file for file in inside if file.endswith(".json"))]


@dataclass(frozen=True)
class KnownFile:
    """A published file: its hub repository, and the folder below models/ where the original keeps it."""

    repository: str
    folder: str
    megabytes: int
    """About; for messages."""


KNOWN_FILES: dict[str, KnownFile] = {
    "mm_sd_v14.ckpt": KnownFile("guoyww/animatediff", "Motion_Module", 1670),
    "mm_sd_v15.ckpt": KnownFile("guoyww/animatediff", "Motion_Module", 1670),
    "mm_sd_v15_v2.ckpt": KnownFile("guoyww/animatediff", "Motion_Module", 1820),
    "v3_sd15_mm.ckpt": KnownFile("guoyww/animatediff", "Motion_Module", 1670),
    "mm_sdxl_v10_beta.ckpt": KnownFile("guoyww/animatediff", "Motion_Module", 950),
    "v3_sd15_adapter.ckpt": KnownFile("guoyww/animatediff", "Motion_Module", 102),
    **{f"v2_lora_{name}.ckpt": KnownFile("guoyww/animatediff", "MotionLoRA", 78) for name in MOTION_LORAS},
    "pia.ckpt": KnownFile("Leoxing/PIA", "Motion_Module", 1670),
    "v3_sd15_sparsectrl_rgb.ckpt": KnownFile("guoyww/animatediff", "SparseCtrl", 1850),
    "v3_sd15_sparsectrl_scribble.ckpt": KnownFile("guoyww/animatediff", "SparseCtrl", 1860),
    "CameraCtrl.ckpt": KnownFile("hehao13/CameraCtrl", "CameraCtrl", 873),
    "RealEstate10K_LoRA.ckpt": KnownFile("hehao13/CameraCtrl", "DreamBooth_LoRA", 240),
}
"""File name -> where it is."""


def motion_lora_file(name: str | Path, *folders: Path, roots: Roots = HERE) -> str:
    """The file that a short name such as `ZoomIn` or `zoom-in` means; any other name is returned as it is.

    One of that name in `folders` comes first, then one in models/MotionLoRA, whatever its suffix and with or without
    the published prefix, then the published one, which `fetch` finds. Raises UserError for a short name that is none of
    these.
    """
    path = Path(name)
    if path.exists() or path.suffix.lower() in WEIGHT_SUFFIXES or len(path.parts) != 1:
        return str(name)
    wanted = _plain(path.name)
    for folder in (*folders, *(models / "MotionLoRA" for models in roots.models)):
        for file in sorted(folder.glob("*")):
            if file.suffix.lower() in WEIGHT_SUFFIXES and wanted in (_plain(file.stem), _short(file.stem)):
                return str(file)
    for move in MOTION_LORAS:
        if wanted in (_plain(move), _plain(f"v2_lora_{move}")):
            return f"v2_lora_{move}.ckpt"
    raise UserError(
        f"{name}: no MotionLoRA of this name in models/MotionLoRA, and none is published; "
        f"{did_you_mean(wanted, MOTION_LORAS)}give a file, or one of {', '.join(MOTION_LORAS)}"
    )


def _plain(name: str) -> str:
    """Letters and digits alone, small."""
    return "".join(char for char in name.lower() if char.isalnum())


def _short(stem: str) -> str:
    return _plain(stem).removeprefix(_plain("v2_lora_"))


OnBytes = Callable[[int, int], None]
"""(bytes fetched, of how many)."""


def known_file(name: str | Path, *, download: bool, roots: Roots = HERE) -> Path | None:
    """The file of a known name if it is here; None if it has yet to be fetched. Raises UserError as `fetch`."""
    path = Path(name)
    if path.is_file():
        return path
    known = _known(name)
    for models in roots.models:
        if (place := models / known.folder / path.name).is_file():
            return place
    if (cached := cached_file(path.name)) is not None:
        return cached
    if not download:
        raise UserError(
            f"{name}: not here; put it at {roots.models[0] / known.folder / path.name}, or add `download` to fetch it "
            f"from {known.repository} on the hub (about {known.megabytes:,} MB)"
        )
    return None


def cached_file(name: str) -> Path | None:
    """The published file of this name in the hub's local cache; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    known = KNOWN_FILES.get(name)
    found = None if known is None else try_to_load_from_cache(known.repository, name)
    return Path(found) if isinstance(found, str) else None


def fetch(name: str | Path, *, download: bool, roots: Roots = HERE, on_bytes: OnBytes | None = None) -> Path:
    """The file of a known name: from models/, from the hub's cache, or, if `download`, from the hub.

    `on_bytes` may raise to end the transfer, which goes on from there another time. HF_ENDPOINT names another hub.
    Raises UserError for a name that is not known, a file that is not here and may not be fetched, and a download that
    fails.
    """
    if (found := known_file(name, download=download, roots=roots)) is not None:
        return found
    known, file = _known(name), Path(name).name
    return _download(known, file, roots.models[0] / known.folder / file, on_bytes)


def _known(name: str | Path) -> KnownFile:
    file = Path(name).name
    if (known := KNOWN_FILES.get(file)) is not None:
        return known
    hint = did_you_mean(file, KNOWN_FILES).rstrip() or "no published file has this name; give its full path"
    raise UserError(f"{name}: no such file; {hint}")


def _download(known: KnownFile, name: str, place: Path, on_bytes: OnBytes | None) -> Path:
    from huggingface_hub import hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        bar: dict[str, Any] = {}
        if on_bytes is not None and "tqdm_class" in signature(hf_hub_download).parameters:  # not in old versions
            bar["tqdm_class"] = _bar(on_bytes)
        with _quiet_hub():
            _reach()
            return Path(hf_hub_download(known.repository, name, endpoint=endpoint, **bar))
    except (UserError, Cancelled):
        raise
    except Exception as error:  # errors of the network are of another library with each generation of the hub's
        reason = first_line(error)
        raise UserError(
            f"{name}: could not be fetched from {known.repository}{f' at {endpoint}' if endpoint else ''}: "
            f"{reason.rstrip('.')}. Put the file at {place} by hand, or try again"
        ) from error


def _bar(on_bytes: OnBytes) -> Any:
    """A class of progress bars, as the hub's library wants one, that draws nothing and calls `on_bytes` instead."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self.n, self.total = kwargs.get("initial") or 0, kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            on_bytes(int(self.n), int(self.total or self.n))

    return Bar
