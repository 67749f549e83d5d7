"""A job: everything that one call samples, complete and checked before anything is computed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import frame_curve
from animatediff.media.images import size_like
from animatediff.memory.measures import InUse
from animatediff.motion import Attachment
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape, check_bounds
from animatediff.pipelines.conditions import Condition, Suggestion, conditions_of
from animatediff.pipelines.conditions.ip_adapter import has_ip_adapter
from animatediff.pipelines.extras import attention_arguments, pag_of
from animatediff.pipelines.output import Defaults
from animatediff.pipelines.parts import LoadedParts, check_parts, guidance_width, is_sdxl
from animatediff.pipelines.stream_checks import check_stream, without_end
from animatediff.pipelines.texts import Texts
from animatediff.pipelines.upscale import check_upscale
from animatediff.pipelines.windows import ContextWindows
from animatediff.sampling import FreeInit, Schedule, draw_noise, one_generator_each
from animatediff.sampling.fast import OFF, full_steps
from animatediff.sampling.features import check_blocks
from animatediff.sampling.perturbed import PAG
from animatediff.sampling.schedulers import check_scheduler

logger = logging.getLogger(__name__)

DECODE_CHUNK_SIZE = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """Clips to sample. Made by `Job.of`, which checks every value against the loaded parts and the others."""

    call: Arguments
    """Arguments of the call as they were given; values that it left open are resolved in the fields below."""
    clip: ClipShape
    texts: Texts
    """One a clip."""
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
    pag: PAG | None
    """Perturbed-attention guidance; None is off."""
    lora_factor: float
    """Factor of all LoRAs in this call."""
    attention: Mapping[str, Any] | None
    """Further arguments of the attention processors."""
    decode_chunk_size: int
    fast: Callable[[int], frozenset[int] | None] | None
    """Number of steps -> those that leave layers or the negative prompt out; None makes all steps whole."""
    endless: bool = False
    """Whether frames come without end; behind the clip's last they are conditioned as that one is."""
    saving: InUse = field(default_factory=InUse)
    """Measures against too little memory, which may grow while the clip is rendered."""

    @classmethod
    def of(cls, call: Arguments, parts: LoadedParts, *, endless: bool = False) -> Job:
        """Complete and check a call. Raises UserError for the first value that does not fit.

        endless: frames without end; the clip's length is then up to where its prompts and curves change.
        """
        motion = _attached(parts)
        _check_base(parts)
        defaults = parts.defaults
        steps = defaults.num_inference_steps if call.num_inference_steps is None else call.num_inference_steps
        if endless:
            call = without_end(call, steps)
        texts = Texts.of(call, sdxl=is_sdxl(parts.base))
        conditions = conditions_of(call, parts)
        suggestions = [_of_latents(call, parts.base.vae_scale_factor), *(c.suggestion for c in conditions)]
        length = next((c.num_frames for c in conditions if c.num_frames is not None), defaults.num_frames)
        clip = _clip_shape(call, parts, replace(defaults, num_frames=length), suggestions, num_clips=texts.num_clips)
        texts.check(clip.num_frames)
        check_clip_skip(call.clip_skip, parts)
        _check_steps(call)
        conditions = [condition.fitted(clip) for condition in conditions]
        limits = [condition.max_frames for condition in conditions if condition.max_frames is not None]
        windows = ContextWindows.of(
            call,
            clip.num_frames,
            default_length=defaults.window,
            max_positions=min([motion.adapter.numerics.max_positions, *limits]),
            steps=steps,
            endless=endless,
        )
        if windows.streams:
            check_stream(call, parts.base.scheduler, endless=endless)
        check_scheduler(parts.base.scheduler, steps, timesteps=call.timesteps, sigmas=call.sigmas)
        strength = _strength(call, conditions)
        timesteps = schedule_of(call, copy.deepcopy(parts.base.scheduler), steps, strength, "cpu").begin()
        for condition in conditions:
            condition.check_steps(timesteps)
        _check_latents(call, clip)
        check_upscale(call, steps, parts.base.scheduler)
        lora_factor, attention = attention_arguments(call, parts.unet)
        scales = torch.tensor(frame_curve(call.motion_scale, clip.num_frames, "motion_scale"))
        return cls(
            call=call,
            clip=clip,
            texts=texts,
            windows=windows,
            free_init=FreeInit(
                iterations=call.freeinit,
                filter=call.freeinit_filter,
                order=call.freeinit_order,
                fast=call.freeinit_fast,
                spatial_stop=call.freeinit_ds,
                temporal_stop=call.freeinit_dt,
            ),
            motion_scale=None if scales.eq(1).all() else scales,
            conditions=conditions,
            generators=one_generator_each(call.generator, texts.num_clips),
            steps=steps,
            guidance_scale=defaults.guidance_scale if call.guidance_scale is None else call.guidance_scale,
            guidance_inside=_guidance_inside(call, parts),
            strength=strength,
            pag=pag_of(call, parts),
            lora_factor=lora_factor,
            attention=attention,
            decode_chunk_size=call.decode_chunk_size or DECODE_CHUNK_SIZE,
            fast=_fast(call, parts, steps, strength),
            endless=endless,
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

    @property
    def at_once(self) -> tuple[int, int, int, int, int]:
        """(b, c, f, h, w) of the latents that are there at once: of all frames, or of a queue's."""
        batch, channels, num_frames, height, width = self.clip.latents
        return batch, channels, self.steps if self.windows.streams else num_frames, height, width

    def first_pass(self) -> Job:
        """The job without its upscaling, and without what is done to finished frames alone."""
        return replace(self, call=replace(self.call, upscale=None, color_match=False))

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
            motion_from=None,  # its movement is in the frames already
            timesteps=None,
            sigmas=None,
            enforce_inference_steps=False,
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


def _fast(
    call: Arguments, parts: LoadedParts, steps: int, strength: float
) -> Callable[[int], frozenset[int] | None] | None:
    """The plan of fast mode for a schedule of any length; None where it is off, or the clip has too few steps."""
    if call.fast == OFF:
        return None
    check_blocks(parts.unet)
    made = steps if call.enforce_inference_steps else int(steps * strength)
    return partial(full_steps, call.fast) if full_steps(call.fast, made) is not None else None


def _strength(call: Arguments, conditions: Sequence[Condition]) -> float:
    """Fraction of the steps that are made: of a video, or of latents that are noised already."""
    if call.latents is not None and call.strength is not None:
        return call.strength
    return min((condition.strength for condition in conditions), default=1.0)


def schedule_of(call: Arguments, scheduler: Any, steps: int, strength: float, device: Any, **more: Any) -> Schedule:
    """The timesteps of a call."""
    return Schedule(
        scheduler=scheduler,
        num_steps=steps,
        device=device,
        strength=strength,
        exactly=call.enforce_inference_steps,
        end=call.denoising_end or 1.0,
        own_timesteps=call.timesteps,
        own_sigmas=call.sigmas,
        **more,
    )


def _of_latents(call: Arguments, factor: int) -> Suggestion | None:
    """Length and size of latents that are given."""
    if call.latents is None or call.latents.ndim != 5:
        return None
    *_, num_frames, height, width = call.latents.shape
    return Suggestion((width * factor, height * factor), num_frames, exact=True)


def _check_steps(call: Arguments) -> None:
    for name in ("timesteps", "sigmas"):
        given = getattr(call, name)
        if given is not None and any(a <= b for a, b in pairwise(given)):
            raise UserError(f"`{name}` fall from step to step, got {list(given)}")
        if given is not None and call.freeinit > 1 and call.freeinit_fast:
            raise UserError(
                f"`freeinit_fast` takes fewer steps at first, and `{name}` name them; leave one of them out"
            )
    if call.upscale is not None and call.denoising_end is not None:
        raise UserError(
            "`denoising_end` leaves noise in the latents, and `upscale` decodes them; leave one of them out"
        )
    if call.timesteps is not None and call.sigmas is not None:
        raise UserError("`timesteps` and `sigmas` are given; give one of the two")
    if call.enforce_inference_steps and (call.timesteps is not None or call.sigmas is not None):
        raise UserError("`enforce_inference_steps` lays out a longer schedule; leave `timesteps` and `sigmas` out")


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
        if suggestion.exact:
            width, height = width or suggestion.size[0], height or suggestion.size[1]
        width, height = size_like(suggestion.size, area, width=width, height=height)
        num_frames = suggestion.num_frames if num_frames is None else num_frames
    num_frames = defaults.num_frames if num_frames is None else num_frames
    width, height = width or defaults.width, height or defaults.height
    check_bounds(num_frames, width, height, call.upscale)
    return ClipShape(
        num_clips=num_clips,
        num_frames=num_frames,
        height=height,
        width=width,
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
    if call.video is not None and call.strength != 1:
        raise UserError("`latents` and `video` are given, and both are where sampling begins; give one of the two")
    if call.strength is not None and call.strength < 1 and call.freeinit > 1:
        raise UserError(
            "FreeInit begins with noise alone, and `latents` with a `strength` do not; leave one of them out"
        )


def check_clip_skip(clip_skip: int | None, parts: LoadedParts) -> None:
    """Raise UserError unless the text encoders have more layers than are passed over.

    SDXL reads the last layer but one in any case, SD 1.x the last.
    """
    configs: list[Any] = [encoder.config for encoder in parts.text_encoders]
    if not configs:
        if clip_skip is not None:
            raise UserError("`clip_skip` is of the text encoder, and this pipeline has none")
        return
    fewest = min(config.num_hidden_layers for config in configs)
    most = fewest - 1 - int(is_sdxl(parts.base))
    if clip_skip is not None and not 0 <= clip_skip <= most:
        raise UserError(f"clip_skip must be 0 to {most} with the text encoder of this model, got {clip_skip}")
