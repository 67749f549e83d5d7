"""A video whose movement the clip takes, and nothing of its looks (`sampling.motion_from`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.batches import clips_of, for_clips, stacked
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting, Suggestion
from animatediff.pipelines.conditions.video import video_latents, video_size
from animatediff.pipelines.parts import LoadedParts
from animatediff.sampling.controls import active_timesteps
from animatediff.sampling.motion_from import MotionSource, chosen_modules, signal_shares

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class MotionFromCondition(Condition):
    """Frames of a video, or of one a clip."""

    given: Any
    strength_of_motion: float
    start: float
    end: float
    blocks: str
    each: int = 1
    """Clips of each prompt."""
    num_frames: int | None = None
    suggestion: Suggestion | None = None
    frames: Tensor | None = None
    """(1 or b, 3, f, height, width) in 0..1, or latents; set when fitted."""

    @classmethod
    def of(cls, call: Arguments, parts: LoadedParts) -> MotionFromCondition | None:
        """The video of a call. Raises UserError for what is no video, and for a model that it cannot be noised for."""
        if call.motion_from is None:
            return None
        clips = clips_of(call.motion_from)
        try:
            num_frames, size = video_size(clips[0], parts.base.vae_scale_factor)
        except UserError as error:
            raise UserError(f"`motion_from`: {error}") from None
        if num_frames < 2:
            raise UserError("`motion_from`: a single frame does not move; give a video of 2 frames or more")
        if call.motion_from_start >= call.motion_from_end:
            raise UserError(
                f"motion_from_start={call.motion_from_start:g} is not before motion_from_end={call.motion_from_end:g}"
            )
        signal_shares(parts.base.scheduler)
        if parts.attachment is not None:
            chosen_modules(parts.attachment.adapter, call.motion_from_blocks)
        if not parts.text_encoders:
            raise UserError(
                "`motion_from` goes through the model with an empty prompt, and this pipeline has no text encoder to "
                "encode it; load one"
            )
        return cls(
            given=call.motion_from,
            strength_of_motion=call.motion_from_strength,
            start=call.motion_from_start,
            end=call.motion_from_end,
            blocks=call.motion_from_blocks,
            each=call.num_videos_per_prompt or 1,
            num_frames=num_frames,
            suggestion=Suggestion(size, num_frames),
        )

    def fitted(self, clip: ClipShape) -> Self:
        if clip.num_frames < 2:
            raise UserError("`motion_from`: a clip of 1 frame does not move; make `num_frames` 2 or more")
        given = stacked(clips_of(self.given), clip.width, clip.height, "motion_from", clip.num_frames)
        if given.shape[2] < clip.num_frames:
            raise UserError(
                f"`motion_from` has {given.shape[2]} frames, but the clip has {clip.num_frames} (`num_frames`); leave "
                "`num_frames` out, or make it fewer"
            )
        given = for_clips(given[:, :, : clip.num_frames], clip.num_clips, self.each, "`motion_from`")
        if given.shape[1] == clip.channels and tuple(given.shape[-2:]) != clip.latent_size:
            raise UserError(
                f"latents of `motion_from` must be {clip.latent_size} for this clip, got {tuple(given.shape[-2:])}"
            )
        return replace(self, frames=given)

    def check_steps(self, timesteps: Tensor) -> None:
        if not active_timesteps(timesteps, self.start, self.end):
            raise UserError(
                f"`motion_from` acts in no step: no whole one of {len(timesteps)} lies between {self.start:g} and "
                f"{self.end:g} of them (`motion_from_start`, `motion_from_end`); set them further apart, or take more"
            )

    def prepare(self, setting: Setting) -> Prepared:
        if self.strength_of_motion == 0:
            return Prepared()
        assert self.frames is not None, "fitted before"
        after_frame = setting.callbacks.of("encode")
        shape = setting.clip.latents
        latents = video_latents(setting.parts.vae, self.frames, shape, setting.device, after_frame)
        return Prepared(motion=self.source(setting, latents))

    def source(self, setting: Setting, latents: Tensor) -> MotionSource:
        """The movement of encoded videos, (b, c, f, h, w)."""
        assert setting.parts.attachment is not None, "checked when the job was made"
        return MotionSource(
            latents=latents,
            noise=setting.noise.to(latents),
            given=setting.empty_prompt(len(latents)),
            modules=frozenset(chosen_modules(setting.parts.attachment.adapter, self.blocks)),
            alphas_cumprod=signal_shares(setting.schedule.scheduler),
            active=setting.schedule.between(self.start, self.end),
            strength=self.strength_of_motion,
        )
