"""A1111: the UNet is plain LDM (SDXL: sgm's), so motion modules are called by hooks of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.motion import attach_ldm, detach_ldm
from animatediff_webui import host
from animatediff_webui.backends import Backend
from animatediff_webui.job import Job


class A1111:
    """Motion modules in `p.sd_model.model.diffusion_model`."""

    name = "a1111"

    def base_of(self, p: Any) -> str:
        """See `Backend`."""
        return base_of(p.sd_model)

    @contextmanager
    def attach(self, p: Any, job: Job) -> Iterator[None]:
        """See `Backend`."""
        model = p.sd_model
        unet = model.model.diffusion_model
        place = next(unet.parameters())
        adapter = job.adapter.to(host.module("devices").device, _computed_in(place))
        with ExitStack() as undone:
            try:
                attach_ldm(unet, adapter)
            except ValueError as error:
                raise UserError(f"{job.model_path}: {error}") from error
            undone.callback(job.adapter.cpu)
            undone.callback(detach_ldm, unet)
            undone.enter_context(clip_by_clip(unet, job))
            undone.enter_context(noise_schedule(p, job))
            yield

    def before_sampling(self, p: Any, job: Job, **kwargs: Any) -> None:
        """See `Backend`; nothing is left to do."""


def backend() -> Backend:
    """The backend of this module."""
    return A1111()


def base_of(model: Any) -> str:
    """Kind of a host's model, by what the host says of it."""
    for name in ("sdxl", "sd2", "sd1"):
        if getattr(model, f"is_{name}", False):
            return name
    return type(model).__name__


@contextmanager
def clip_by_clip(unet: nn.Module, job: Job) -> Iterator[None]:
    """Let each call of `unet` know which frames its batch holds; and call it window by window where there are some.

    A batch holds the frames of one prompt, or of prompt and negative prompt one after the other.
    """
    frames, original, before = job.adapter.frames, unet.forward, unet.__dict__.get("forward")

    def call(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        try:
            num_clips = job.num_clips(len(x))
        except ValueError as error:
            raise UserError(f"{error}; does another extension change the batch?") from error
        if not job.windows:
            with frames.during(job.num_frames):
                return original(x, *args, **kwargs)
        return by_windows(original, job, num_clips, x, args, kwargs)

    unet.forward = call
    try:
        yield
    finally:
        if before is None:
            del unet.forward
        else:
            unet.forward = before


def by_windows(
    unet: Callable[..., Tensor], job: Job, num_clips: int, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Call `unet` on the frames of each window, and add up by weight. x: (b*f, c, h, w), likewise returned."""
    total: Tensor | None = None
    for window in job.windows:
        host_asks_to_stop()
        rows = [clip * job.num_frames + frame for clip in range(num_clips) for frame in window.frames]
        index = torch.tensor(rows, device=x.device)
        with job.adapter.frames.during(len(window.frames)):
            output = unet(_rows(x, index, len(x)), *_rows(args, index, len(x)), **_rows(kwargs, index, len(x)))
        share = window.share.to(output).repeat(num_clips)[:, None, None, None]
        total = torch.zeros(len(x), *output.shape[1:]).to(output) if total is None else total
        total.index_add_(0, index.to(total.device), output * share)
    assert total is not None, "a clip in windows has some"
    return total


def host_asks_to_stop() -> None:
    """Raise the host's own exception where the user interrupted, so that long clips stop between windows."""
    if host.interrupted():
        raise host.module("sd_samplers_common").InterruptedException


@contextmanager
def noise_schedule(p: Any, job: Job) -> Iterator[None]:
    """Let the host's samplers see the noise schedule of the motion module's family.

    They read it from the model when they are made: for img2img that was before, so its sampler is made again. Options
    of the host that change a schedule (zero terminal SNR) act on this one.
    """
    alphas = job.alphas_cumprod
    if alphas is None:
        yield
        return
    model, names = p.sd_model, ("alphas_cumprod", "alphas_cumprod_original")
    kept = {name: getattr(model, name) for name in names if hasattr(model, name)}
    sampler = getattr(p, "sampler", None)
    try:
        for name, value in kept.items():
            setattr(model, name, alphas.to(value))
        host.module("sd_models").apply_alpha_schedule_override(model, p)
        if sampler is not None:
            p.sampler = host.module("sd_samplers").create_sampler(p.sampler_name, model)
        yield
    finally:
        for name, value in kept.items():
            setattr(model, name, value)


def _computed_in(weight: Tensor) -> torch.dtype:
    """The type that the host computes in; some keep weights in 8 bits."""
    return weight.dtype if weight.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float16


def _rows(value: Any, index: Tensor, num_rows: int) -> Any:
    """Take these rows of every tensor in `value` that has one row an image."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)] if value.ndim and len(value) == num_rows else value
    if isinstance(value, (list, tuple)):
        return type(value)(_rows(item, index, num_rows) for item in value)
    if isinstance(value, Mapping):
        return {key: _rows(item, index, num_rows) for key, item in value.items()}
    return value
