"""Where results go and what they are called."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import write_text
from animatediff.render.read.result import sidecar_of
from animatediff.render.request import AnimateRequest

SAMPLES = Path("samples")


def slug(text: str, words: int = 10) -> str:
    """The first words of a prompt as a file name of at most 120 bytes.

    >>> slug("A fox, moving right / on a green background")
    'A-fox-moving-right-on-a-green-background'
    """
    joined = "-".join(re.findall(r"\w+", text)[:words])
    return joined.encode()[:120].decode(errors="ignore") or "clip"


def new_folder(root: Path, stem: str, now: datetime | None = None) -> Path:
    """Make and return `root/{stem}-{YYYY-MM-DDTHH-MM-SS}`, with `-2`, `-3`, ... if a run of that second has it."""
    name = f"{stem}-{(now or datetime.now()).strftime('%Y-%m-%dT%H-%M-%S')}"
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def numbered(out: str, index: int, num_clips: int) -> str:
    """The name of clip `index`: `out` itself if it is the only one, else `name-0.mp4`, `name-1.mp4`, ...

    Raises UserError for several clips and a path without a name, such as `.`.

    >>> numbered("a/fox.mp4", 1, 3)
    'a/fox-1.mp4'
    """
    if num_clips == 1:
        return out
    path = Path(out)
    if not path.name:
        raise UserError(f"{out}: has no name to number {num_clips} clips by; give one, as in --out {path / 'frames'}")
    return str(path.with_name(f"{path.stem}-{index}{path.suffix}"))


def record(request: AnimateRequest) -> dict[str, Any]:
    """What is written inside and beside a result: the request, and the versions it was made with."""
    from importlib.metadata import PackageNotFoundError, version

    from animatediff import __version__

    versions = {}
    for package in ("torch", "diffusers", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"animatediff": __version__, "request": request.stored(), "versions": versions}


def write_sidecar(path: Path, content: dict[str, Any]) -> Path:
    """Write `content` as readable JSON beside a result."""
    import json

    sidecar = sidecar_of(path)
    write_text(sidecar, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return sidecar
