"""The listing of training data: items packed tightly, and findings about the unusable ones."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from animatediff import errors
from animatediff.limits import MAX_ROWS

EXAMPLES = 5
"""Examples of each finding that are kept and shown."""


def printable(name: str) -> str:
    """Write out the bytes of `name` that are not UTF-8, as in file names of old systems."""
    return name.encode("utf-8", "backslashreplace").decode()


class Item(NamedTuple):
    """One video or image with its caption."""

    path: str
    text: str
    name: str
    """Its name in the listing, and in messages."""


class ItemList:
    """Items in one buffer: millions of rows take the memory of their text, and loader processes share it unwritten."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")
        self._most = MAX_ROWS.value

    def append(self, item: Item) -> None:
        """Add an item. Raises UserError beyond `max_rows`."""
        if len(self._ends) >= self._most:
            MAX_ROWS.check(len(self._ends) + 1, f"{item.path}: is item {len(self._ends) + 1:,} of this training data")
        self._bytes += json.dumps(item, ensure_ascii=False).encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self._ends):
            raise IndexError(index)
        start = self._ends[index - 1] if index else 0
        return Item(*json.loads(self._bytes[start : self._ends[index]].decode("utf-8", "surrogateescape")))

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


@dataclass
class Findings:
    """Counts of findings by kind, with the first few examples."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, example: str) -> None:
        """Count one more finding; unprintable letters and bytes of `example` are written out."""
        self.counts[what] = self.counts.get(what, 0) + 1
        listed = self.examples.setdefault(what, [])
        if len(listed) < EXAMPLES:
            listed.append(errors.printable(printable(example)))

    def update(self, other: Findings) -> None:
        """Count those of `other` as well."""
        for what, count in other.counts.items():
            self.counts[what] = self.counts.get(what, 0) + count
            listed = self.examples.setdefault(what, [])
            listed += other.examples.get(what, [])[: EXAMPLES - len(listed)]

    def __len__(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """One line a finding, the most frequent first."""
        result = []
        for what, count in sorted(self.counts.items(), key=lambda pair: -pair[1]):
            more = ", ..." if count > len(self.examples[what]) else ""
            result.append(f"{count} {what}: {', '.join(self.examples[what])}{more}")
        return result


@dataclass
class Listing:
    """Everything that a CSV or JSONL file or a folder names."""

    items: ItemList = field(default_factory=ItemList)
    """Items that exist and have a readable caption; whether they can be decoded is another matter."""
    num_listed: int = 0
    bad: Findings = field(default_factory=Findings)
    """Faults of listed items that cannot be used."""
    notes: Findings = field(default_factory=Findings)
    """Facts worth knowing about items that are used or deliberately left out."""
