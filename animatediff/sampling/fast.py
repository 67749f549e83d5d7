"""Fast mode: which steps of a schedule run the whole UNet, and which know the prompt alone.

Between full steps the deep features of the last full one are used again (`features`). Between guided steps the
difference that the prompt made is used again (FasterCache, arXiv 2410.19355, without its split by frequencies): half
of the UNet's work is saved, and guidance stays as strong.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from torch import Tensor

from animatediff.sampling.features import DeepFeatures

OFF = "off"
LEVELS = (OFF, "balanced", "max")
"""Levels of fast mode."""
FEWEST_STEPS = 12
"""Steps below which fast mode is off: the outputs of so few differ too much from one to the next."""


@dataclass(frozen=True)
class FastPlan:
    """Steps of a schedule, by number, that are made with all layers or with both halves of guidance."""

    full: frozenset[int]
    guided: frozenset[int]
    """Some of the full ones."""


_CALIBRATED = {
    "balanced": FastPlan(frozenset((0, 1, 2, 4, 6, 8, 11, 14, 18, 24)), frozenset((0, 1, 2, 4, 6, 8, 11, 14, 18, 24))),
    "max": FastPlan(frozenset((0, 1, 3, 5, 9, 14, 20)), frozenset((0, 1, 3, 5, 9, 14, 20))),
}
_CALIBRATED_STEPS = 25


def fast_plan(level: str, num_steps: int) -> FastPlan | None:
    """The steps of a level (one of `LEVELS`) in a schedule of so many; None where all steps are made whole.

    Both kinds stand where the clip changes most when they are left out, found by search on the bundled model at 25
    steps (`benchmarks/fast.py --calibrate`); other numbers of steps have them at the same fractions of the schedule.
    """
    if level == OFF or num_steps < FEWEST_STEPS:
        return None
    calibrated = _CALIBRATED[level]
    full = _stretched(calibrated.full, num_steps)
    # those of one age: a difference of an older half and a newer one would be guidance into nowhere
    return FastPlan(full, frozenset(_nearest(step, full) for step in _stretched(calibrated.guided, num_steps)))


def _stretched(steps: frozenset[int], num_steps: int) -> frozenset[int]:
    """Steps of the calibrated schedule in one of another length: as many in proportion, as dense where those are."""
    known = sorted(steps)
    wanted = max(2, round(len(known) * num_steps / _CALIBRATED_STEPS))
    last, unit = len(known) - 1, (num_steps - 1) / (_CALIBRATED_STEPS - 1)
    found: set[int] = set()
    for index in range(wanted):
        place = index * last / (wanted - 1)
        low = int(place)
        step = known[low] + (place - low) * (known[min(low + 1, last)] - known[low])
        found.add(round(step * unit))
    return frozenset(found)


def _nearest(step: int, steps: frozenset[int]) -> int:
    return min(steps, key=lambda other: abs(other - step))


@dataclass
class FastSteps:
    """What fast sampling keeps between steps, and which step is under way."""

    plan: Callable[[int], FastPlan | None]
    """Number of steps of a schedule -> its plan."""
    features: DeepFeatures
    _step: int = 0
    _now: FastPlan | None = None
    _differences: dict[Hashable, Tensor] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether this step runs all layers."""
        return self._now is None or self._step in self._now.full

    def difference(self, clips: Hashable) -> Tensor | None:
        """What the prompt of these clips made of the last guided step, where this step may use it again."""
        if self._now is None or self._step in self._now.guided:
            return None
        return self._differences.get(clips)

    def starts_anew(self, step: int, num_steps: int) -> bool:
        """Whether a step uses nothing that an earlier one left."""
        plan = self.plan(num_steps)
        return plan is None or (step in plan.full and step in plan.guided)

    def keep_difference(self, clips: Hashable, difference: Tensor) -> None:
        """Keep prediction with the prompt minus that without, (b, c, f, h, w)."""
        self._differences[clips] = difference

    def begin(self, step: int, num_steps: int) -> None:
        """Tell which step comes next, from 0; at the first one nothing is known of any before.

        Sampling may begin at any step that `starts_anew`.
        """
        self._step = step
        if step == 0 or self._now is None:
            self._now = self.plan(num_steps)
            self.features.forget()
            self._differences.clear()
