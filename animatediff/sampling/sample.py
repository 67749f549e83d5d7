"""From the noise of a call to clean latents: the start of sampling, and each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from animatediff.sampling.keep_frames import KeepFrames
from animatediff.sampling.loop import AfterStep, denoise
from animatediff.sampling.predict import Predict
from animatediff.sampling.resume import ResumedSampling
from animatediff.sampling.schedule import Schedule
from animatediff.sampling.timesteps import noised


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """Samples a clip, once or, for FreeInit, several times."""

    predict: Predict
    schedule: Schedule
    """Timesteps of this call, laid out for the first time already."""
    step_arguments: Mapping[str, Any]
    """Further arguments of the scheduler's `step`."""
    device: torch.device
    init_latents: Tensor | None = None
    """(b, c, f, h, w), noised to the first of the timesteps; None begins at pure noise."""
    as_given: bool = False
    """Whether the noise is what the first step takes: latents with as much noise as that step expects."""
    keep: KeepFrames | None = None
    """Latent replacement at known frames."""
    after_step: AfterStep
    """(steps made before, over all times; timestep; latents) -> latents to go on with."""
    stopped: Callable[[], bool] = lambda: False
    """Whether no further step is to be made."""
    before_step: Callable[[int, int], None] | None = None
    """Called before each step with its number in its schedule, and the number of all there."""
    resumed: ResumedSampling | None = None
    """Saves steps, and knows the one to go on with."""
    _made: list[int] = field(default_factory=list, init=False)

    def __call__(self, iteration: int, noise: Tensor) -> Tensor:
        """Clean latents from noise (b, c, f, h, w); `iteration` is how often the clip has been sampled before."""
        for earlier in range(len(self._made), iteration):  # times that a saved state is behind
            self._made.append(len(self.schedule.begin(earlier)))
        timesteps = self.schedule.begin(iteration) if iteration else self.schedule.timesteps
        resumed, scheduler, before = self.resumed, self.schedule.scheduler, sum(self._made)
        self._made.append(len(timesteps))
        noise = noise.to(self.device, torch.float32)
        keep = None if self.keep is None else replace(self.keep, noise=noise)

        def kept(index: int, latents: Tensor) -> Tensor:
            return latents if keep is None else keep.before_step(index, latents, scheduler, timesteps)

        def after_step(index: int, timestep: Tensor, latents: Tensor, estimate: Tensor) -> Tensor:
            return self.after_step(before + index, timestep, kept(index + 1, latents), estimate)

        def before_step(index: int, latents: Tensor) -> None:
            if resumed is not None:
                resumed.before_step(index, len(timesteps), latents)
            if self.before_step is not None:
                self.before_step(index, len(timesteps))

        begun = None if resumed is None else resumed.begin(iteration, noise, len(timesteps))
        first, latents = begun or (0, kept(0, self._start(noise, timesteps)))
        return denoise(
            latents,
            predict=self.predict,
            scheduler=scheduler,
            timesteps=timesteps,
            step_arguments=dict(self.step_arguments),
            after_step=after_step,
            stopped=self.stopped,
            first=first,
            before_step=before_step,
        )

    def _start(self, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.as_given:
            return noise
        if self.init_latents is None:
            return noise * self.schedule.scheduler.init_noise_sigma
        return noised(self.schedule.scheduler, self.init_latents, noise, timesteps)
