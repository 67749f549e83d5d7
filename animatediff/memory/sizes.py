"""Amounts of memory as people write and read them. No torch here."""

from __future__ import annotations

import re

from animatediff.errors import UserError, brief

Size = str | int
"""Text such as `6GB`, or bytes."""
KB, MB, GB = 1_000, 1_000_000, 1_000_000_000
UNITS = {"": 1, "b": 1, "kb": KB, "mb": MB, "gb": GB, "tb": 1000 * GB, "k": KB, "m": MB, "g": GB, "t": 1000 * GB}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
"""Units by their names in lower case; a number alone is bytes."""
LEAST = 10 * MB
"""The smallest bound: below it nothing can be rendered, and a unit is missing."""


def parse_size(given: object) -> int:
    """Bytes of a size such as `6GB`, `500MB`, `5.5 GiB`, or of a number of bytes. Raises UserError.

    >>> parse_size("6GB"), parse_size("1.5 GiB"), parse_size(2_000_000_000)
    (6000000000, 1610612736, 2000000000)
    """
    found = None
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+(?:[.,]\d+)?)\s*([a-z]*)\s*", given.lower())
        size = float(found[1].replace(",", ".")) * UNITS[found[2]] if found and found[2] in UNITS else None
    else:
        size = float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None
    if size is None or not size < 2**60:
        raise UserError(f"{brief(given)} is no amount of memory; expected one such as 6GB or 500MB")
    if size < LEAST:
        unit = "" if found is not None and found[2] else "; a number alone is bytes"
        raise UserError(f"nothing renders in {brief(given)} of memory{unit}; expected an amount such as 6GB or 500MB")
    return int(size)


def told(size: float) -> str:
    """Bytes for people.

    >>> told(2_560_000_000), told(31_000_000), told(12_000)
    ('2.6 GB', '31 MB', '0.0 MB')
    """
    if size >= GB:
        return f"{size / GB:.1f} GB"
    return f"{size / MB:.0f} MB" if size >= MB else f"{size / MB:.1f} MB"
