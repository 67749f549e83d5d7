"""An extension of griffe, which reads the docstrings for the site: examples in them become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^ *>>> .*\n?)(?:^(?! *$).*\n?)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The docstring with fences around each run of `>>>` lines and what they print.

    >>> print(fenced("Add." + chr(10) * 2 + chr(62) * 3 + " 1 + 1" + chr(10) + "2"))
    Add.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text).rstrip()


class Doctests(griffe.Extension):
    """Puts examples of docstrings, which have no section of their own, into code blocks."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
