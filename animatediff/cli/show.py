"""The one door for text to the terminal: what a file holds cannot act on it."""

from __future__ import annotations

import sys
from typing import TextIO

from animatediff.errors import printable


def show(text: object = "", *, file: TextIO | None = None) -> None:
    """Print `text`, its control characters as escapes. file: `sys.stdout` if left out."""
    print(printable(str(text)), file=sys.stdout if file is None else file, flush=file is sys.stderr)


def show_json(text: str) -> None:
    """Print JSON text, in which `json.dumps` has escaped what is not ASCII."""
    assert text.isascii(), "JSON is written with its escapes"
    print(text)
