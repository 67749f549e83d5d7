"""FreeInit in a host: the same clip sampled again from noise that keeps its slow parts (`animatediff.sampling`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor

from animatediff.sampling.free_init import FreeInit, free_init
from animatediff_webui import host
from animatediff_webui.job import Job


class FirstNoise:
    """The random numbers of a host's clip, with other noise to start from."""

    def __init__(self, rng: Any, noise: Tensor) -> None:
        self._rng, self._noise = rng, noise
        rng.is_first = False  # what samplers draw on the way comes after the first noise, whose place is taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)

    def next(self) -> Tensor:
        """The given noise (f, c, h, w), then the host's."""
        if self._noise is not None:
            noise, self._noise = self._noise, None
            return noise
        return self._rng.next()


def sample_again(p: Any, job: Job, sample: Callable[[], Tensor]) -> Tensor:
    """Latents (f, c, h, w) of the last time that the clip is sampled. Raises UserError for settings out of range.

    sample: the host's sampling, which asks `p.rng` for noise. Noise is drawn anew from the same seeds' generators.
    """
    settings = job.settings
    options = FreeInit(
        iterations=settings.freeinit_iters,
        filter=settings.freeinit_filter,
        spatial_stop=settings.freeinit_ds,
        temporal_stop=settings.freeinit_dt,
    )
    rng = p.rng
    first = rng.next()

    def clip(latents: Tensor) -> Tensor:
        return rearrange(latents, "f c h w -> 1 c f h w")

    def run(iteration: int, noise: Tensor) -> Tensor:
        p.rng = FirstNoise(rng, rearrange(noise, "1 c f h w -> f c h w").to(first))
        return clip(sample())

    try:
        latents = free_init(
            run,
            clip(first),
            settings=options,
            draw=lambda: clip(rng.next()).float().cpu(),
            alpha_cumprod=host.last_alpha_cumprod(),
            stopped=host.interrupted,
        )
    finally:
        p.rng = rng
    return rearrange(latents, "1 c f h w -> f c h w").to(first.device)
