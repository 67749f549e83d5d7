"""Requests with every value filled in that the loaded model decides, and the arguments of a call that they become."""

from __future__ import annotations

import secrets
from typing import Any

from animatediff.errors import UserError
from animatediff.pipelines.arguments import AUTO
from animatediff.prompts import PromptTravel
from animatediff.render.inputs import Inputs, settings_from
from animatediff.render.options import CALL_OPTIONS
from animatediff.render.request import AnimateRequest


def with_seeds(request: AnimateRequest) -> AnimateRequest:
    """`request` with one real seed a clip; each -1 becomes a random one, a single one serves all clips."""
    seeds = request.seed if len(request.seed) > 1 else request.seed * request.num_clips
    drawn = tuple(secrets.randbits(32) if seed == -1 else seed for seed in seeds)
    return request.model_copy(update={"seed": drawn})


def with_defaults(request: AnimateRequest, inputs: Inputs, pipe: Any) -> AnimateRequest:
    """`request` with all that the loaded model decides filled in, so that later versions repeat the frames."""
    defaults = pipe.defaults
    recommended: dict[str, Any] = {
        "num_frames": defaults.num_frames,
        "width": defaults.width,
        "height": defaults.height,
        "steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
        "fps": defaults.fps,
        "scheduler": _scheduler(pipe),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
    }
    recommended |= settings_from(request, inputs, pipe)
    return request.model_copy(update={k: v for k, v in recommended.items() if getattr(request, k) in (None, AUTO)})


def check_travels(request: AnimateRequest) -> None:
    """Raise UserError for a text at a frame that one of the clips does not have; all are checked before the first."""
    for index in range(request.num_clips):
        if isinstance(prompt := request.prompt_of(index), PromptTravel):
            prompt.check(request.num_frames or 1)


def _scheduler(pipe: Any) -> str | None:
    """The name of the sampler in use, if it has one: of the base model's own settings there may be none."""
    from animatediff.sampling.schedulers import scheduler_name

    try:
        return scheduler_name(pipe.recommended.scheduler or type(pipe.scheduler).__name__)
    except UserError:
        return None


def call_arguments(request: AnimateRequest) -> dict[str, Any]:
    """Arguments of the pipeline's call, but for images and videos, of a clip with every value filled in."""
    import torch

    arguments: dict[str, Any] = {argument: getattr(request, name) for name, argument in CALL_OPTIONS.items()}
    return {
        **arguments,
        "prompt": request.prompt_of(),
        "negative_prompt": request.negative_prompt[0] or None,  # SDXL was trained with zeros there, not with ""
        "generator": torch.Generator().manual_seed(request.seed[0]),
    }
