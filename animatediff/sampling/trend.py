"""A tensor that changes slowly from step to step, known at some steps and continued to the ones after them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Trend:
    """The last value, the step it is of, and how it came there from the value before."""

    step: int
    value: Tensor
    slope: Tensor | None = None
    """Change a step; None where only one value is known."""

    def next(self, step: int, value: Tensor) -> Trend:
        """The trend with a newer value, or with that of the same step again; one of an earlier step begins anew."""
        if step <= self.step:
            return Trend(step, value, self.slope if step == self.step else None)
        return Trend(step, value, (value - self.value) / (step - self.step))

    def at(self, step: int, share: float = 1.0) -> Tensor:
        """The value at a later step, by a straight line (TaylorSeer of first order, arXiv 2503.06923).

        share: how much of the slope is believed, from 0 (the last value as it is) to 1.
        """
        if self.slope is None or step == self.step or share == 0:
            return self.value
        return self.value + self.slope * (share * (step - self.step))


def known(trend: Trend | None, step: int, value: Tensor) -> Trend:
    """A trend that goes on, or begins, with this value."""
    return Trend(step, value) if trend is None else trend.next(step, value)
