"""Second pass: the clip again, at a larger size, begun with the result of the first pass."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.errors import UserError
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.output import Callbacks
from animatediff.pipelines.vae import encode_images
from animatediff.sampling.schedulers import check_scheduler
from animatediff.sampling.timesteps import check_beginning

logger = logging.getLogger(__name__)


def check_upscale(call: Arguments, steps: int, scheduler: Any) -> None:
    """Raise UserError where the second pass would make no whole step, or could not begin. steps: of the first pass."""
    if call.upscale is None:
        return
    steps = call.upscale_steps or steps
    if steps * call.upscale_strength < 1:
        raise UserError(
            f"upscale_strength={call.upscale_strength:g} of {steps} steps is not one whole step; take more of either"
        )
    check_scheduler(scheduler, steps)
    check_beginning(scheduler, steps, call.upscale_strength, "upscale_strength")


def enlarged(
    vae: Any,
    frames: Iterable[Tensor],
    num_frames: int,
    size: tuple[int, int],
    device: Any,
    callbacks: Callbacks,
    found: list[Tensor] | None = None,
) -> Tensor:
    """Latents (n, c, h, w) of frames (3, h, w) at another size (height, width); one frame at a time is large.

    found: latents (1, c, h, w) of the frames before these, which is added to.
    """
    found = [] if found is None else found
    for frame in frames:
        large = functional.interpolate(frame[None], size, mode="bicubic", antialias=True).clamp(0, 1)
        with tiling(vae):
            found.append(encode_images(vae, large, device))
        callbacks.step("encode", len(found), num_frames)
    return torch.cat(found)


def warn_of_no_tiles(vae: Any) -> None:
    """Warn of a VAE that takes large images whole, at more memory."""
    if not hasattr(vae, "use_tiling"):
        logger.warning("this VAE (%s) cannot be tiled: it takes each image whole", type(vae).__name__)


@contextmanager
def tiling(vae: Any, wanted: bool = True) -> Iterator[None]:
    """Let the VAE take images larger than it was trained on in tiles that blend, so that memory stays that of one."""
    wanted = wanted and hasattr(vae, "use_tiling")
    before = getattr(vae, "use_tiling", False)
    if wanted:
        vae.enable_tiling()
    try:
        yield
    finally:
        if wanted and not before:
            vae.disable_tiling()
