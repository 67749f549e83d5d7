"""From the noise of a call to clean latents: the start of sampling, and each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from animatediff.sampling.keep_frames import KeepFrames
from animatediff.sampling.loop import AfterStep, denoise
from animatediff.sampling.predict import Predict
from animatediff.sampling.schedulers import set_steps
from animatediff.sampling.timesteps import noised


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """Samples a clip, once or, for FreeInit, several times."""

    predict: Predict
    scheduler: Any
    num_steps: int
    """Steps of the whole schedule."""
    timesteps: Tensor
    """Timesteps of this call: all of the schedule, or with `init_latents` the last of them."""
    step_arguments: Mapping[str, Any]
    """Further arguments of the scheduler's `step`."""
    device: torch.device
    init_latents: Tensor | None = None
    """(b, c, f, h, w), noised to the first of the timesteps; None begins at pure noise."""
    keep: KeepFrames | None = None
    """Latent replacement at known frames."""
    after_step: AfterStep
    """(steps made before, over all times; timestep; latents) -> latents to go on with."""

    def __call__(self, iteration: int, noise: Tensor) -> Tensor:
        """Clean latents from noise (b, c, f, h, w); `iteration` is how often the clip has been sampled before."""
        if iteration:
            set_steps(self.scheduler, self.num_steps, self.device)  # samplers remember what they did
        noise = noise.to(self.device, torch.float32)
        keep = None if self.keep is None else replace(self.keep, noise=noise)

        def kept(index: int, latents: Tensor) -> Tensor:
            return latents if keep is None else keep.before_step(index, latents, self.scheduler, self.timesteps)

        def after_step(index: int, timestep: Tensor, latents: Tensor, estimate: Tensor) -> Tensor:
            made_before = iteration * len(self.timesteps) + index
            return self.after_step(made_before, timestep, kept(index + 1, latents), estimate)

        return denoise(
            kept(0, self._start(noise)),
            predict=self.predict,
            scheduler=self.scheduler,
            timesteps=self.timesteps,
            step_arguments=dict(self.step_arguments),
            after_step=after_step,
        )

    def _start(self, noise: Tensor) -> Tensor:
        if self.init_latents is None:
            return noise * self.scheduler.init_noise_sigma
        return noised(self.scheduler, self.init_latents, noise, self.timesteps)
