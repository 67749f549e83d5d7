"""The circumstances of a job, in which its conditions are prepared."""

from __future__ import annotations

import torch
from torch import Tensor

from animatediff.pipelines.conditions import Setting
from animatediff.pipelines.job import Job
from animatediff.pipelines.output import Callbacks
from animatediff.pipelines.parts import LoadedParts
from animatediff.pipelines.prompts import empty_prompt
from animatediff.sampling import Schedule


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
