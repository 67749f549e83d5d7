"""The one denoising loop: a scheduler, a prediction, and a word after each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.sampling.predict import Predict

AfterStep = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(step index, timestep, latents, the sampler's estimate of the clean latents where it gives one, else the latents) ->
latents to go on with."""


def one_generator_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, num_clips: int
) -> list[torch.Generator]:
    """A generator for each clip: those given, or one for all in turn, seeded by the program's random numbers if None.

    Raises UserError if several are given but not one a clip.
    """
    if generator is None:
        # of the program's own stream, which `torch.manual_seed` sets
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        generator = torch.Generator().manual_seed(seed)
    generators = [generator] * num_clips if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != num_clips:
        raise UserError(f"{num_clips} clips want one generator or {num_clips}, got {len(generators)}")
    return generators


def clip_noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise on the CPU, float32, each clip of `shape` (b, c, f, h, w) from a generator of its own.

    A clip's noise depends on its seed alone, not on its place in a batch nor on the device that renders it.
    """
    assert len(generators) == shape[0], f"{shape[0]} clips, but {len(generators)} generators"
    return torch.cat([torch.randn((1, *shape[1:]), generator=g, device=g.device).cpu() for g in generators])


def denoise(
    latents: Tensor,
    *,
    predict: Predict,
    scheduler: Any,
    timesteps: Tensor,
    step_arguments: dict[str, object],
    after_step: AfterStep,
    stopped: Callable[[], bool] = lambda: False,
    first: int = 0,
    before_step: Callable[[int, Tensor], None] = lambda index, latents: None,
) -> Tensor:
    """Run `scheduler` over `timesteps`, from noise (b, c, f, h, w) to clean latents of that shape.

    after_step: see `AfterStep`; an exception that it raises ends sampling. stopped: asked before each step; True ends
    sampling with the latents as they are. first: the step that `latents` are before, where earlier ones have been made.
    before_step: called with the index of each step and the latents that it begins with.
    """
    frames = range(latents.shape[2])
    for index in range(first, len(timesteps)):
        if stopped():
            break
        before_step(index, latents)
        timestep = timesteps[index]
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = predict(scaled, timestep, frames)
        output = scheduler.step(prediction, timestep, latents, **step_arguments)
        latents = output.prev_sample
        estimate = getattr(output, "pred_original_sample", None)
        latents = after_step(index, timestep, latents, latents if estimate is None else estimate)
    return latents
