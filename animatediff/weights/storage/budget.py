"""Steps that a pickle may take: counted where a few bytes of it can ask for any amount of work."""

from __future__ import annotations

from animatediff.limits import MAX_PICKLE_ITEMS


class Budget:
    """Items that may still be read, copied or visited. label: of the file, for the message."""

    def __init__(self, label: str) -> None:
        self._label, self._limit, self.used = label, MAX_PICKLE_ITEMS.value, 0

    def take(self, count: int = 1) -> None:
        """Count items. Raises UserError beyond `max_pickle_items`."""
        self.used += count
        if self.used > self._limit:
            what = f"{self._label}: its pickle comes to {self.used:,} items or more, as no weight file"
            MAX_PICKLE_ITEMS.check(self.used, what)
