"""Former names, which go on working and say so once."""

from __future__ import annotations

import warnings


def warn_once(old: str, new: str) -> None:
    """Say that a name has another one now; the same words are shown once a place by Python's own filter."""
    warnings.warn(f"{old} is now {new}", FutureWarning, stacklevel=3)
