"""The circumstances of a job, in which its conditions are prepared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from animatediff.pipelines.compiled import blocks_compiled
from animatediff.pipelines.conditions import Setting, on_device
from animatediff.pipelines.job import Job
from animatediff.pipelines.memory_layout import lay_out
from animatediff.pipelines.output import Callbacks
from animatediff.pipelines.parts import LoadedParts
from animatediff.pipelines.prompts import empty_prompt
from animatediff.sampling import Schedule

MOST_ETA = 1 - 1e-6
"""Largest `eta` at zero terminal SNR: the first step leaves 1 - `eta`² of the noise as it was, which diffusers computes
as a small difference and takes the root of; at 1 that is 0, and below it by rounding."""


def step_arguments(parts: LoadedParts, job: Job) -> dict[str, Any]:
    """Further arguments of the scheduler's `step`."""
    scheduler: Any = parts.base.scheduler
    no_signal = scheduler.config.get("rescale_betas_zero_snr", False)
    return parts.base.prepare_extra_step_kwargs(
        job.generators, min(job.call.eta, MOST_ETA) if no_signal else job.call.eta
    )


@contextmanager
def networks_at_work(pipe: Any, job: Job, device: torch.device) -> Iterator[None]:
    """Have the networks of a job laid out and on the device, and the UNet's blocks compiled where asked for."""
    networks = [network for condition in job.conditions for network in condition.networks()]
    for network in (pipe.unet, *networks):
        lay_out(network)
    with on_device(networks, device), blocks_compiled(pipe.unet, device, pipe.compile_settings):
        yield


def setting_of(
    parts: LoadedParts, job: Job, schedule: Schedule, noise: Tensor, device: torch.device, callbacks: Callbacks
) -> Setting:
    """The circumstances in which the conditions of a job are prepared."""
    size = (job.clip.height, job.clip.width)
    return Setting(
        parts=parts,
        clip=job.clip,
        schedule=schedule,
        noise=noise,
        generators=job.generators,
        guidance=job.guidance,
        empty_prompt=lambda count: empty_prompt(parts.base, job.call, count, size, device),
        device=device,
        callbacks=callbacks,
    )
