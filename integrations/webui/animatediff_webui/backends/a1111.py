"""A1111: the UNet is plain LDM (SDXL: sgm's), so motion modules are called by hooks of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from animatediff_webui import host
from animatediff_webui.backends import Backend
from animatediff_webui.backends.clips import clips_through
from animatediff_webui.job import Job


class A1111:
    """Motion modules in `p.sd_model.model.diffusion_model`."""

    name = "a1111"

    def base_of(self, p: Any) -> str:
        """See `Backend`."""
        known = ("sdxl", "sd2", "sd1")
        return next((name for name in known if getattr(p.sd_model, f"is_{name}", False)), type(p.sd_model).__name__)

    @contextmanager
    def attach(self, p: Any, job: Job) -> Iterator[None]:
        """See `Backend`."""
        unet = p.sd_model.model.diffusion_model
        with ExitStack() as undo:
            undo.enter_context(clips_through(unet, job, computed_in(next(unet.parameters()))))
            if job.alphas_cumprod is not None:
                undo.enter_context(noise_schedule(p, job.alphas_cumprod))
            yield

    def before_sampling(self, p: Any, job: Job, **kwargs: Any) -> None:
        """See `Backend`; nothing is left to do."""


def backend() -> Backend:
    """The backend of this module."""
    return A1111()


def computed_in(weight: Tensor) -> torch.dtype:
    """The type that the host computes in: that of its weights, unless it keeps them in 8 bits."""
    return weight.dtype if weight.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float16


@contextmanager
def noise_schedule(p: Any, alphas_cumprod: Tensor) -> Iterator[None]:
    """Let the host's samplers see another noise schedule, (1000,) shares of signal, for a while.

    They read it from the model when they are made: for img2img that was before, so its sampler is made again. Options
    of the host that change a schedule (zero terminal SNR) act on this one.
    """
    model, names = p.sd_model, ("alphas_cumprod", "alphas_cumprod_original")
    kept = {name: getattr(model, name) for name in names if hasattr(model, name)}
    try:
        for name, value in kept.items():
            setattr(model, name, alphas_cumprod.to(value))
        host.module("sd_models").apply_alpha_schedule_override(model, p)
        if getattr(p, "sampler", None) is not None:
            p.sampler = host.module("sd_samplers").create_sampler(p.sampler_name, model)
        yield
    finally:
        for name, value in kept.items():
            setattr(model, name, value)
