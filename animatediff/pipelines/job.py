"""A job: everything that one call samples, complete and checked before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import frame_curve
from animatediff.media.images import size_like
from animatediff.motion import Attachment
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions import Condition, Suggestion, conditions_of
from animatediff.pipelines.conditions.ip_adapter import has_ip_adapter
from animatediff.pipelines.output import Defaults
from animatediff.pipelines.parts import LoadedParts, check_parts, guidance_width, is_sdxl
from animatediff.pipelines.upscale import check_upscale
from animatediff.pipelines.windows import ContextWindows
from animatediff.prompts import PromptTravel
from animatediff.sampling import FreeInit, draw_noise, one_generator_each
from animatediff.sampling.schedulers import check_scheduler
from animatediff.sampling.timesteps import check_beginning

logger = logging.getLogger(__name__)

DECODE_CHUNK_SIZE = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """Clips to sample. Made by `Job.of`, which checks every value against the loaded parts and the others."""

    call: Arguments
    """Arguments of the call as they were given; values that it left open are resolved in the fields below."""
    clip: ClipShape
    prompts: Sequence[str | PromptTravel]
    """One a clip."""
    negatives: Sequence[str] | None
    """One a clip; None where the call has none."""
    windows: ContextWindows
    free_init: FreeInit
    motion_scale: Tensor | None
    """(f,) factor of the motion modules at each frame; None is 1 everywhere."""
    conditions: Sequence[Condition]
    generators: Sequence[torch.Generator]
    """One a clip."""
    steps: int
    guidance_scale: float
    guidance_inside: bool
    """Whether the UNet takes the guidance scale as an embedding, without negative prompts (models distilled by LCM)."""
    strength: float
    """Fraction of the steps that are made: 1 begins at pure noise."""
    decode_chunk_size: int

    @classmethod
    def of(cls, call: Arguments, parts: LoadedParts) -> Job:
        """Complete and check a call. Raises UserError for the first value that does not fit."""
        motion = _attached(parts)
        _check_base(parts)
        defaults = parts.defaults
        prompts, negatives = _prompts(call), _negatives(call)
        conditions = conditions_of(call, parts)
        clip = _clip_shape(call, parts, defaults, [c.suggestion for c in conditions], num_clips=len(prompts))
        steps = defaults.num_inference_steps if call.num_inference_steps is None else call.num_inference_steps
        _check_texts(prompts, negatives, clip.num_frames)
        check_clip_skip(call.clip_skip, parts)
        conditions = [condition.fitted(clip) for condition in conditions]
        limits = [condition.max_frames for condition in conditions if condition.max_frames is not None]
        windows = ContextWindows.of(
            call,
            clip.num_frames,
            default_length=defaults.window,
            max_positions=min([motion.adapter.numerics.max_positions, *limits]),
        )
        check_scheduler(parts.base.scheduler, steps)
        strength = min((c.strength for c in conditions), default=1.0)
        check_beginning(parts.base.scheduler, steps, strength)
        _check_latents(call, clip)
        check_upscale(call, steps, parts.base.scheduler)
        scales = torch.tensor(frame_curve(call.motion_scale, clip.num_frames, "motion_scale"))
        return cls(
            call=call,
            clip=clip,
            prompts=prompts,
            negatives=negatives * len(prompts) if negatives is not None and len(negatives) == 1 else negatives,
            windows=windows,
            free_init=FreeInit(
                iterations=call.freeinit,
                filter=call.freeinit_filter,
                spatial_stop=call.freeinit_ds,
                temporal_stop=call.freeinit_dt,
            ),
            motion_scale=None if scales.eq(1).all() else scales,
            conditions=conditions,
            generators=one_generator_each(call.generator, len(prompts)),
            steps=steps,
            guidance_scale=defaults.guidance_scale if call.guidance_scale is None else call.guidance_scale,
            guidance_inside=_guidance_inside(call, parts),
            strength=strength,
            decode_chunk_size=call.decode_chunk_size or DECODE_CHUNK_SIZE,
        )

    @property
    def guidance(self) -> bool:
        """Whether negative prompts are rendered too (classifier-free guidance)."""
        return self.guidance_scale > 1 and not self.guidance_inside

    def draw(self) -> Tensor:
        """New noise (b, c, f, h, w), float32, on the CPU."""
        return draw_noise(
            self.clip.latents,
            self.generators,
            kind=self.call.noise,
            window=self.windows.length,
            overlap=self.windows.overlap,
        )

    def first_pass(self) -> Job:
        """The job without its upscaling."""
        return replace(self, call=replace(self.call, upscale=None))

    def second_call(self, latents: Tensor, height: int, width: int) -> Arguments:
        """Arguments of the second pass, which begins with `latents` (b, c, f, h, w) of the first, enlarged."""
        return replace(
            self.call,
            upscale=None,
            video=latents,
            strength=self.call.upscale_strength,
            num_inference_steps=self.call.upscale_steps or self.steps,
            num_frames=self.clip.num_frames,
            height=height,
            width=width,
            latents=None,
            freeinit=1,  # it is about pure noise, which this pass does not begin with
        )


def _attached(parts: LoadedParts) -> Attachment:
    if parts.attachment is None:
        raise UserError("no motion module is loaded, so frames would not know of each other; call load_motion_module")
    return parts.attachment


def _check_base(parts: LoadedParts) -> None:
    """Raise UserError where the base model says something that sampling over frames does not carry out."""
    base: Any = parts.base
    check_parts(base.unet, base.vae, getattr(base, "text_encoder_2", None), ip_adapter=has_ip_adapter(base.unet))
    parts.sampler.check()


def _guidance_inside(call: Arguments, parts: LoadedParts) -> bool:
    """Whether guidance is inside the UNet; settings that have no effect then are said."""
    inside = guidance_width(parts.unet) is not None
    for name in ("negative_prompt", "guidance_rescale"):
        value = getattr(call, name)
        if inside and value and any(value if isinstance(value, list | tuple) else [value]):
            logger.warning("`%s` has no effect: this base model (distilled by LCM) has its guidance inside", name)
    return inside


def _prompts(call: Arguments) -> list[str | PromptTravel]:
    """Prompts as a list, with mappings of frames to texts as `PromptTravel`."""
    prompt: Any = call.prompt
    listed = [prompt] if isinstance(prompt, (str, Mapping, PromptTravel)) else list(prompt)
    for one in listed:
        if not isinstance(one, (str, Mapping, PromptTravel)):
            raise UserError(f"a prompt is a text, or a mapping of frames to texts; got {one!r}")
    if not listed:
        raise UserError("there is no prompt: give a text, or a list of at least one")
    return [PromptTravel(one) if isinstance(one, Mapping) else one for one in listed]


def _negatives(call: Arguments) -> list[str] | None:
    given = call.negative_prompt
    return None if given is None else [given] if isinstance(given, str) else list(given)


def _check_texts(prompts: Sequence[str | PromptTravel], negatives: Sequence[str] | None, num_frames: int) -> None:
    if negatives is not None and len(negatives) not in (1, len(prompts)):
        raise UserError(f"{len(prompts)} prompts want 1 or {len(prompts)} negative prompts, got {len(negatives)}")
    for prompt in prompts:
        if isinstance(prompt, PromptTravel):
            prompt.check(num_frames)


def _clip_shape(
    call: Arguments, parts: LoadedParts, defaults: Defaults, suggestions: Sequence[Suggestion | None], *, num_clips: int
) -> ClipShape:
    """Size and length as asked for, else as the first condition with a size suggests, else as usual.

    Without a size the clip has the proportions that are suggested and the usual area.
    """
    num_frames, height, width = call.num_frames, call.height, call.width
    suggestion = next((found for found in suggestions if found is not None), None)
    if suggestion is not None:
        area = defaults.width * defaults.height
        width, height = size_like(suggestion.size, area, width=width, height=height)
        num_frames = suggestion.num_frames if num_frames is None else num_frames
    return ClipShape(
        num_clips=num_clips,
        num_frames=defaults.num_frames if num_frames is None else num_frames,
        height=defaults.height if height is None else height,
        width=defaults.width if width is None else width,
        channels=parts.unet.config["in_channels"],
        factor=parts.base.vae_scale_factor,
    )


def _check_latents(call: Arguments, clip: ClipShape) -> None:
    if call.latents is None:
        return
    if call.noise != "default":
        raise UserError(f"latents are given, and noise={call.noise!r} says how to draw them; give one of the two")
    if call.latents.shape != clip.latents:
        raise UserError(
            f"latents must be (b, c, f, h, w) = {clip.latents} for this call, got {tuple(call.latents.shape)}"
        )


def check_clip_skip(clip_skip: int | None, parts: LoadedParts) -> None:
    """Raise UserError unless the text encoders have more layers than are passed over.

    SDXL reads the last layer but one in any case, SD 1.x the last.
    """
    configs: list[Any] = [encoder.config for encoder in parts.text_encoders]
    fewest = min(config.num_hidden_layers for config in configs)
    most = fewest - 1 - int(is_sdxl(parts.base))
    if clip_skip is not None and not 0 <= clip_skip <= most:
        raise UserError(f"clip_skip must be 0 to {most} with the text encoder of this model, got {clip_skip}")
