"""From the noise of a call to clean latents: where sampling begins, and what each of its steps does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from animatediff.sampling import denoise, noised, set_steps
from animatediff.sampling.keep_frames import Hold
from animatediff.sampling.predict import Predict


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """Samples a clip, once or, for FreeInit, several times."""

    predict: Predict
    scheduler: Any
    num_steps: int
    """Of the whole schedule."""
    timesteps: Tensor
    """Those that are taken: all, or with `known` the last of them."""
    step_arguments: Mapping[str, Any]
    """What the scheduler's `step` takes besides."""
    device: torch.device
    known: Tensor | None = None
    """Latents (b, c, f, h, w) of a video to begin with."""
    hold: Hold | None = None
    """Pictures that frames are held to."""
    after_step: Callable[[int, Tensor, Tensor], Tensor]
    """(steps made before, over all times; timestep; latents) -> latents to go on with."""

    def __call__(self, iteration: int, noise: Tensor) -> Tensor:
        """Clean latents from noise (b, c, f, h, w); `iteration` is how often the clip has been sampled before."""
        if iteration:
            set_steps(self.scheduler, self.num_steps, self.device)  # samplers remember what they did
        noise = noise.to(self.device, torch.float32)
        hold = None if self.hold is None else replace(self.hold, noise=noise)

        def held(index: int, latents: Tensor) -> Tensor:
            return latents if hold is None else hold.before_step(index, latents, self.scheduler, self.timesteps)

        def after_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            made_before = iteration * len(self.timesteps) + index
            return self.after_step(made_before, timestep, held(index + 1, latents))

        return denoise(
            held(0, self._start(noise)),
            predict=self.predict,
            scheduler=self.scheduler,
            timesteps=self.timesteps,
            step_arguments=dict(self.step_arguments),
            after_step=after_step,
        )

    def _start(self, noise: Tensor) -> Tensor:
        if self.known is None:
            return noise * self.scheduler.init_noise_sigma
        return noised(self.scheduler, self.known, noise, self.timesteps)
