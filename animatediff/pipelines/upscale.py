"""A second pass: the clip again, at a larger size, begun with what the first pass made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.errors import UserError
from animatediff.pipelines.checks import check_output
from animatediff.pipelines.output import AnimateDiffOutput, Listener
from animatediff.pipelines.vae import encode_pictures
from animatediff.sampling import check_strength

UPSCALE_STRENGTH = 0.5
"""Share of the steps of the second pass: enough for new detail, too few for another picture."""
MAX_UPSCALE = 8.0


def larger(side: int, factor: float) -> int:
    """A side in pixels, a multiple of 8, that is about `factor` times as long.

    >>> larger(512, 1.5), larger(88, 1.3)
    (768, 112)
    """
    return max(8, round(side * factor / 8) * 8)


def in_two_passes(
    pipe: Any, *, upscale: float, upscale_strength: float, upscale_steps: int | None, output_type: str, **call: Any
) -> AnimateDiffOutput:
    """Call the pipeline with `call`, then again `upscale` times as large, from what came out.

    Motion module, windows, pictures and controls are those of the first pass; the VAE works in tiles. Raises UserError
    before the first pass for settings of the second that are out of range.
    """
    if not 1 < upscale <= MAX_UPSCALE:
        raise UserError(f"upscale={upscale:g}: expected more than 1 and at most {MAX_UPSCALE:g} times the size")
    check_strength(upscale_strength, "upscale_strength")
    check_output(output_type)
    steps = upscale_steps or call["num_inference_steps"] or pipe.defaults.num_inference_steps
    if steps * upscale_strength < 1:
        raise UserError(
            f"upscale_strength={upscale_strength:g} of {steps} steps is not one whole step; take more of either"
        )
    first: Tensor = pipe(**call, output_type="pt").frames  # (b, f, 3, h, w) in 0..1
    height, width = (larger(side, upscale) for side in first.shape[-2:])
    with tiling(pipe.vae):
        latents = enlarged(pipe, first, height, width, Listener(call["on_progress"], call["cancel"]))
        again = {
            **call,
            "video": latents,
            "strength": upscale_strength,
            "num_inference_steps": steps,
            "num_frames": first.shape[1],
            "height": height,
            "width": width,
            "latents": None,
            "freeinit": 1,  # it is about pure noise, which this pass does not begin with
        }
        return pipe(**again, output_type=output_type)


def enlarged(pipe: Any, clips: Tensor, height: int, width: int, listener: Listener) -> Tensor:
    """Latents (b, c, f, h, w) of clips (b, f, 3, h, w) at another size; one frame at a time is large."""
    device, frames = pipe.image._execution_device, clips.flatten(0, 1)
    found: list[Tensor] = []
    for frame in frames:
        large = functional.interpolate(frame[None], (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        found.append(encode_pictures(pipe.vae, large, device))
        listener.hear("encode", len(found), len(frames))
    return torch.cat(found).unflatten(0, clips.shape[:2]).transpose(1, 2)


@contextmanager
def tiling(vae: Any) -> Iterator[None]:
    """Let the VAE take pictures larger than it was trained on in tiles that blend, so that memory stays that of one."""
    before = vae.use_tiling
    vae.enable_tiling()
    try:
        yield
    finally:
        if not before:
            vae.disable_tiling()
