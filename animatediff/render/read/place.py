"""Settings of a configuration that do not say how a clip is rendered: what of them is followed, and what is not."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from animatediff.files import is_within
from animatediff.weights.storage.paths import shown

logger = logging.getLogger(__name__)

_DRIVE = re.compile(r"[A-Za-z]:")


def without_what_is_not_its_own(values: Mapping[str, Any], where: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without `download`, and with `out` only as a new file below the working directory; the rest is said.

    overrides: settings of the user, who decides both.
    """
    values = dict(values)
    if values.pop("download", False) and not overrides.get("download"):
        logger.warning(
            "%s: `download` is left out: a file does not decide that the network is asked; give it yourself", where
        )
    out = values.pop("out", None)
    if out is None or "out" in overrides:
        return values
    if (reason := _refusal(out)) is not None:
        logger.warning("%s: `out` %s is left out: %s; give it yourself if you want it", where, shown(str(out)), reason)
        return values
    prompts = overrides.get("prompt", values.get("prompt"))
    values["out"] = free = free_name(out, len(prompts) if isinstance(prompts, list | tuple) else 1)
    if free != out:
        logger.warning(
            "%s: `out` %s is there already, and a file does not decide that it is replaced: written to %s; give `out` "
            "yourself to replace it",
            where,
            shown(out),
            shown(free),
        )
    return values


def _refusal(out: Any) -> str | None:
    """The reason why a file does not decide that results go there; None where it does."""
    if not isinstance(out, str) or not out.strip() or "\0" in out:
        return "it is no name of a file"
    path = Path(out.replace("\\", "/"))
    if path.is_absolute() or out.startswith("~") or _DRIVE.match(out) or ".." in path.parts or "\\" in out:
        return "a file says where results go only below the working directory"
    if not path.name or any(part.startswith(".") for part in path.parts):
        return "hidden files and folders, and the working directory itself, are left alone"
    if not is_within(os.path.realpath(path.parent), os.path.realpath(".")):
        return "by a link it leads out of the working directory"
    return None


def free_name(out: str, num_clips: int) -> str:
    """`out`, or `NAME-2`, ... where the clips or the files beside them would replace something."""
    path, number = Path(out), 1
    candidate = path
    while _is_taken(candidate, num_clips):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return out if number == 1 else str(candidate)


def _is_taken(path: Path, num_clips: int) -> bool:
    stems = [path.stem] if num_clips == 1 else [f"{path.stem}-{index}" for index in range(num_clips)]
    beside = (path.suffix, f"{path.suffix}.json", ".keyframes.png", ".prompts.png", ".camera.png")
    return any(os.path.lexists(path.with_name(stem + ending)) for stem in stems for ending in beside)
