"""Names of results: of files from prompts and titles, of clips of one request by number, of new folders by the time."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path

from animatediff.errors import UserError
from animatediff.render.request import AnimateRequest


def slug(text: str, words: int = 10) -> str:
    """The first words of a prompt as a file name of at most 120 bytes.

    >>> slug("A fox, moving right / on a green background")
    'A-fox-moving-right-on-a-green-background'
    """
    return _name("-".join(re.findall(r"\w+", text)[:words]))


def default_name(request: AnimateRequest, suffix: str = ".mp4") -> str:
    """Name of a result's file, where none is given; that of a folder has no dot."""
    stem = file_stem(request.name) if request.name else slug(request.prompt[0]).lower()
    return f"{stem}{suffix}" if suffix else stem.replace(".", "-")


def file_stem(title: str) -> str:
    """A title as a file name.

    >>> file_stem("my clip/2: mistoonAnime_v2.0")
    'my-clip-2-mistoonAnime_v2.0'
    """
    return _name(re.sub(r"[^\w.-]+", "-", title).strip("-."))


def _name(text: str) -> str:
    """The letters of a name that this system's files can have, in at most 120 bytes."""
    encoding = sys.getfilesystemencoding()
    return text.encode(encoding, "ignore")[:120].decode(encoding, "ignore").strip("-") or "clip"


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
        raise UserError(f"{out}: has no name to number {num_clips} clips by; give one, as in `out` {path / 'frames'}")
    return str(path.with_name(f"{path.stem}-{index}{path.suffix}"))
