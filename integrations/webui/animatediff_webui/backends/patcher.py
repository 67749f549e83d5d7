"""What reForge and Forge Neo have in common: `forge_objects.unet` is a patcher, a host's memory is managed by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from animatediff_webui import host
from animatediff_webui.backends.clips import clips_through
from animatediff_webui.job import Job

ZERO_SNR = 1000.0
"""Noise levels of Stable Diffusion end at 15 to 33, rescaled ones at 4,500."""
LAST_SHARE = 4.8973451890853435e-08
"""Of signal, at the last noise level of rescaled schedules in hosts."""


class PatcherBackend:
    """Motion modules in the UNet below `p.sd_model.forge_objects.unet`, with the memory that the host gives them.

    Hooks stand in the UNet itself, as patchers are cloned and put back by the host several times in one sampling. The
    host's own clone names the modules, so that it makes room for them.
    """

    name: str

    def __init__(self) -> None:
        self._loaded: Any = None
        """The patcher of the motion modules, while the host may have it loaded."""

    def compute_dtype(self, model: Any) -> torch.dtype:
        """In which type the UNet computes, whatever its weights are kept in."""
        raise NotImplementedError

    def noise_levels(self, model: Any) -> Any:
        """The module of the model that has `sigmas`, `log_sigmas` and `set_sigmas`."""
        raise NotImplementedError

    def memory(self) -> ModuleType:
        """The host's module of memory management."""
        raise NotImplementedError

    def base_of(self, p: Any) -> str:
        """See `Backend`."""
        unet = getattr(p.sd_model.forge_objects.unet.model, "diffusion_model", None)
        if not hasattr(getattr(unet, "_orig_mod", unet), "input_blocks"):
            return type(unet).__name__  # a transformer, such as those of SD 3, Flux and Wan
        if getattr(p.sd_model, "is_sdxl", False):
            return "sdxl"
        return "sd2" if getattr(p.sd_model, "is_sd2", False) else "sd1"

    @contextmanager
    def attach(self, p: Any, job: Job) -> Iterator[None]:
        """See `Backend`."""
        model = p.sd_model.forge_objects.unet.model
        with ExitStack() as undo:
            undo.callback(self._unload)
            undo.enter_context(clips_through(model.diffusion_model, job, self.compute_dtype(model)))
            if job.alphas_cumprod is not None:
                undo.enter_context(noise_schedule(p, self.noise_levels(model), job.alphas_cumprod))
            undo.callback(self._give_back, p.sd_model, p.sd_model.forge_objects.unet)
            yield

    def before_sampling(self, p: Any, job: Job, **kwargs: Any) -> None:
        """See `Backend`; the host has just made its patcher for this pass, and loads it next."""
        self._unload()
        unet = p.sd_model.forge_objects.unet.clone()
        holder = nn.Module()  # the host writes attributes into what it loads
        holder.motion = job.adapter
        self._loaded = unet.add_extra_torch_module_during_sampling(holder, cast_to_unet_dtype=False)
        if len(job.windows) > 1 and "memory_peak_estimation_modifier" not in unet.model_options:
            set_modifier: Callable[..., None] | None = getattr(unet, "set_memory_peak_estimation_modifier", None)
            longest = max(len(window.frames) for window in job.windows)
            if set_modifier is not None:
                set_modifier(lambda shape: unet.memory_required([2 * longest, *shape[1:]]))
        p.sd_model.forge_objects.unet = unet

    def _unload(self) -> None:
        """Let the host forget the motion modules, which are a new object for each generation."""
        patcher, self._loaded = self._loaded, None
        if patcher is None:
            return
        loaded = self.memory().current_loaded_models
        for place in [place for place, one in enumerate(loaded) if one.model is patcher][::-1]:
            loaded.pop(place).model_unload()

    @staticmethod
    def _give_back(sd_model: Any, unet: Any) -> None:
        """Put the patcher back that was there, unless the host did it or has another model now."""
        if sd_model.forge_objects.unet.model is unet.model:
            sd_model.forge_objects.unet = unet


@contextmanager
def noise_schedule(p: Any, levels: Any, alphas_cumprod: Tensor) -> Iterator[None]:
    """Sample with another noise schedule for a while: (1000,) shares of signal.

    The UNet's patcher reads it from `levels`, samplers when they are made: for img2img that was before, so its sampler
    is made again. Where the host has rescaled its own to zero terminal SNR, so is this one.
    """
    sd_model, of_host = p.sd_model, {name: getattr(levels, name) for name in ("sigmas", "log_sigmas")}
    of_model = getattr(sd_model, "alphas_cumprod", None)  # Forge sets it where a sampler wants it
    if of_host["sigmas"][-1] > ZERO_SNR:
        alphas_cumprod = zero_terminal_snr(alphas_cumprod)
    new = alphas_cumprod.to(of_host["sigmas"].device)
    try:
        levels.set_sigmas(((1 - new) / new) ** 0.5)
        if of_model is not None:
            sd_model.alphas_cumprod = alphas_cumprod.to(of_model.device)
        if getattr(p, "sampler", None) is not None:
            p.sampler = host.module("sd_samplers").create_sampler(p.sampler_name, sd_model)
        yield
    finally:
        for name, value in of_host.items():
            setattr(levels, name, value)
        if of_model is not None:
            sd_model.alphas_cumprod = of_model
        elif getattr(sd_model, "alphas_cumprod", None) is not None:
            del sd_model.alphas_cumprod


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Stretch a schedule so that it ends in noise alone (arXiv 2305.08891, algorithm 1): (1000,), likewise returned.

    The last share is not quite zero, and as small as in hosts.
    """
    roots = alphas_cumprod.sqrt()
    rescaled = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    rescaled[-1] = LAST_SHARE
    return rescaled
