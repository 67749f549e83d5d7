"""Fast mode: which steps of a schedule run the whole UNet with both halves of guidance, and what the others take.

Between full steps the deep features follow the trend of the last two full ones (`features`), and so does the difference
that the prompt makes (FasterCache, arXiv 2410.19355, without its split by frequencies): the half without the prompt is
saved there, and guidance stays as strong. Full steps are the guided ones: a difference of halves of which one is known
at an older step would lead nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from animatediff.sampling.features import DeepFeatures
from animatediff.sampling.state import BadState
from animatediff.sampling.trend import Trend, known

OFF = "off"
LEVELS = (OFF, "balanced", "max")
"""Levels of fast mode."""
FEWEST_STEPS = 12
"""Steps below which fast mode is off: the outputs of so few differ too much from one to the next."""
DIFFERENCE_SHARE = 0.3
"""How much of the trend of what the prompt makes is believed: it turns sooner than that of deep features."""


_CALIBRATED = {
    "balanced": (0, 1, 2, 3, 5, 7, 11, 15, 19, 24),
    "max": (0, 2, 5, 7, 13, 18, 22),
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

    def may_begin(self, step: int, num_steps: int) -> bool:
        """Whether sampling can go on at a step with what `kept` gives: at full ones, which use no trend."""
        plan = self.plan(num_steps)
        return plan is None or step in plan

    def kept(self) -> dict[str, Any]:
        """The last values of all trends, as plain values."""
        trends = {"features": self.features.kept, "differences": self._differences}
        return {
            kind: [(name, trend.step, trend.value) for name, trend in named.items()] for kind, named in trends.items()
        }

    def restore(self, state: Any, latents: Tensor) -> None:
        """Put back what `kept` gave. latents: (b, c, f, h, w) of the call. Raises BadState."""
        _, channels, _, *size = latents.shape
        self.features.kept = {
            name: _trend(of, (len(name) - 2, self.features.num_channels, *size), latents)
            for name, of in _entries(state, "features", latents)
        }
        self._differences = {
            name: _trend(of, (len(name[0]), channels, len(name[1]), *size), latents)
            for name, of in _entries(state, "differences", latents)
        }

    def keep_difference(self, clips: Hashable, difference: Tensor) -> None:
        """Keep prediction with the prompt minus that without, (b, c, f, h, w)."""
        self._differences[clips] = known(self._differences.get(clips), self._step, difference)

    def begin(self, step: int, num_steps: int) -> None:
        """Tell which step comes next, from 0; at the first one nothing is known of any before.

        Sampling may begin at any step that `may_begin` allows, after `restore`.
        """
        self._step = step
        if step == 0:
            self.features.forget()
            self._differences.clear()
        if step == 0 or self._full is None:
            self._full = self.plan(num_steps)


def _entries(state: Any, kind: str, latents: Tensor) -> list[tuple[Any, tuple[Any, Any]]]:
    """Names and contents of what was kept."""
    found = state.get(kind) if isinstance(state, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(one, tuple) and len(one) == 3 for one in found):
        raise BadState(f"no {kind} of fast mode")
    pairs = [(name, (step, value)) for name, step, value in found]
    for name, _ in pairs:
        nested = name if kind == "differences" else ((name[0],), name[2:]) if isinstance(name, tuple) else ()
        if not isinstance(nested, tuple) or len(nested) != 2 or not all(isinstance(part, tuple) for part in nested):
            raise BadState(f"{kind} of fast mode without a name")
        clips, frames = nested
        inside = zip((clips, frames), (latents.shape[0], latents.shape[2]), strict=True)
        if not all(type(number) is int and 0 <= number < most for part, most in inside for number in part):
            raise BadState(f"{kind} of fast mode of other clips or frames")
    return pairs


def _trend(of: tuple[Any, Any], shape: tuple[int, ...], latents: Tensor) -> Trend:
    step, value = of
    if type(step) is not int or not isinstance(value, Tensor) or not value.is_floating_point():
        raise BadState("what fast mode kept is of another kind")
    if tuple(value.shape) != shape:
        raise BadState("what fast mode kept has another shape")
    return Trend(step, value.to(latents.device))
