"""A video to begin with: its latents, noised part of the way (SDEdit, arXiv 2108.01073)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.batches import clips_of, for_clips, stacked
from animatediff.media.images import LATENT_CHANNELS
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting, Suggestion
from animatediff.pipelines.vae import encode_images

if TYPE_CHECKING:
    from typing_extensions import Self

VIDEO_STRENGTH = 0.6
"""Fraction of the steps by which a video is changed where the call does not say."""


@dataclass(frozen=True, kw_only=True)
class VideoCondition(Condition):
    """Frames that sampling begins with."""

    video: Any
    strength: float
    each: int = 1
    """Clips of each prompt."""
    suggestion: Suggestion | None = None
    frames: Tensor | None = None
    """(1 or b, 3, f, height, width) in 0..1, or latents; set when fitted, None where nothing of them is left."""

    @classmethod
    def of(cls, call: Arguments, vae_scale_factor: int, *, begins: bool = False) -> VideoCondition | None:
        """The video of a call, if there is one. Raises UserError for a strength without a video.

        begins: another condition takes the strength where there is no video.
        """
        strength = video_strength(call, begins=begins)
        if call.video is None:
            return None
        num_frames, size = video_size(clips_of(call.video)[0], vae_scale_factor)
        each = call.num_videos_per_prompt or 1
        return cls(video=call.video, strength=strength, each=each, suggestion=Suggestion(size, num_frames))

    def fitted(self, clip: ClipShape) -> Self:
        if self.strength >= 1:
            return self
        return replace(self, frames=video_tensor(self.video, clip.latents, (clip.height, clip.width), self.each))

    def prepare(self, setting: Setting) -> Prepared:
        if self.frames is None:
            return Prepared()
        after_frame = setting.callbacks.of("encode")
        return Prepared(
            init_latents=video_latents(
                setting.parts.vae, self.frames, setting.clip.latents, setting.device, after_frame
            )
        )


def video_strength(call: Arguments, *, begins: bool = False) -> float:
    """Fraction of the steps by which a video is changed. Raises UserError for one without a video or latents.

    begins: an image is where sampling begins without them.
    """
    if call.strength is not None and call.video is None and call.latents is None and not begins:
        raise UserError(
            f"strength={call.strength:g} is of a video to start from, and none is given; add `video`, or an image "
            "that PIA animates (`image_mode` pia)"
        )
    return VIDEO_STRENGTH if call.strength is None else call.strength


def video_size(video: Any, vae_scale_factor: int) -> tuple[int, tuple[int, int]]:
    """Number of frames of a video that is given to a call, and its (width, height) in pixels.

    Raises UserError for what is no video, or has no frames.
    """
    if isinstance(video, Sequence) and not isinstance(video, str) and len(video):
        first = video[0]
        if isinstance(first, Image.Image):
            return len(video), first.size
        if isinstance(first, np.ndarray) and first.ndim == 3:
            return len(video), (first.shape[1], first.shape[0])
    if isinstance(video, np.ndarray) and video.ndim == 4 and len(video):
        return len(video), (video.shape[2], video.shape[1])
    if isinstance(video, Tensor) and video.ndim in (4, 5) and video.numel():
        num_frames = video.shape[0] if video.ndim == 4 else video.shape[2]
        factor = vae_scale_factor if video.shape[-4 if video.ndim == 5 else -3] == LATENT_CHANNELS else 1
        return num_frames, (video.shape[-1] * factor, video.shape[-2] * factor)
    raise UserError(
        "video takes a list of PIL images, an array (f, h, w, 3), or a tensor (f, c, h, w) or (b, c, f, h, w), of at "
        f"least one frame; got {type(video).__name__}; read files with animatediff.media.read_video"
    )


def video_tensor(video: Any, shape: tuple[int, ...], size: tuple[int, int], each: int = 1) -> Tensor:
    """The frames of a clip of `shape` (b, c, f, h, w): (1 or b, 3, f, height, width) in 0..1, or latents.

    size: (height, width); each: clips of each prompt. Raises UserError for too few frames, or latents of another size.
    """
    num_clips, channels, num_frames, *latent_size = shape
    given = stacked(clips_of(video), size[1], size[0], "video", num_frames)[:, :, :num_frames]
    if given.shape[2] < num_frames:
        raise UserError(f"the video has {given.shape[2]} frames, but num_frames={num_frames}; leave it out, or fewer")
    given = for_clips(given, num_clips, each, "a video")
    if given.shape[1] == channels and list(given.shape[-2:]) != latent_size:
        raise UserError(f"latents of a video must be {tuple(latent_size)} for this clip, got {tuple(given.shape[-2:])}")
    return given


def video_latents(
    vae: Any, frames: Tensor, shape: tuple[int, ...], device: Any, after_frame: Callable[[int, int], None]
) -> Tensor:
    """Encode frames of `video_tensor` to latents of `shape`; `after_frame(done, of how many)` follows each frame."""
    if frames.shape[1] != shape[1]:
        flat = encode_images(vae, rearrange(frames, "b c f h w -> (b f) c h w"), device, after_frame)
        frames = rearrange(flat, "(b f) c h w -> b c f h w", b=len(frames))
    return frames.to(device).expand(shape)
