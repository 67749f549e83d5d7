"""Timesteps of a call: which of the scheduler's are made, laid out anew each time that a clip is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.sampling.controls import active_timesteps
from animatediff.sampling.schedulers import set_steps
from animatediff.sampling.timesteps import begin_at, begin_behind, check_strength


def _all_steps(iteration: int) -> int | None:
    return None


@dataclass(kw_only=True)
class Schedule:
    """Timesteps of a call. `begin` lays them out, for samplers remember what they did."""

    scheduler: Any
    num_steps: int
    """Steps of the whole schedule; with `exactly`, steps that are made."""
    device: torch.device | str
    strength: float = 1.0
    """Fraction of the steps that are made, the last ones."""
    exactly: bool = False
    """Whether `num_steps` steps are made whatever the strength, of a longer schedule."""
    end: float = 1.0
    """Fraction of the noise levels of training after which sampling ends."""
    own_timesteps: Sequence[float] | None = None
    own_sigmas: Sequence[float] | None = None
    steps_of: Callable[[int], int | None] = _all_steps
    """Steps of the schedule when a clip is sampled for the n-th time, from 0; None is `num_steps`."""
    timesteps: Tensor = field(init=False)

    def begin(self, iteration: int = 0) -> Tensor:
        """Lay out the timesteps of the n-th time that the clip is sampled. Raises UserError where none is left."""
        steps = self.steps_of(iteration) or self.num_steps
        if steps < self.num_steps:  # of which one is made at least
            steps = min(self.num_steps, max(steps, math.ceil(1 / self.strength)))
        if self.exactly:
            check_strength(self.strength)
            steps = int(steps / self.strength)
        total = set_steps(self.scheduler, steps, self.device, timesteps=self.own_timesteps, sigmas=self.own_sigmas)
        if self.exactly:
            timesteps = begin_behind(self.scheduler, max(0, total - self.num_steps))
        elif self.strength < 1:
            timesteps = begin_at(self.scheduler, total, self.strength)
        else:
            timesteps = self.scheduler.timesteps
        self.timesteps = self._up_to_end(timesteps)
        return self.timesteps

    def total(self, iterations: int) -> int:
        """Steps that are made when the clip is sampled so often; leaves the timesteps of the first time laid out."""
        return sum(len(self.begin(iteration)) for iteration in reversed(range(iterations)))

    def _up_to_end(self, timesteps: Tensor) -> Tensor:
        if self.end >= 1:
            return timesteps
        trained = self.scheduler.config.num_train_timesteps
        kept = timesteps[: int((timesteps >= round(trained - self.end * trained)).sum())]
        if not len(kept):
            raise UserError(
                f"denoising_end={self.end:g} comes before the first of {len(timesteps)} steps; take more of either"
            )
        return kept

    def between(self, start: float, end: float) -> Container[float]:
        """The timesteps between two fractions of the steps, whichever are laid out."""
        return _Between(self, start, end)


@dataclass
class _Between:
    schedule: Schedule
    start: float
    end: float

    def __contains__(self, timestep: object) -> bool:
        return timestep in active_timesteps(self.schedule.timesteps, self.start, self.end)
