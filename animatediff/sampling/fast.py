"""Fast mode: which steps of a schedule run the whole UNet with both halves of guidance, and what the others take.

Between full steps the deep features follow the trend of the last two full ones (`features`), and so does the difference
that the prompt makes (FasterCache, arXiv 2410.19355, without its split by frequencies): the half without the prompt is
saved there, and guidance stays as strong. Full steps are the guided ones: a difference of halves of which one is known
at an older step would lead nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from animatediff.sampling.features import DeepFeatures
from animatediff.sampling.schedule import Schedule
from animatediff.sampling.trend import Trend, known

Predict = Callable[[Tensor, Tensor, Sequence[int]], Tensor]

OFF = "off"
LEVELS = (OFF, "balanced", "max")
"""Levels of fast mode."""
FEWEST_STEPS = 12
"""Steps below which fast mode is off: the outputs of so few differ too much from one to the next."""
DIFFERENCE_SHARE = 0.3
"""How much of the trend of what the prompt makes is believed: it turns sooner than that of deep features."""


_CALIBRATED = {
    "balanced": (0, 1, 2, 3, 5, 7, 11, 15, 19, 24),
    "max": (0, 1, 4, 7, 11, 16, 21),
}
_CALIBRATED_STEPS = 25


def full_steps(level: str, num_steps: int) -> frozenset[int] | None:
    """The full steps of a level (one of `LEVELS`) in a schedule of so many; None where all of them are.

    They stand where the clip changes most when they are left out, found by search on the bundled model at 25 steps
    (`benchmarks/fast.py --calibrate`); other numbers of steps have them at the same fractions of the schedule.
    """
    if level == OFF or num_steps < FEWEST_STEPS:
        return None
    known, unit = _CALIBRATED[level], (num_steps - 1) / (_CALIBRATED_STEPS - 1)
    wanted = max(2, round(len(known) * num_steps / _CALIBRATED_STEPS))
    found: set[int] = set()
    for index in range(wanted):
        place = index * (len(known) - 1) / (wanted - 1)
        low = int(place)
        step = known[low] + (place - low) * (known[min(low + 1, len(known) - 1)] - known[low])
        found.add(round(step * unit))
    return frozenset(found)


@dataclass
class FastSteps:
    """What fast sampling keeps between steps, and which step is under way."""

    plan: Callable[[int], frozenset[int] | None]
    """Number of steps of a schedule -> those that are full; None for all."""
    features: DeepFeatures
    _step: int = 0
    _full: frozenset[int] | None = None
    _differences: dict[Hashable, Trend] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The step under way, from 0."""
        return self._step

    @property
    def full(self) -> bool:
        """Whether this step runs all layers, with and without the prompt."""
        return self._full is None or self._step in self._full

    def difference(self, clips: Hashable) -> Tensor | None:
        """What the prompt of these clips makes of this step by the trend of full ones, where it is not full."""
        if self.full:
            return None
        trend = self._differences.get(clips)
        return None if trend is None else trend.at(self._step, DIFFERENCE_SHARE)

    def keep_difference(self, clips: Hashable, difference: Tensor) -> None:
        """Keep prediction with the prompt minus that without, (b, c, f, h, w)."""
        self._differences[clips] = known(self._differences.get(clips), self._step, difference)

    def begin(self, step: int, num_steps: int) -> None:
        """Tell which step comes next, from 0; at the first one nothing is known of any before."""
        self._step = step
        if step == 0:
            self._full = self.plan(num_steps)
            self.features.forget()
            self._differences.clear()


def counted(predict: Predict, steps: FastSteps, schedule: Schedule) -> Predict:
    """A prediction that tells `steps` which step of the schedule each call is; each step is one call."""
    made = 0

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        nonlocal made
        num_steps = len(schedule.timesteps)
        made = made % num_steps if made >= num_steps else made
        steps.begin(made, num_steps)
        made += 1
        return predict(latents, timestep, frames)

    return call
