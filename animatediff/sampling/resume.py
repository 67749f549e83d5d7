"""Sampling that goes on where it was saved: at a step, or between two windows of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from animatediff.sampling.state import (
    BadState,
    generator_states,
    number_of,
    restore_generators,
    restore_scheduler,
    scheduler_state,
    tensor_of,
)


@dataclass(kw_only=True)
class ResumedSampling:
    """Saves the steps of a call whenever that is due, and begins at the one that was saved."""

    due: Callable[[], bool]
    save: Callable[[Mapping[str, Any]], None]
    found: Mapping[str, Any] | None
    """The state to go on with; None begins at the first step."""
    scheduler: Any
    generators: Sequence[torch.Generator]
    num_windows: int
    """Windows of a step that are predicted one after the other, at least 1."""
    iterations: int
    """Times that the clip is sampled."""
    may_begin: Callable[[int, int], bool] = lambda step, num_steps: True
    """Whether sampling can go on at a step of so many with what `kept` gives; only those are saved."""
    kept: Callable[[], Any] = lambda: None
    """What steps leave for later ones, besides the scheduler."""
    restore: Callable[[Any, Tensor], None] = lambda kept, latents: None
    """Puts that back; raises BadState."""
    within_steps: bool = True
    """Whether a step may be saved between two of its windows."""
    say: Callable[[str], None] = lambda text: None
    """Told where sampling goes on."""
    _iteration: int = 0
    _noise: Tensor | None = None
    _step: int = 0
    _latents: Tensor | None = None
    _done: tuple[int, Tensor | None] = field(default=(0, None))
    """Windows of the next step that are done, and the sum of their predictions."""

    def first(self, noise: Tensor) -> tuple[int, Tensor] | None:
        """The time to go on with, and its noise; None without a state. noise: (b, c, f, h, w) of the first time.

        Raises BadState.
        """
        if self.found is None:
            return None
        return number_of(self.found, "iteration", self.iterations), tensor_of(self.found, "noise", noise.shape)

    def begin(self, iteration: int, noise: Tensor, num_steps: int) -> tuple[int, Tensor] | None:
        """Begin one of the times that the clip is sampled: the step to go on with and its latents, or None.

        Schedule and conditions are as at the beginning of this time; scheduler and generators are put back to where
        they were. noise: (b, c, f, h, w). Raises BadState.
        """
        self._iteration, self._noise = iteration, noise
        state, self.found = self.found, None
        if state is None:
            return None
        step = number_of(state, "step", num_steps)
        latents = tensor_of(state, "latents", noise.shape).to(noise.device)
        windows = number_of(state, "windows", self.num_windows)
        if windows:
            self._done = windows, tensor_of(state, "total", noise.shape).to(noise.device)
        kept = state.get("scheduler")
        if not isinstance(kept, Mapping):
            raise BadState("no state of the scheduler")
        restore_scheduler(self.scheduler, kept, latents)
        restore_generators(self.generators, state.get("generators"))
        self.restore(state.get("kept"), latents)
        window = f", window {windows + 1} of {self.num_windows}" if windows else ""
        again = f" of iteration {iteration + 1} of {self.iterations}" if self.iterations > 1 else ""
        self.say(f"goes on at step {step + 1} of {num_steps}{again}{window}")
        return step, latents

    def before_step(self, step: int, num_steps: int, latents: Tensor) -> None:
        """Note the step that comes next; save it if that is due."""
        self._step, self._latents = step, latents
        if self.due() and not self._done[0] and self.may_begin(step, num_steps):
            self._save(0, None)

    def windows_done(self) -> tuple[int, Tensor | None]:
        """Windows of this step that are done, and their sum, once."""
        done, self._done = self._done, (0, None)
        return done

    def after_window(self, done: int, total: Tensor) -> None:
        """Note that so many windows of this step are done, with this sum; save it if that is due."""
        if self.within_steps and self.due():
            self._save(done, total)

    def _save(self, windows: int, total: Tensor | None) -> None:
        assert self._latents is not None, "noted before each step"
        self.save(
            {
                "iteration": self._iteration,
                "noise": self._noise,
                "step": self._step,
                "latents": self._latents,
                "windows": windows,
                "total": total,
                "scheduler": scheduler_state(self.scheduler, self._latents),
                "generators": generator_states(self.generators),
                "kept": self.kept(),
            }
        )
