"""The one door for text to the terminal: what a file holds cannot act on it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from animatediff.errors import printable


def show(text: object = "", *, file: TextIO | None = None) -> None:
    """Print `text`, its control characters as escapes. file: `sys.stdout` if left out."""
    print(printable(str(text)), file=sys.stdout if file is None else file, flush=file is sys.stderr)


@contextmanager
def saying_replaced(paths: Iterable[str | Path | None], quiet: bool = False) -> Iterator[None]:
    """Say on stderr, once the body has ended well, which of the files that it writes were there before."""
    before = [path for path in paths if path is not None and Path(path).exists()]
    yield
    for path in [] if quiet else before:
        show(f"{path}: was there already, and is replaced", file=sys.stderr)


def show_json(text: str) -> None:
    """Print JSON text, in which `json.dumps` has escaped what is not ASCII."""
    assert text.isascii(), "JSON is written with its escapes"
    print(text)
