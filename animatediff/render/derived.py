"""Settings that follow from several inputs or weights, and contradict each other: which one counts, in a warning."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from animatediff.render.inputs import Inputs
from animatediff.render.request import AnimateRequest

logger = logging.getLogger(__name__)

SAME_SHAPE = 0.02
"""Share by which two proportions may differ and still count as one: sizes are rounded to pixels."""


def warn_of_contradictions(request: AnimateRequest, inputs: Inputs, pipe: Any) -> None:
    """Warn of inputs that disagree in shape or rate, and of few-step weights that want other settings."""
    for line in (*_shapes(request, inputs), *_rates(inputs), *_few_steps(request, pipe)):
        logger.warning("%s", line)


def _videos(inputs: Inputs) -> dict[str, Any]:
    """The videos of a request by setting, the one that decides length, shape and rate first."""
    found: dict[str, Any] = {} if inputs.video is None else {"`video`": inputs.video}
    controlled = inputs.controlnet_videos
    for number, given in enumerate(controlled):
        if not isinstance(given, Mapping):
            found[f"`controlnet_video` {number + 1}" if len(controlled) > 1 else "`controlnet_video`"] = given
    return found


def _mover(inputs: Inputs) -> dict[str, Any]:
    """The video whose movement is taken: of its shape only where nothing else has one."""
    return {} if inputs.motion_from is None else {"`motion_from`": inputs.motion_from}


def _shapes(request: AnimateRequest, inputs: Inputs) -> Iterator[str]:
    if request.width is not None and request.height is not None:
        return
    sizes = {name: video.size for name, video in _videos(inputs).items()}
    sizes |= {f"the image of frame {frame}": image.size for frame, image in inputs.images}
    sizes |= {name: video.size for name, video in _mover(inputs).items()}
    if len(sizes) < 2:
        return
    (chosen, size), *others = sizes.items()
    for name, other in others:
        if abs(other[0] * size[1] / (other[1] * size[0]) - 1) > SAME_SHAPE:
            yield (
                f"{name} is {other[0]} x {other[1]}, but {chosen} is {size[0]} x {size[1]}: the clip has the shape of "
                f"{chosen}, and others are brought to it (`resize`); `width` and `height` choose another"
            )
            return


def _rates(inputs: Inputs) -> Iterator[str]:
    videos = {name: video for name, video in _videos(inputs).items() if not getattr(video, "held", False)}
    videos |= _mover(inputs)
    if len(videos) < 2:
        return
    (chosen, first), *others = videos.items()
    for name, other in others:
        if abs(other.fps - first.fps) > 1e-3 * first.fps:
            yield (
                f"{name} has {other.fps:g} frames a second, but {chosen} has {first.fps:g}: frames go together one by "
                f"one, so they drift apart; `video_fps` takes both at one rate"
            )
            return


def _few_steps(request: AnimateRequest, pipe: Any) -> Iterator[str]:
    """Weights made for few steps that want different samplers, or another than the one that is given."""
    from animatediff.weights.lora.few_steps import few_steps

    sampler = getattr(pipe, "sampler", None)
    if sampler is None:
        return
    family = pipe.family
    acting = {name: few for name, few in sampler.few_steps.items() if name not in sampler.disabled}
    if family is not None and few_steps(family.recommended) is not None:
        acting = {f"the motion module ({family.title})": family.recommended, **acting}
    if not acting:
        return
    (*_, last) = acting.items()
    name, counts = last
    for other, wanted in acting.items():
        if wanted.scheduler != counts.scheduler and None in (request.scheduler, request.steps):
            yield (
                f"{other} takes {few_steps(wanted)}, but {name} {few_steps(counts)}: the latter counts, unless "
                "`scheduler`, `steps` and `guidance_scale` are given"
            )
            return
    given = None if request.scheduler is None else _short(request.scheduler)
    if given is not None and given != counts.scheduler and None in (request.steps, request.guidance_scale):
        yield (
            f"`scheduler` is {given}, but {name} was made for {few_steps(counts)}; what is left out of `steps` and "
            "`guidance_scale` is as for that, so give them too"
        )


def _short(scheduler: str) -> str:
    from animatediff.errors import UserError
    from animatediff.sampling.schedulers import scheduler_name

    try:
        return scheduler_name(scheduler)
    except UserError:
        return scheduler
