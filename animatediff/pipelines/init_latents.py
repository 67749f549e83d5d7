"""From the video of a call to the latents that denoising begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.images import LATENT_CHANNELS, as_tensor, size_like
from animatediff.pipelines.output import Defaults
from animatediff.pipelines.vae import encode_pictures
from animatediff.sampling import check_strength

VIDEO_STRENGTH = 0.6
"""Share of the steps by which a video is changed where the call does not say."""


def clip_size(
    defaults: Defaults,
    num_frames: int | None,
    height: int | None,
    width: int | None,
    *,
    picture: tuple[int, int] | None,
    video: tuple[int, tuple[int, int]] | None,
) -> tuple[int, int, int]:
    """Frames, height and width of a clip, in pixels: as asked for, else of its video or picture, else as usual.

    picture: (width, height); video: as of `video_size`. Without a size the clip has their shape and the usual area.
    """
    length, like = (defaults.num_frames, picture) if video is None else video
    if like is not None:
        width, height = size_like(like, defaults.width * defaults.height, width=width, height=height)
    return (
        length if num_frames is None else num_frames,
        defaults.height if height is None else height,
        defaults.width if width is None else width,
    )


def video_strength(video: Any, strength: float | None, *, freeinit: int) -> float:
    """Share of the steps by which a video is changed.

    Raises UserError for one out of range, without a video, or less than 1 where the clip is sampled several times.
    """
    if strength is not None and video is None:
        raise UserError(f"strength={strength:g} is of a video to start from, and none is given; add video")
    strength = VIDEO_STRENGTH if strength is None else strength
    check_strength(strength)
    if video is not None and strength < 1 and freeinit > 1:
        raise UserError(
            f"freeinit={freeinit} samples from noise alone, and strength={strength} leaves something of the video in "
            "it; take freeinit=1 or strength=1"
        )
    return strength


def video_size(video: Any, vae_scale_factor: int) -> tuple[int, tuple[int, int]]:
    """How many frames a video has that is given to a call, and its (width, height) in pixels.

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


def video_tensor(video: Any, shape: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """The frames of a clip of `shape` (b, c, f, h, w): (1 or b, 3, f, height, width) in 0..1, or latents.

    size: (height, width). Raises UserError for too few frames, or latents of another size.
    """
    num_clips, channels, num_frames, *latent_size = shape
    given = as_tensor(video, size[1], size[0], "video")[:, :, :num_frames]
    if given.shape[2] < num_frames:
        raise UserError(f"the video has {given.shape[2]} frames, but num_frames={num_frames}; leave it out, or fewer")
    if given.shape[0] not in (1, num_clips):
        raise UserError(f"{num_clips} clips want a video for all of them, or {num_clips}; got {given.shape[0]}")
    if given.shape[1] == channels and list(given.shape[-2:]) != latent_size:
        raise UserError(f"latents of a video must be {tuple(latent_size)} for this clip, got {tuple(given.shape[-2:])}")
    return given


def video_latents(
    vae: Any, frames: Tensor, shape: tuple[int, ...], device: Any, after_frame: Callable[[int, int], None]
) -> Tensor:
    """Latents of `shape` of what `video_tensor` returned; `after_frame(done, of how many)` follows each frame."""
    if frames.shape[1] != shape[1]:
        flat = encode_pictures(vae, rearrange(frames, "b c f h w -> (b f) c h w"), device, after_frame)
        frames = rearrange(flat, "(b f) c h w -> b c f h w", b=len(frames))
    return frames.to(device).expand(shape)
