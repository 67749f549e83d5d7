"""Residuals of a control network for the skip connections of a UNet."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Residuals(NamedTuple):
    """Residuals for the skip connections of the UNet, and for the output of its mid block."""

    down: tuple[Tensor, ...]
    """(b*f, c, h, w) each, in the order of the UNet."""
    mid: Tensor
    """(b*f, c, h, w)."""

    def scaled(self, by: float) -> Residuals:
        """Multiply all residuals by `by`."""
        return Residuals(tuple(part * by for part in self.down), self.mid * by)

    def plus(self, other: Residuals) -> Residuals:
        """Add the residuals of another control."""
        return Residuals(tuple(a + b for a, b in zip(self.down, other.down, strict=True)), self.mid + other.mid)
